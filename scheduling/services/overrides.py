"""The overrides of jobs by name: what one would do to each, and doing it.

The doors that let a person choose jobs first and the deed afterwards come here; the deeds
are those of the other services.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice

from scheduling.domain.actors import Actor, Operation
from scheduling.domain.changes import Conflict, ScheduleChange
from scheduling.domain.errors import (
    DuplicateJobError,
    JobNotRetryableError,
    JobNotRunnableError,
    SchedulingError,
)
from scheduling.domain.lifecycle import LIVE, TransitionStatus
from scheduling.domain.phases import PhaseData, format_instant
from scheduling.models import ScheduledTransition
from scheduling.services.adjust import find_conflicts, to_the_millisecond
from scheduling.services.cancel import (
    Precondition,
    any_state,
    cancel_transition,
    check_cancellable,
)
from scheduling.services.retry import check_retryable, retry_transition
from scheduling.services.run_now import check_runnable, run_transition_now
from scheduling.services.schedule import schedule_transition, window_error
from scheduling.services.unproven import get_job, rivalry
from scheduling.services.update import Update, check_updatable, update_transition

Identity = tuple[str, str, str]
# Identities that are asked for in one query.
CHUNK = 500


class Override(StrEnum):
    """What a person may do to a job.

    SCHEDULE makes a new job for the transition of one that is final.
    """

    SCHEDULE = "schedule"
    RESCHEDULE = "reschedule"
    CANCEL = "cancel"
    RUN_NOW = "run_now"
    RETRY = "retry"

    @property
    def operation(self) -> Operation:
        """What the role has to allow."""
        return _OPERATIONS[self]

    @property
    def needs_instant(self) -> bool:
        """Whether it has to be told when."""
        return self in {Override.SCHEDULE, Override.RESCHEDULE}


_OPERATIONS = {
    Override.SCHEDULE: Operation.SCHEDULE,
    Override.RESCHEDULE: Operation.UPDATE,
    Override.CANCEL: Operation.CANCEL,
    Override.RUN_NOW: Operation.RUN_NOW,
    Override.RETRY: Operation.RETRY,
}


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What an override would do to one job now.

    due_at: when it would be due; None where no instant was given.
    refusal: why it would not be done; None where it would.
    is_idle: nothing would change.
    """

    job: ScheduledTransition
    due_at: datetime | None = None
    refusal: SchedulingError | None = None
    is_idle: bool = False


def applicable(job: ScheduledTransition) -> list[Override]:
    """Return the overrides that the job's own status allows."""
    return [override for override in Override if _refusal(override, job) is None]


def foresee(
    override: Override,
    jobs: Sequence[ScheduledTransition],
    *,
    due_at: Callable[[ScheduledTransition], datetime] | None,
    now: datetime,
) -> list[Prospect]:
    """Return what the override would do to each of the jobs, in their order.

    Few queries, whatever the number of jobs; nothing is locked or changed.

    Args:
        due_at: When each shall be due, for the overrides that need an instant; None
            while nobody has said it.
    """
    rivals: dict[Identity, ScheduledTransition] = {}
    if override is not Override.CANCEL and override is not Override.RESCHEDULE:
        rivals = _live_jobs(jobs)
    return [
        _foresee_one(
            override, job, rivals.get(_identity(job)), due_at and due_at(job), now=now
        )
        for job in jobs
    ]


def conflicts_of(prospects: Iterable[Prospect], *, now: datetime) -> Sequence[Conflict]:
    """Return how the instants that jobs would get conflict, as an adjustment finds it.

    An override refuses none of them: an operator may know better. What is refused for
    another reason, or changes nothing, takes no part.
    """
    changes = {
        _identity(one.job): ScheduleChange(
            project_id=one.job.project_id,
            phase_id=one.job.phase_id,
            kind=one.job.kind,
            new_due_at=to_the_millisecond(one.due_at),
            phase_type_name=one.job.phase_type_name,
        )
        for one in prospects
        if one.due_at is not None and one.refusal is None and not one.is_idle
    }
    return find_conflicts(list(changes.values()), now=now) if changes else ()


def carry_out(
    override: Override,
    job_id: str,
    *,
    actor: Actor,
    reason: str,
    now: datetime,
    due_at: datetime | None = None,
    precondition: Precondition = any_state,
) -> ScheduledTransition:
    """Do it to one job, and return the job that there is then.

    Args:
        due_at: For the overrides that need an instant.
        precondition: Asked of the job first; what it raises goes to the caller.

    Raises:
        ValueError: The override needs an instant and has none.
        JobNotFoundError: No such job.
        All that the override's own service raises.
    """
    if override.needs_instant and due_at is None:
        raise ValueError(f"{override.value} needs an instant")
    if override is Override.RESCHEDULE:
        return update_transition(
            job_id=job_id,
            update=Update(end_time=due_at),
            actor=actor,
            now=now,
            reason=reason,
            precondition=precondition,
        )
    if override is Override.SCHEDULE:
        job = get_job(job_id)
        precondition(job)
        _check_schedulable(job)
        data = _data_of(job, due_at=due_at or job.due_at, operator=actor.name)
        return schedule_transition(data, actor=actor, now=now, reason=reason).job
    return _SERVICES[override](
        job_id=job_id, actor=actor, reason=reason, now=now, precondition=precondition
    )


