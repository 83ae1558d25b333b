"""Fire a job before its instant, or after it expired, because an operator says so."""

from datetime import datetime

from django.db import IntegrityError, transaction

from scheduling.adapters.clock import database_now
from scheduling.adapters.wake import wake
from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.errors import JobNotRunnableError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import ScheduledTransition
from scheduling.services.audit import record
from scheduling.services.cancel import Precondition, any_state, read_reason
from scheduling.services.unproven import (
    check_no_rival,
    get_job,
    is_proven,
    lock_job,
    prove_outcome,
)

RUNNABLE = frozenset({TransitionStatus.SCHEDULED, TransitionStatus.EXPIRED})
MOST_TRIES = 5


def run_transition_now(
    *,
    job_id: str,
    actor: Actor,
    reason: str,
    now: datetime,
    precondition: Precondition = any_state,
) -> ScheduledTransition:
    """Make a scheduled or expired job ready at once, exempt from order and age limit.

    Args:
        precondition: Asked of the locked job first; what it raises goes to the caller.

    Raises:
        OperationNotPermittedError: The actor's role may not run jobs.
        InvalidRequestError: The reason is missing or blank.
        JobNotFoundError: No such job.
        JobNotRunnableError: It is neither scheduled nor expired, or its identity has
            another live job.
        ServiceUnavailableError: An earlier attempt had an unknown outcome, and the topic
            can't be searched now.

    Source: contract, sections 2 and 4.
    """
    authorize(actor, Operation.RUN_NOW)
    reason = read_reason(reason)
    tries = 0
    while True:
        # What can't be run whatever the topic says is refused without asking it.
        job = get_job(job_id)
        precondition(job)
        check_runnable(job)
        searched = prove_outcome(job_id, now=now)
        try:
            with transaction.atomic():
                job = lock_job(job_id)
                precondition(job)
                check_runnable(job)
                if not is_proven(job, searched=searched):
                    continue
                return _demand(job, actor=actor, reason=reason, now=now)
        except IntegrityError:
            check_no_rival(job_id, JobNotRunnableError)
            # It has ended meanwhile.
            tries += 1
            if tries == MOST_TRIES:
                raise


def check_runnable(job: ScheduledTransition) -> None:
    """Refuse what can't be run.

    Raises:
        JobNotRunnableError: Its status does not allow it.
    """
    if job.current_status not in RUNNABLE:
        raise JobNotRunnableError(
            f"job {job.job_id} is {job.told_status} and can't be run", **job.as_obstacle()
        )


def _demand(
    job: ScheduledTransition, *, actor: Actor, reason: str, now: datetime
) -> ScheduledTransition:
    """Make the locked job ready now; its event tells the instant of the request."""
    old = job.current_status
    job.status = TransitionStatus.SCHEDULED
    job.forced_at = job.event_at = job.updated_at = now
    # Ready by the clock that decides, whatever this host's says.
    job.ready_at = min(now, database_now())
    job.next_attempt_at = job.finalized_at = job.unproven_since = None
    job.save()
    record(
        "transition.run_now",
        job,
        actor=actor,
        now=now,
        old=old,
        changes={"readyAt": format_instant(now)},
        reason=reason,
    )
    wake(now, now=now)
    return job
