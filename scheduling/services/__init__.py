"""The Python API: what programs in this process call (contract, section 3).

These functions are an edge: they read the clock once and pass it down. The verbs below
them live one a file.
"""

from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from scheduling.domain.actors import Actor
from scheduling.domain.errors import JobNotCancellableError, JobNotFoundError
from scheduling.domain.phases import PhaseData
from scheduling.queries import list_jobs, show_job
from scheduling.services.cancel import cancel_transition
from scheduling.services.schedule import schedule_transition
from scheduling.services.update import replace_from_phase_data


def schedule_phase_transition(
    phase_data: PhaseData | Mapping[str, object], *, actor: Actor
) -> str:
    """Schedule a transition and return its job id; the live one's if it is the same.

    Raises:
        DuplicateJobError: The identity has a live job at another instant.
        All else that `services.schedule.schedule_transition` raises.
    """
    now = timezone.now()
    return schedule_transition(phase_data, actor=actor, now=now).job.job_id


def cancel_scheduled_transition(job_id: str, *, actor: Actor, reason: str) -> bool:
    """Cancel a job; False when it is unknown or can no longer be cancelled.

    Raises:
        OperationNotPermittedError, InvalidRequestError, ServiceUnavailableError: As
            `services.cancel.cancel_transition`.
    """
    try:
        cancel_transition(job_id=job_id, actor=actor, reason=reason, now=timezone.now())
    except (JobNotFoundError, JobNotCancellableError):
        return False
    return True


def update_scheduled_transition(
    job_id: str, phase_data: PhaseData | Mapping[str, object], *, actor: Actor
) -> str:
    """Replace a job by one with other data; return the new job's id.

    Raises:
        All that `services.update.replace_from_phase_data` raises; the old job is then
        as it was.
    """
    return replace_from_phase_data(
        job_id=job_id, data=phase_data, actor=actor, now=timezone.now()
    ).job_id


def get_all_scheduled_transitions(**filters: Any) -> list[dict[str, Any]]:
    """Return transitions in due order, as the API shows them; live ones by default.

    Args:
        filters: The API's filters in snake_case (`project_id`, `status`, …).

    Raises:
        InvalidRequestError: A filter is unknown or its value is wrong.
    """
    return [show_job(job) for job in list_jobs(filters, now=timezone.now())]
