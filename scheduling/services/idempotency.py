"""Requests that may be repeated: the first answer is kept and given again.

A request is taken before it is handled and its answer stored after. What lies between is
the services' own transaction: Kafka may be asked in it, so that one transaction around
all is not to be had. Where the process dies in between, the audit tells whether the
effect stands (`was_done`, `made_before`): then the repeated request is answered with what
it made, and otherwise handled afresh.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from scheduling.adapters.owner import Owner
from scheduling.domain.actors import Actor
from scheduling.domain.errors import ConflictError
from scheduling.domain.phases import PhaseData, format_instant
from scheduling.models import AuditEntry, IdempotencyKey
from scheduling.services.forget import forget
from scheduling.services.schedule import read_item

# How long an answer is kept (a client that repeats after that asks anew).
KEPT = timedelta(hours=24)
# No request is handled for so long; one that was is taken over by the next twin. On the
# host that handled it a dead process is noticed at once.
LEASE = timedelta(seconds=30)
BATCH = 1_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request under a key.

    actor: whose key it is, as the audit names the actor.
    fingerprint: see `IdempotencyKey`.
    """

    actor: str
    key: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A stored answer: status, body as it was sent, and the headers that belong to it."""

    status: int
    content: str
    headers: dict[str, str]


class Ticket(NamedTuple):
    """Says that its holder is the one to handle a request.

    began_at: when the request was first taken, by whichever try.
    is_repeated: whether an earlier try gave no answer: its effect may stand all the same.
    """

    row: int
    token: uuid.UUID
    began_at: datetime
    is_repeated: bool = False

    @property
    def name(self) -> str:
        """What all tries of the request have in common, and no other request has."""
        return f"request {self.row} of {self.began_at.isoformat()}"


def take(asked: Asked, *, now: datetime) -> Ticket | Answer | None:
    """Take the request to be handled, or return its answer.

    Returns:
        A ticket to store the answer with, where the caller is to handle the request; the
        answer, where it was handled; None, while somebody else handles it.

    Raises:
        ConflictError: The key was given with another request.
    """
    made = IdempotencyKey(
        actor=asked.actor,
        key=asked.key,
        fingerprint=asked.fingerprint,
        created_at=now,
        taken_at=now,
        owner=str(Owner.current()),
    )
    IdempotencyKey.objects.bulk_create([made], ignore_conflicts=True)
    return look(asked, now=now, made=made)


def look(
    asked: Asked, *, now: datetime, made: IdempotencyKey | None = None
) -> Ticket | Answer | None:
    """Return as `take` does, without adding a row; for whoever waits.

    Args:
        made: The row that the caller has just tried to add.
    """
    row = IdempotencyKey.objects.filter(actor=asked.actor, key=asked.key).first()
    if row is None:
        # Its first request failed, and may be made again.
        return None if made else take(asked, now=now)
    if made is not None and row.token == made.token:
        return Ticket(row.pk, row.token, row.created_at)
    if row.created_at <= now - KEPT:
        return _take_over(row, asked, now=now, is_afresh=True)
    if row.fingerprint != asked.fingerprint:
        raise ConflictError(
            "the Idempotency-Key was given with another request; use a new key"
        )
    if row.status is not None:
        return Answer(status=row.status, content=row.content, headers=row.headers)
    if _is_abandoned(row, now=now):
        return _take_over(row, asked, now=now, is_afresh=False)
    return None


def _is_abandoned(row: IdempotencyKey, *, now: datetime) -> bool:
    """Tell whether whoever took the request can't be handling it any more."""
    if row.taken_at <= now - LEASE:
        return True
    return Owner.parse(row.owner).is_dead(claimed_at=row.taken_at)


def _take_over(
    row: IdempotencyKey, asked: Asked, *, now: datetime, is_afresh: bool
) -> Ticket | None:
    """Take a row that nobody holds any more; None where another was faster.

    Args:
        is_afresh: What the row says is over; else somebody began with this request.
    """
    token = uuid.uuid4()
    created_at = now if is_afresh else row.created_at
    held = IdempotencyKey.objects.filter(pk=row.pk, token=row.token)
    taken = held.update(
        token=token,
        owner=str(Owner.current()),
        fingerprint=asked.fingerprint,
        created_at=created_at,
        taken_at=now,
        status=None,
        content="",
        headers={},
    )
    if not taken:
        return None
    return Ticket(row.pk, token, created_at, is_repeated=not is_afresh)


def was_done(ticket: Ticket | None, action: str, *, actor: Actor, **about: object) -> bool:
    """Tell whether the request had its effect in an earlier try, whose answer was lost.

    Args:
        ticket: The request's; None where it has no key.
        action: What the effect is called in the audit.
        about: Conditions for the audit entry, as a query has them.
    """
    if ticket is None or not ticket.is_repeated:
        return False
    entries = AuditEntry.objects.filter(
        at__gte=ticket.began_at, actor=actor.name, action=action, **about
    )
    return entries.exists()


def made_before(
    ticket: Ticket | None,
    items: Sequence[PhaseData | Mapping[str, object]],
    *,
    actor: Actor,
) -> dict[int, str]:
    """Return the job ids that an earlier try of the request made, by the items' index.

    Whatever became of those jobs since: their transitions were scheduled by that try.

    Args:
        ticket: The request's; None where it has no key.
        items: As `schedule_many` has them; what can't be understood made no job.
    """
    if ticket is None or not ticket.is_repeated:
        return {}
    wanted = {
        index: item
        for index, item in enumerate(map(read_item, items))
        if isinstance(item, PhaseData)
    }
    entries = AuditEntry.objects.filter(
        at__gte=ticket.began_at,
        actor=actor.name,
        action="transition.scheduled",
        project_id__in={item.project_id for item in wanted.values()},
    ).exclude(changes__has_key="replaces")
    made: dict[tuple[object, ...], str] = {}
    for *identity, changes, job_id in entries.order_by("id").values_list(
        "project_id", "phase_id", "state", "changes", "job_id"
    ):
        made.setdefault((*identity, changes.get("endTime")), job_id)
    found = {index: made.get(_asked_for(item)) for index, item in wanted.items()}
    return {index: job_id for index, job_id in found.items() if job_id is not None}


def _asked_for(item: PhaseData) -> tuple[object, ...]:
    """Return which transition an item schedules, and for when, as the audit has it."""
    at = format_instant(item.end_time)
    return item.project_id, item.phase_id, item.state.value, at


def store(ticket: Ticket, answer: Answer) -> None:
    """Keep the answer for whoever repeats the request.

    Whoever was taken for dead, and overtaken, stores nothing.
    """
    IdempotencyKey.objects.filter(pk=ticket.row, token=ticket.token).update(
        status=answer.status, content=answer.content, headers=answer.headers
    )


def let_go(ticket: Ticket) -> None:
    """Forget a request that is to be handled again when it is repeated."""
    IdempotencyKey.objects.filter(pk=ticket.row, token=ticket.token).delete()


def forget_old_answers(*, now: datetime) -> int:
    """Delete what is older than a day; return how many."""
    old = IdempotencyKey.objects.filter(created_at__lte=now - KEPT)
    return forget(old, order_by="created_at", size=BATCH)
