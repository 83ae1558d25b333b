"""The Python API: what programs in this process call (contract, section 3).

These functions are an edge: they read the clock once and pass it down. The verbs below
them live one a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils import timezone

from scheduling.domain.actors import CONSUMER, Actor
from scheduling.domain.adjustment_request import read_adjustment
from scheduling.domain.challenges import Reading, Scope
from scheduling.domain.changes import OnConflict, ScheduleChange
from scheduling.domain.errors import JobNotCancellableError, JobNotFoundError
from scheduling.domain.phases import PhaseData
from scheduling.messages import (
    read_given_command,
    read_told_transition,
    read_updated_challenge,
    show_command_result,
)
from scheduling.queries import list_jobs, show_job
from scheduling.services.adjust import adjust_schedules as adjust_as_asked
from scheduling.services.apply_challenge import apply_challenge as apply_reading
from scheduling.services.apply_transitions import apply_transitions
from scheduling.services.cancel import cancel_transition
from scheduling.services.commands import handle_command as carry_out
from scheduling.services.schedule import schedule_transition
from scheduling.services.unproven import searching_first
from scheduling.services.update import replace_from_phase_data
from scheduling.topics import CHALLENGE_UPDATE


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


def adjust_schedules(
    changes: Sequence[ScheduleChange | Mapping[str, object]],
    *,
    actor: Actor,
    dry_run: bool = False,
    on_conflict: OnConflict | str = OnConflict.REJECT,
    atomic: bool = True,
    reason: str = "schedule adjustment",
    operator: str | None = None,
    batch_id: str | None = None,
) -> dict[str, Any]:
    """Change many instants as one batch, or tell what would become of it.

    Args:
        changes: Of the API, as dataclass or as mapping with camelCase names.
        on_conflict: `reject`, `skip` or `shift`.
        atomic: Whether one error or refused conflict refuses all.
        reason: Why; a change may have its own.
        operator: Written into the new jobs.
        batch_id: Repeating an accepted batch changes nothing and returns its answer.

    Returns:
        The API's answer; where `success` is false nothing was changed, and `code` says
        why. In a dry run the ids of new jobs are None.

    Raises:
        InvalidRequestError, InvalidScheduleTimeError: The request can't be understood.
        All that `services.adjust.adjust_schedules` raises.
    """
    request = read_adjustment(
        {
            "changes": changes,
            "operator": operator,
            "updateReason": reason,
            "batchId": batch_id,
            "dryRun": dry_run,
            "onConflict": on_conflict,
            "atomic": atomic,
        }
    )
    return adjust_as_asked(request, actor=actor, now=timezone.now())


def handle_phase_transition(payload: Mapping[str, object]) -> str:
    """Apply a transition that somebody else published; return what became of it.

    Args:
        payload: Of `autopilot.phase.transition`, as JSON values.

    Raises:
        UnusableMessageError: It can't be understood; names each field and cause.
        ServiceUnavailableError: A job's outcome must be known first, and the topic can't
            be searched now.
    """
    now = timezone.now()
    event = read_told_transition(payload, said_at=now)
    (heard,) = searching_first(
        lambda proven: apply_transitions([event], now=now, proven=proven), now=now
    )
    return heard.value


def handle_challenge_update(payload: Mapping[str, object]) -> dict[str, Any]:
    """Apply what upstream tells of a challenge.

    Args:
        payload: Of `autopilot.challenge.update`, as JSON values.

    Returns:
        `verdict`, `counts` of transitions by finding, and `cancelled` job ids.

    Raises:
        UnusableMessageError, ServiceUnavailableError: As `handle_phase_transition`.
    """
    now = timezone.now()
    reading = Reading(
        challenge=read_updated_challenge(payload),
        source=CHALLENGE_UPDATE,
        scope=Scope.ENDS,
        said_at=now,
    )
    applied = searching_first(
        lambda proven: apply_reading(reading, actor=CONSUMER, now=now, proven=proven),
        now=now,
    )
    return {
        "verdict": applied.verdict.value,
        "counts": {finding.value: n for finding, n in applied.counts.items()},
        "cancelled": list(applied.cancelled),
    }


def handle_command(payload: Mapping[str, object]) -> dict[str, Any]:
    """Carry a command out; its answer is also sent on `autopilot.command.result`.

    Args:
        payload: Of `autopilot.command`, as JSON values.

    Returns:
        The answer's payload (contract, section 8).

    Raises:
        UnusableMessageError, ServiceUnavailableError: As `handle_phase_transition`.
    """
    now = timezone.now()
    command = read_given_command(payload)
    result = searching_first(
        lambda proven: carry_out(command, now=now, proven=proven), now=now
    )
    return show_command_result(result)
