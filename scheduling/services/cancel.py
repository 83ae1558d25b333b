"""Cancel jobs: by a person, or on proof that nothing is left to publish."""

from collections.abc import Callable, Iterable
from datetime import datetime

from django.db import transaction

from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.errors import InvalidRequestError, JobNotCancellableError
from scheduling.domain.lifecycle import TransitionStatus, may_change
from scheduling.domain.phases import parse_reason
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.audit import entry
from scheduling.services.seen_upstream import seen_upstream
from scheduling.services.unproven import is_proven, lock_job, prove_outcome

# Asked of a job while its row is locked, so that nothing comes between the question and
# the change; it raises what refuses the job.
Precondition = Callable[[ScheduledTransition], None]


def any_state(job: ScheduledTransition) -> None:
    """Be content with the job as it is: the precondition of whoever has none."""


def read_reason(reason: object) -> str:
    """Return an operator's reason.

    Raises:
        InvalidRequestError: It is missing, blank, too long or no text.
    """
    if reason is None:
        raise InvalidRequestError([("reason", "is required")])
    try:
        return parse_reason(reason)
    except ValueError as error:
        raise InvalidRequestError([("reason", str(error))]) from None


def cancel_transition(
    *,
    job_id: str,
    actor: Actor,
    reason: str,
    now: datetime,
    precondition: Precondition = any_state,
) -> ScheduledTransition:
    """Cancel a job that is scheduled, expired or failed.

    Args:
        reason: Why, in the operator's words.
        now: Aware UTC instant at which the request arrived.
        precondition: Asked of the locked job first; what it raises goes to the caller.

    Raises:
        OperationNotPermittedError: The actor's role may not cancel.
        InvalidRequestError: The reason is missing or blank.
        JobNotFoundError: No such job.
        JobNotCancellableError: It is running, completed or cancelled, or became so.
        ServiceUnavailableError: An earlier attempt had an unknown outcome, and the topic
            can't be searched now.

    Source: contract, sections 2 and 4.
    """
    authorize(actor, Operation.CANCEL)
    reason = read_reason(reason)
    while True:
        searched = prove_outcome(job_id, now=now)
        with transaction.atomic():
            job = lock_job(job_id)
            precondition(job)
            check_cancellable(job)
            if not is_proven(job, searched=searched):
                continue
            cancel_locked(job, actor=actor, reason=reason, now=now)
        return job


def check_cancellable(job: ScheduledTransition) -> None:
    """Refuse what can't be cancelled.

    Raises:
        JobNotCancellableError: Its status does not allow it.
    """
    if not may_change(job.current_status, TransitionStatus.CANCELLED) or job.replaced_by:
        raise JobNotCancellableError(
            f"job {job.job_id} is {job.told_status} and can't be cancelled",
            **job.as_obstacle(),
        )


def cancel_locked(
    job: ScheduledTransition,
    *,
    actor: Actor,
    reason: str,
    now: datetime,
    action: str = "transition.cancelled",
    replaced_by: str = "",
    changes: dict[str, object] | None = None,
) -> None:
    """Cancel a job that the caller's transaction holds locked and found cancellable."""
    upstream_at = None
    if actor.is_person:
        upstream_at = job.upstream_at or seen_upstream(job)
    told = mark_cancelled(
        job,
        actor=actor,
        reason=reason,
        now=now,
        action=action,
        replaced_by=replaced_by,
        changes=changes,
        upstream_at=upstream_at,
    )
    job.save()
    told.save()


def mark_cancelled(
    job: ScheduledTransition,
    *,
    actor: Actor,
    reason: str,
    now: datetime,
    action: str,
    replaced_by: str,
    changes: dict[str, object] | None,
    upstream_at: datetime | None,
) -> AuditEntry:
    """Cancel a job in memory, and return the entry about it; the caller saves both.

    Args:
        upstream_at: The instant that upstream shows, which a person overrides here.
    """
    old = job.current_status
    changes = changes or {}
    if actor.is_person:
        job.is_overridden = True
        job.upstream_at = upstream_at
    if replaced_by:
        job.replaced_by = changes["replacedBy"] = replaced_by
    job.status = TransitionStatus.CANCELLED
    job.next_attempt_at = job.unproven_since = None
    job.finalized_at = job.updated_at = now
    return entry(action, job, actor=actor, now=now, old=old, changes=changes, reason=reason)


def cancel_scheduled(
    jobs: Iterable[ScheduledTransition], *, actor: Actor, reason: str, now: datetime
) -> list[str]:
    """Cancel those of the jobs that are scheduled, and return their ids.

    Called by automatisms on positive evidence. Jobs that run, or whose last attempt has
    an unknown outcome, are left to finish: nothing is known of them that would justify
    calling them unpublished.
    """
    cancelled = []
    with transaction.atomic():
        held = ScheduledTransition.objects.select_for_update().filter(
            pk__in=[job.pk for job in jobs],
            status=TransitionStatus.SCHEDULED,
            unproven_since=None,
        )
        for job in held.order_by("id"):
            cancel_locked(job, actor=actor, reason=reason, now=now)
            cancelled.append(job.job_id)
    return cancelled
