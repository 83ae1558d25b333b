"""Which topic's records are understood and applied how.

A kind of record is described by its `Route`; whoever adds a topic adds a row to `ROUTES`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from scheduling import messages
from scheduling.domain.actors import CONSUMER
from scheduling.domain.challenges import Reading
from scheduling.domain.plan import Finding
from scheduling.services.apply_challenge import Applied, Verdict, apply_challenges
from scheduling.topics import CHALLENGE_UPDATE, NOTIFICATION_CREATE, NOTIFICATION_UPDATE

Proven = Mapping[str, datetime | None]
Apply = Callable[[Sequence[Any], datetime, Proven], "list[Outcome]"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one record, as the inbox keeps it."""

    name: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Route:
    """How the records of one kind are handled.

    read: bytes to what they say; raises UnusableMessageError.
    subject: what the record is about. Records about one subject are applied one after
        the other in the order received; others may be applied together.
    apply: carries out what several records of different subjects say, inside the
        caller's transaction; one outcome for each.
    """

    read: Callable[[bytes | None], Any]
    subject: Callable[[Any], Hashable]
    apply: Apply


def _challenge_of(reading: Reading) -> Hashable:
    """Return what a reading is about."""
    return "challenge", reading.challenge.challenge_id


def _apply_readings(
    readings: Sequence[Reading], now: datetime, proven: Proven
) -> list[Outcome]:
    """Apply what upstream told of challenges."""
    applied = apply_challenges(readings, actor=CONSUMER, now=now, proven=proven)
    return [_outcome(one) for one in applied]


def _outcome(applied: Applied) -> Outcome:
    """Return what the inbox keeps of a reading that was applied."""
    if applied.verdict is Verdict.OVER:
        return Outcome(name=applied.verdict, detail=f"cancelled={len(applied.cancelled)}")
    counts = sorted(applied.counts.items())
    undated = [
        f"{one.expected.kind} of {one.expected.phase.phase_id}"
        for one in applied.differences
        if one.finding is Finding.UNDATED
    ]
    detail = " ".join(f"{finding}={count}" for finding, count in counts)
    if undated:
        detail += f" (no instant for {', '.join(undated)})"
    return Outcome(name=applied.verdict, detail=detail)


def _challenge_route(read: Callable[[bytes | None], Reading]) -> Route:
    """Return the route of a topic that tells of challenges."""
    return Route(read=read, subject=_challenge_of, apply=_apply_readings)


ROUTES: dict[str, Route] = {
    CHALLENGE_UPDATE: _challenge_route(messages.read_challenge_update),
    NOTIFICATION_CREATE: _challenge_route(messages.read_notification_create),
    NOTIFICATION_UPDATE: _challenge_route(messages.read_notification_update),
}


def check_topics(topics: Sequence[str]) -> None:
    """Refuse, at the start, to consume a topic that nobody here handles.

    Raises:
        ImproperlyConfigured: Names the topics without a route.
    """
    unknown = [topic for topic in topics if topic not in ROUTES]
    if unknown:
        raise ImproperlyConfigured(f"no route for the topics {', '.join(unknown)}")
