"""Which topic's records are understood and applied how.

A kind of record is described by its `Route`; whoever adds a topic adds a row to `ROUTES`,
or names a handler of their own in AUTOPILOT_EVENT_HANDLERS.
"""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from scheduling import messages
from scheduling.conf import message_settings
from scheduling.domain.actors import CONSUMER
from scheduling.domain.challenges import Reading
from scheduling.domain.commands import Command, CommandResult
from scheduling.domain.errors import SchedulingError
from scheduling.domain.events import TransitionEvent
from scheduling.domain.plan import Finding
from scheduling.domain.records import Record
from scheduling.services.apply_challenge import Applied, Verdict, apply_challenges
from scheduling.services.apply_transitions import apply_transitions
from scheduling.services.commands import handle_command, queue_answer
from scheduling.services.unproven import Proven
from scheduling.services.upstream import read_upstream
from scheduling.topics import (
    CHALLENGE_UPDATE,
    COMMAND,
    NOTIFICATION_CREATE,
    NOTIFICATION_UPDATE,
    PHASE_TRANSITION,
)

Apply = Callable[[Sequence[Any], datetime, Proven], "list[Outcome]"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one record, as the inbox keeps it."""

    name: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class IncomingEvent:
    """A record as a handler of one's own gets it: validated, its envelope opened.

    payload: the envelope's JSON object.
    said_at: the envelope's timestamp, aware UTC.
    """

    record: Record
    payload: Mapping[str, Any]
    said_at: datetime


# Called in the transaction that notes the record as handled; UnusableMessageError sets
# the record aside. What the handler of a topic of its own returns stands in the inbox;
# beside ours, what ours says stands there.
EventHandler = Callable[[IncomingEvent], str | None]


def _as_told(contents: Sequence[Any]) -> Sequence[Any]:
    """Return what records say: nothing else has to be asked."""
    return contents


def _nothing_to_answer(record: Record, error: SchedulingError, now: datetime) -> None:
    """Answer nobody."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """How the records of one kind are handled.

    read: a record to what it says; raises UnusableMessageError.
    subject: what the record is about. Records about one subject are applied one after
        the other in the order received; others may be applied together.
    apply: carries out what several records of different subjects say, inside the
        caller's transaction; one outcome for each.
    complete: asks neighbours for what records leave out; outside any transaction.
    answer_refusal: answers a record that could not be handled, in the transaction that
        sets it aside.
    handlers: what else is called for each record, in the same transaction as `apply`.
    """

    read: Callable[[Record], Any]
    subject: Callable[[Any], Hashable]
    apply: Apply
    complete: Callable[[Sequence[Any]], Sequence[Any]] = _as_told
    answer_refusal: Callable[[Record, SchedulingError, datetime], None] = _nothing_to_answer
    handlers: tuple[EventHandler, ...] = field(default=())


# --- Challenges -----------------------------------------------------------------------
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


def _challenge_route(read: Callable[[Record], Reading]) -> Route:
    """Return the route of a topic that tells of challenges."""
    return Route(
        read=read, subject=_challenge_of, apply=_apply_readings, complete=read_upstream
    )


# --- Transitions ----------------------------------------------------------------------
def _transition_of(event: TransitionEvent) -> Hashable:
    """Return what an event is about."""
    return "transition", event.identity


def _apply_events(
    events: Sequence[TransitionEvent], now: datetime, proven: Proven
) -> list[Outcome]:
    """Apply transitions that were published."""
    heard = apply_transitions(events, now=now, proven=proven)
    return [Outcome(name=one) for one in heard]


# --- Commands -------------------------------------------------------------------------
def _all_commands(_: Command) -> Hashable:
    """Return one subject for all: commands are carried out in the order received."""
    return "command"


def _apply_commands(
    commands: Sequence[Command], now: datetime, proven: Proven
) -> list[Outcome]:
    """Carry commands out and answer them."""
    results = [handle_command(command, now=now, proven=proven) for command in commands]
    return [
        Outcome(
            name="done" if one.is_success else "declined",
            detail=one.message if one.is_success else f"{one.code}: {one.message}",
        )
        for one in results
    ]


def _answer_refused_command(record: Record, error: SchedulingError, now: datetime) -> None:
    """Answer a record that is no well-formed command, where it can be joined to it."""
    correlation_id = messages.find_correlation_id(record)
    if not correlation_id:
        return
    result = CommandResult(
        command=messages.find_given_command(record),
        correlation_id=correlation_id,
        message=error.detail,
        code=error.code,
    )
    queue_answer(result, key=correlation_id, now=now)


ROUTES: dict[str, Route] = {
    PHASE_TRANSITION: Route(
        read=messages.read_phase_transition, subject=_transition_of, apply=_apply_events
    ),
    CHALLENGE_UPDATE: _challenge_route(messages.read_challenge_update),
    NOTIFICATION_CREATE: _challenge_route(messages.read_notification_create),
    NOTIFICATION_UPDATE: _challenge_route(messages.read_notification_update),
    COMMAND: Route(
        read=messages.read_command,
        subject=_all_commands,
        apply=_apply_commands,
        answer_refusal=_answer_refused_command,
    ),
}


# --- Handlers of one's own ------------------------------------------------------------
def routes() -> Mapping[str, Route]:
    """Return the routes of every topic that is consumed: ours, and what is plugged in.

    Raises:
        ImproperlyConfigured: AUTOPILOT_EVENT_HANDLERS names what can't be imported.
    """
    named = message_settings().event_handlers
    return _with_handlers(tuple(sorted(named.items()))) if named else ROUTES


@functools.cache
def _with_handlers(named: tuple[tuple[str, str], ...]) -> Mapping[str, Route]:
    """Return our routes with these handlers, by topic and dotted path."""
    found = dict(ROUTES)
    for topic, path in named:
        handler = _import_handler(path)
        known = found.get(topic)
        found[topic] = (
            replace(known, handlers=(*known.handlers, handler))
            if known
            else _own_route(topic, handler)
        )
    return found


def _import_handler(path: str) -> EventHandler:
    """Return the handler of that dotted path.

    Raises:
        ImproperlyConfigured: There is none.
    """
    try:
        handler: EventHandler = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"AUTOPILOT_EVENT_HANDLERS: {error}") from error
    if not callable(handler):
        raise ImproperlyConfigured(f"AUTOPILOT_EVENT_HANDLERS: {path} can't be called")
    return handler


def _own_route(topic: str, handler: EventHandler) -> Route:
    """Return the route of a topic that only a handler of one's own knows."""
    return Route(
        read=functools.partial(open_envelope, topic),
        subject=_key_of,
        apply=lambda events, _, __: [
            Outcome(name="handled", detail=str(handler(event) or "")) for event in events
        ],
    )


def open_envelope(topic: str, record: Record) -> IncomingEvent:
    """Return a record with its envelope opened.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    envelope = messages.read_envelope(topic, record.value)
    return IncomingEvent(
        record=record, payload=envelope.payload, said_at=envelope.timestamp
    )


def _key_of(event: IncomingEvent) -> Hashable:
    """Return what keeps records in order: their key, else their partition."""
    record = event.record
    return record.topic, record.partition if record.key is None else record.key


def check_topics(topics: Sequence[str]) -> None:
    """Refuse, at the start, to consume a topic that nobody here handles.

    Raises:
        ImproperlyConfigured: Names the topics without a route.
    """
    known = routes()
    unknown = [topic for topic in topics if topic not in known]
    if unknown:
        raise ImproperlyConfigured(f"no route for the topics {', '.join(unknown)}")
