"""How a claim ends without an acknowledgement: renewed, given back, failed or rescued.

All say `WHERE claim_token = mine`, as `claims` does, and write their audit entry in the
same transaction.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from scheduling.adapters.claims import LEASE, ClaimedJob, engine_entry
from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import ScheduledTransition

LEASE_RAN_OUT = "its lease ran out"
ANSWER_LOST = "the answer to the claim was lost"
# About when jobs go on that wait for the broker, for the reader.
SHOWN_WAIT = timedelta(seconds=1)


def renew(token: uuid.UUID) -> set[int]:
    """Prolong the lease on all that the token holds; return the ids of those rows."""
    held = ScheduledTransition.objects.filter(claim_token=token)
    held.update(lease_until=database_now() + LEASE)
    return set(held.order_by().values_list("id", flat=True))


def give_back(
    token: uuid.UUID,
    jobs: Sequence[ClaimedJob],
    *,
    error: str,
    unproven: bool,
    wait: timedelta | None = None,
) -> None:
    """Put jobs back to scheduled without using up an attempt.

    Args:
        unproven: Whether the record may be on the topic all the same; the topic is then
            searched before anything else is done with the job.
        wait: How long to leave the jobs alone, and with them the later ones of their
            keys; without it they stay ready, for as soon as the broker is back.
    """
    with transaction.atomic():
        now = database_now()
        for row in _held(token, jobs):
            changes: dict[str, Any] = {"error": error[:500]}
            if unproven:
                _note_unknown_outcome(row)
                changes["unprovenSince"] = _shown(row.unproven_since)
            row.attempts -= 1
            row.next_attempt_at = now + (wait or SHOWN_WAIT)
            if wait:
                row.ready_at = max(row.ready_at, row.next_attempt_at)
            _release(row, now=now, error=error)
            _audit_row(row, "transition.given_back", now=now, changes=changes)


def _note_unknown_outcome(row: ScheduledTransition) -> None:
    """Note that this attempt, too, may have put the record on the topic.

    A first instant that stands already moves back by the least amount there is: whoever
    searched the topic for the earlier attempts sees by that that there was another one
    (services.unproven.is_proven).
    """
    row.unproven_since = (
        row.unproven_since - timedelta(microseconds=1)
        if row.unproven_since
        else row.started_at
    )


def disown(token: uuid.UUID) -> int:
    """Put back what a claim took whose answer never came; return how many jobs.

    Whoever asked for them knows none of them, and has published none.
    """
    with transaction.atomic():
        now = database_now()
        rows = _held(token, None)
        for row in rows:
            row.attempts -= 1
            _release(row, now=now, error=row.last_error)
            changes = {"error": ANSWER_LOST}
            _audit_row(row, "transition.given_back", now=now, changes=changes)
    return len(rows)


def fail_attempt(
    token: uuid.UUID, job: ClaimedJob, *, error: str, unproven: bool, wait: timedelta
) -> TransitionStatus | None:
    """End an attempt that counts: back to scheduled after `wait`, or failed for good.

    Returns:
        The new status, or None where the job is no longer held.
    """
    with transaction.atomic():
        now = database_now()
        for row in _held(token, [job]):
            if unproven:
                _note_unknown_outcome(row)
            changes = {"attempt": row.attempts, "error": error[:500]}
            if row.attempts >= row.max_attempts:
                _release(row, now=now, error=error, status=TransitionStatus.FAILED)
                _audit_row(row, "transition.failed", now=now, changes=changes)
            else:
                row.next_attempt_at = row.ready_at = now + wait
                changes["nextAttemptAt"] = _shown(row.next_attempt_at)
                _release(row, now=now, error=error)
                _audit_row(row, "transition.attempt_failed", now=now, changes=changes)
            return row.current_status
    return None


def rescue_abandoned() -> int:
    """Free the jobs whose owner is dead or let its lease run out; return how many.

    Their attempts had an unknown outcome. A death uses up no attempt: only a refusal of
    the record and a job timeout do (contract, section 2).
    """
    return sum(_rescue(token, reason=reason) for token, reason in _dead_claims().items())


def count_abandoned() -> int:
    """Return how many jobs `rescue_abandoned` would free now."""
    dead = list(_dead_claims())
    return ScheduledTransition.objects.filter(claim_token__in=dead).count() if dead else 0


def _dead_claims() -> dict[uuid.UUID, str]:
    """Return the tokens that nobody will act on any more, and why."""
    now = database_now()
    dead: dict[uuid.UUID, str] = {}
    for row in ScheduledTransition.objects.filter(status=TransitionStatus.RUNNING).only(
        "claim_token", "claimed_by", "started_at", "lease_until"
    ):
        if row.claim_token in dead or not (
            row.claim_token and row.started_at and row.lease_until
        ):
            continue
        if row.lease_until <= now:
            dead[row.claim_token] = LEASE_RAN_OUT
        elif Owner.parse(row.claimed_by).is_dead(claimed_at=row.started_at):
            dead[row.claim_token] = "its worker died"
    return dead


def _rescue(token: uuid.UUID, *, reason: str) -> int:
    """Free what the token holds, unless its owner renewed the lease meanwhile."""
    with transaction.atomic():
        now = database_now()
        rows = list(_held(token, None))
        if reason == LEASE_RAN_OUT:
            rows = [row for row in rows if row.lease_until and row.lease_until <= now]
        for row in rows:
            _note_unknown_outcome(row)
            row.attempts -= 1
            _release(row, now=now, error=reason)
            changes = {"error": reason, "unprovenSince": _shown(row.unproven_since)}
            _audit_row(row, "transition.rescued", now=now, changes=changes)
    return len(rows)


def _held(
    token: uuid.UUID, jobs: Sequence[ClaimedJob] | None
) -> Sequence[ScheduledTransition]:
    """Return the rows that the token still holds, locked."""
    rows = ScheduledTransition.objects.select_for_update().filter(claim_token=token)
    if jobs is not None:
        rows = rows.filter(id__in=[job.id for job in jobs])
    return list(rows.order_by("id"))


def _release(
    row: ScheduledTransition,
    *,
    now: datetime,
    error: str,
    status: TransitionStatus = TransitionStatus.SCHEDULED,
) -> None:
    """Save the row without its claim."""
    row.status = status
    row.claim_token = row.lease_until = None
    row.last_error = error[:500]
    row.updated_at = now
    row.finalized_at = now if status is TransitionStatus.FAILED else None
    row.save()


def _audit_row(
    row: ScheduledTransition, action: str, *, now: datetime, changes: dict[str, Any]
) -> None:
    """Write the audit entry of a released row."""
    engine_entry(
        row,
        action,
        now=now,
        old=TransitionStatus.RUNNING,
        new=row.current_status,
        changes=changes,
    ).save()


def _shown(instant: datetime | None) -> str | None:
    """Return the instant as the outside sees it."""
    return format_instant(instant) if instant else None
