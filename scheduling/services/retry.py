"""Try a failed job again: a new job with the same event."""

from datetime import datetime

from django.db import IntegrityError, transaction

from scheduling.adapters.clock import database_now
from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.errors import JobNotRetryableError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import PhaseData
from scheduling.models import ScheduledTransition
from scheduling.services.audit import record
from scheduling.services.cancel import Precondition, any_state, read_reason
from scheduling.services.schedule import insert_jobs, make_job_ids_unique, new_job
from scheduling.services.unproven import (
    check_no_rival,
    is_proven,
    lock_job,
    prove_outcome,
)

MOST_TRIES = 5


def retry_transition(
    *,
    job_id: str,
    actor: Actor,
    reason: str,
    now: datetime,
    precondition: Precondition = any_state,
) -> ScheduledTransition:
    """Make a new job with the failed one's event, ready at once; return it.

    Before the record is produced the topic is searched for the event.

    Args:
        precondition: Asked of the locked job first; what it raises goes to the caller.

    Raises:
        OperationNotPermittedError: The actor's role may not retry.
        InvalidRequestError: The reason is missing or blank.
        JobNotFoundError: No such job.
        JobNotRetryableError: It has not failed, was dealt with, or its identity has
            another live job.
        ServiceUnavailableError: An earlier attempt had an unknown outcome, and the topic
            can't be searched now.

    Source: contract, section 2.
    """
    authorize(actor, Operation.RETRY)
    reason = read_reason(reason)
    tries = 0
    while True:
        searched = prove_outcome(job_id, now=now)
        try:
            with transaction.atomic():
                job = lock_job(job_id)
                precondition(job)
                check_retryable(job)
                if is_proven(job, searched=searched):
                    return _add_successor(job, actor=actor, reason=reason, now=now)
        except IntegrityError:
            check_no_rival(job_id, JobNotRetryableError)
            # Another writer took the new job id in the same millisecond.
            tries += 1
            if tries == MOST_TRIES:
                raise


def check_retryable(job: ScheduledTransition) -> None:
    """Refuse what can't be retried.

    Raises:
        JobNotRetryableError: It has not failed, or was replaced already.
    """
    if job.current_status is not TransitionStatus.FAILED or job.replaced_by:
        raise JobNotRetryableError(
            f"job {job.job_id} is {job.told_status} and can't be retried",
            **job.as_obstacle(),
        )


def _add_successor(
    job: ScheduledTransition, *, actor: Actor, reason: str, now: datetime
) -> ScheduledTransition:
    """Add the new job, and note on the locked old one what replaced it."""
    new = new_job(
        PhaseData(
            project_id=job.project_id,
            phase_id=job.phase_id,
            challenge_id=job.challenge_id,
            phase_type_name=job.phase_type_name,
            state=job.kind,
            end_time=job.due_at,
            operator=job.operator,
            project_status=job.project_status,
            metadata=job.metadata,
            date=job.date,
        ),
        now=now,
    )
    new.event_id, new.event_at = job.event_id, job.event_at
    new.upstream_at, new.is_overridden = job.upstream_at, job.is_overridden
    new.forced_at = now
    # Ready by the clock that decides, whatever this host's says.
    new.ready_at = min(now, database_now())
    new.unproven_since = job.unproven_since or job.started_at or job.created_at
    new.replaces = job.job_id
    make_job_ids_unique([new])
    job.replaced_by, job.updated_at = new.job_id, now
    job.save(update_fields=["replaced_by", "updated_at"])
    record(
        "transition.retried",
        job,
        actor=actor,
        now=now,
        old=job.current_status,
        changes={"replacedBy": new.job_id},
        reason=reason,
    )
    insert_jobs([new], actor=actor, now=now, reason=reason)
    return new