_SERVICES: dict[Override, Callable[..., ScheduledTransition]] = {
    Override.CANCEL: cancel_transition,
    Override.RUN_NOW: run_transition_now,
    Override.RETRY: retry_transition,
}


def _data_of(job: ScheduledTransition, *, due_at: datetime, operator: str) -> PhaseData:
    """Return the phase data of a job's transition at another instant."""
    return PhaseData(
        project_id=job.project_id,
        phase_id=job.phase_id,
        challenge_id=job.challenge_id,
        phase_type_name=job.phase_type_name,
        state=job.kind,
        end_time=due_at,
        operator=operator.partition(":")[2] or operator,
        project_status=job.project_status,
        metadata=job.metadata,
        date=job.date,
    )


def _check_schedulable(job: ScheduledTransition) -> None:
    """Refuse a job that is live: it is moved, not scheduled a second time.

    Raises:
        DuplicateJobError: It is.
    """
    if job.current_status in LIVE:
        raise DuplicateJobError(job.job_id)


def check_not_demanded(job: ScheduledTransition, *, now: datetime) -> None:
    """Refuse a job that somebody ran already, and that only waits for a worker.

    Raises:
        JobNotRunnableError: It is.
    """
    if (
        job.current_status is TransitionStatus.SCHEDULED
        and job.forced_at is not None
        and job.next_attempt_at is None
        and job.ready_at <= now
    ):
        raise JobNotRunnableError("somebody ran it already: it waits for a worker")


_CHECKS: dict[Override, Callable[[ScheduledTransition], None]] = {
    Override.SCHEDULE: _check_schedulable,
    Override.RESCHEDULE: check_updatable,
    Override.CANCEL: check_cancellable,
    Override.RUN_NOW: check_runnable,
    Override.RETRY: check_retryable,
}


def _refusal(override: Override, job: ScheduledTransition) -> SchedulingError | None:
    """Return why the job's own status does not allow it; None where it does."""
    try:
        _CHECKS[override](job)
    except SchedulingError as error:
        return error
    return None


def _foresee_one(
    override: Override,
    job: ScheduledTransition,
    rival: ScheduledTransition | None,
    due_at: datetime | None,
    *,
    now: datetime,
) -> Prospect:
    """Return what it would do to one job.

    Args:
        rival: The live job of the same transition, which may be the job itself.
    """
    refusal = (
        _refusal(override, job)
        or _rivalry(override, job, rival, due_at)
        or _demand(override, job, now=now)
    )
    is_idle = False
    if refusal is None and due_at is not None:
        is_idle = due_at == (rival or job).due_at and (
            override is Override.RESCHEDULE or rival is not None
        )
        refusal = None if is_idle else window_error(due_at, now=now)
    return Prospect(job=job, due_at=due_at, refusal=refusal, is_idle=is_idle)


def _demand(
    override: Override, job: ScheduledTransition, *, now: datetime
) -> SchedulingError | None:
    """Return why it need not be run; None for what nobody ran, or another override."""
    if override is not Override.RUN_NOW:
        return None
    try:
        check_not_demanded(job, now=now)
    except JobNotRunnableError as error:
        return error
    return None


def _rivalry(
    override: Override,
    job: ScheduledTransition,
    rival: ScheduledTransition | None,
    due_at: datetime | None,
) -> SchedulingError | None:
    """Return why another live job of the transition forbids it; None where none does."""
    if rival is None or rival.pk == job.pk:
        return None
    if override is Override.SCHEDULE:
        if rival.due_at == due_at:
            return None
        return DuplicateJobError(rival.job_id, format_instant(rival.due_at))
    error = JobNotRunnableError if override is Override.RUN_NOW else JobNotRetryableError
    return rivalry(rival, error)


def _live_jobs(jobs: Iterable[ScheduledTransition]) -> dict[Identity, ScheduledTransition]:
    """Return the live jobs of the same transitions, by identity."""
    wanted = {_identity(job) for job in jobs}
    remaining = iter(sorted(wanted))
    found: dict[Identity, ScheduledTransition] = {}
    while chunk := list(islice(remaining, CHUNK)):
        rows = ScheduledTransition.objects.live().filter(
            project_id__in={project for project, _, _ in chunk},
            phase_id__in={phase for _, phase, _ in chunk},
        )
        found |= {_identity(row): row for row in rows if _identity(row) in wanted}
    return found


def _identity(job: ScheduledTransition) -> Identity:
    """Return what at most one live job may have."""
    return job.project_id, job.phase_id, job.state
