"""Handle records exactly once: inbox row, effect and audit in one transaction.

Knows records and the inbox, and nothing of Kafka's client: the consumer hands the records
over. Whatever is wrong with one record never keeps its neighbours from being handled.
"""

import functools
import logging
import time
import traceback
import uuid
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar, ParamSpec

from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    transaction,
)
from django.db.models import Q

from scheduling import tracing
from scheduling.adapters.inserts import insert_rows, new_row
from scheduling.domain.errors import (
    Category,
    ConflictError,
    DeadLetterNotFoundError,
    DeadLetterSettledError,
    SchedulingError,
    ServiceUnavailableError,
)
from scheduling.domain.records import Record
from scheduling.log_context import bound_contextvars, ids_of
from scheduling.messages import UnusableMessageError
from scheduling.models import InboxMessage
from scheduling.services.routes import (
    Apply,
    Outcome,
    Route,
    open_envelope,
    routes,
)
from scheduling.services.set_aside import set_aside
from scheduling.services.shown import shown
from scheduling.services.unproven import Proven, searching_first

logger = logging.getLogger("autopilot.consumer")

# A neighbour that is out of reach: the same record is handled once it is back.
OUT_OF_REACH = (OperationalError, InterfaceError, ServiceUnavailableError)
# What `take` says of a dead letter: neither the record's fault nor a matter of luck.
TAKEN = (DeadLetterNotFoundError, DeadLetterSettledError)
# Of the errors that PostgreSQL counts as operational, the class that a statement itself
# may cause; and those of SQLite that it does not cause.
LIMIT_EXCEEDED = "54"
SQLITE_TROUBLES = tuple(
    f"SQLITE_{name}"
    for name in ("BUSY", "LOCKED", "FULL", "IOERR", "READONLY", "CANTOPEN", "NOMEM")
)
MOST_TRIES = 5
FIRST_WAIT_SECONDS = 0.05
DUPLICATE, REFUSED, FAILED = "duplicate", "refused", "failed"


class UnexpectedError(SchedulingError):
    """A record that failed for a reason nobody foresaw, each time it was tried."""

    code: ClassVar[str] = "unexpected_error"
    category: ClassVar[Category] = Category.SYSTEM


Refused = tuple[Record, SchedulingError]


@dataclass(frozen=True, kw_only=True)
class _Understood:
    """A record with what it says."""

    record: Record
    route: Route
    content: Any


def handle_records(
    records: Sequence[Record], *, now: datetime, is_stuck: bool = False
) -> None:
    """Handle records, each exactly once, those about one subject in their order.

    Returns once each is handled or set aside. May be called again with the same records
    whatever happened: what was done is not done twice.

    Args:
        now: Aware UTC instant at which the records were taken up.
        is_stuck: The database refused these records for long. Where it answers all the
            same, one of them is to blame, and is found and set aside.

    Raises:
        OperationalError, InterfaceError: The database is out of reach.
        ServiceUnavailableError: A job's outcome must be known first, and the topic can't
            be searched now.
    """
    understood, refused = _read(records)
    if refused:
        _note_refused(refused, now=now)
    for wave in _waves(understood):
        _handle_wave(wave, now=now, is_stuck=is_stuck)


def handle_again(
    record: Record,
    *,
    take: Callable[[], None],
    replay_of: uuid.UUID,
    now: datetime,
) -> None:
    """Handle a record that was set aside, as if just received.

    Args:
        take: Called first in the transaction of the record's effect, or in that which
            sets it aside again.

    Raises:
        ConflictError: Nobody here handles its topic any more.
        What `take` raises, and all that `handle_records` raises.
    """
    if record.topic not in routes():
        raise ConflictError(
            f"nobody here handles {record.topic}: is AUTOPILOT_EVENT_HANDLERS set?"
        )
    understood, refused = _read([record])
    for item in understood:
        try:
            again = functools.partial(_apply, [item], now=now, take=take)
            with _handling(item.record):
                _try_often(again, item.record)
        except (ServiceUnavailableError, *TAKEN):
            raise
        except SchedulingError as error:
            refused = [(record, error)]
    if refused:
        _set_aside(refused, now=now, take=take, replay_of=replay_of)


def _read(records: Sequence[Record]) -> tuple[list[_Understood], list[Refused]]:
    """Part records into those that are understood and those that can't be."""
    understood: list[_Understood] = []
    refused: list[Refused] = []
    known = routes()
    for record in records:
        route = known[record.topic]
        try:
            content = route.read(record)
        except UnusableMessageError as error:
            refused.append((record, error))
        except Exception as error:  # noqa: BLE001 -- it reads the same each time
            refused.append((record, _unexpected(record, error, "can't be read")))
        else:
            understood.append(_Understood(record=record, route=route, content=content))
    return understood, refused


def _completed(wave: Sequence[_Understood]) -> list[_Understood]:
    """Return the records with what they leave out, asked of neighbours."""
    groups: dict[Callable[..., Any], list[_Understood]] = defaultdict(list)
    for item in wave:
        groups[item.route.complete].append(item)
    completed = []
    for complete, group in groups.items():
        contents = complete([item.content for item in group])
        completed += [
            replace(item, content=content)
            for item, content in zip(group, contents, strict=True)
        ]
    return completed


def _waves(understood: Sequence[_Understood]) -> list[list[_Understood]]:
    """Part the records so that each part has at most one about each subject.

    The first part has the first record about each, the second the second, ….
    """
    waves: list[list[_Understood]] = []
    seen: dict[Hashable, int] = defaultdict(int)
    for item in understood:
        subject = item.route.subject(item.content)
        number = seen[subject]
        seen[subject] += 1
        if number == len(waves):
            waves.append([])
        waves[number].append(item)
    return waves


def _handle_wave(wave: Sequence[_Understood], *, now: datetime, is_stuck: bool) -> None:
    """Handle records of different subjects together, or else one by one."""
    # A job has to know which record asked for it, where that is traced.
    if len(wave) > 1 and not is_stuck and not tracing.is_on():
        try:
            _apply(wave, now=now)
        except OUT_OF_REACH:
            raise
        except Exception as error:  # noqa: BLE001 -- whose fault it is, is found out below
            logger.debug("%d records are handled one by one: %s", len(wave), type(error))
        else:
            return
    for item in wave:
        try:
            once = functools.partial(_apply, [item], now=now)
            with _handling(item.record):
                _try_often(once, item.record, is_stuck=is_stuck)
        except ServiceUnavailableError:
            raise
        except SchedulingError as error:
            _note_refused([(item.record, error)], now=now)


@contextmanager
def _handling(record: Record) -> Iterator[None]:
    """Let lines and traces tell which record is handled."""
    ids = record.log_ids
    attributes: dict[str, str | int] = {
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
    }
    if record.event_id:
        attributes["messaging.message.id"] = record.event_id
    with (
        tracing.handling_record(record.topic, record.trace_parent, attributes),
        bound_contextvars(**ids, **ids_of({"trace_id": tracing.current_trace_id()})),
    ):
        yield


def _try_often(act: Callable[[], None], record: Record, *, is_stuck: bool = False) -> None:
    """Do it, again where it fails unexpectedly.

    Raises:
        OUT_OF_REACH: A neighbour is out of reach.
        UnusableMessageError: A handler can't use the record.
        SchedulingError: It failed five times; an UnexpectedError where nobody foresaw it.
    """
    for attempt in range(1, MOST_TRIES + 1):
        try:
            return act()
        except Exception as error:
            is_foreseen = isinstance(error, (*OUT_OF_REACH, *TAKEN, UnusableMessageError))
            if is_foreseen and not (is_stuck and _is_to_blame(error)):
                raise
            if attempt == MOST_TRIES:
                if isinstance(error, SchedulingError):
                    raise
                raise _unexpected(record, error, "failed five times") from error
            name = type(error).__name__
            logger.warning(
                "%s failed (%s), attempt %d",
                record.place,
                name,
                attempt,
                extra=record.log_ids,
            )
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
    return None


def _unexpected(record: Record, error: Exception, what: str) -> UnexpectedError:
    """Return what is kept of an error that nobody foresaw, and log where it came from.

    What the error says may quote the record: only its kind is told.
    """
    name = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    where = " > ".join(f"{f.filename}:{f.lineno} {f.name}" for f in frames[-12:])
    logger.error("%s %s: %s at %s", record.place, what, name, where, extra=record.log_ids)
    return UnexpectedError(f"{what}: {name}")


def _is_to_blame(error: Exception) -> bool:
    """Tell whether the record causes the error: the database answers other questions.

    A lock that others hold, a full disk or a server that ends sessions are no fault of
    the record, however long they last.
    """
    if not isinstance(error, (OperationalError, InterfaceError)):
        return False
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None)
    if state is not None and not state.startswith(LIMIT_EXCEEDED):
        return False
    if getattr(cause, "sqlite_errorname", "").startswith(SQLITE_TROUBLES):
        return False
    connection.close()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (OperationalError, InterfaceError):
        return False
    return True


def _apply(
    items: Sequence[_Understood],
    *,
    now: datetime,
    take: Callable[[], None] | None = None,
) -> None:
    """Apply the records, with what they leave out, asked of neighbours.

    Jobs' outcomes are searched for first where that is needed.

    Args:
        take: Where given, the records are handled again: they stand in the inbox.
    """
    whole = _completed(items)
    searching_first(
        lambda proven: _retrying_races(
            _apply_in_transaction, whole, proven, now=now, take=take
        ),
        now=now,
    )


Arguments = ParamSpec("Arguments")


def _retrying_races(
    work: Callable[Arguments, None], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> None:
    """Do the work again where another writer took a row between our look and our insert.

    Raises:
        IntegrityError: It went wrong each time.
    """
    for attempt in range(1, MOST_TRIES + 1):
        try:
            return work(*args, **kwargs)
        except IntegrityError:
            if attempt == MOST_TRIES:
                raise
    return None


def _apply_in_transaction(
    items: Sequence[_Understood],
    proven: Proven,
    *,
    now: datetime,
    take: Callable[[], None] | None,
) -> None:
    """Apply the records that are new, and note each in the inbox, as one fact."""
    with transaction.atomic():
        if take is not None:
            take()
        known, events = _look_up([item.record for item in items])
        rows: list[InboxMessage] = []
        fresh: dict[Apply, list[_Understood]] = defaultdict(list)
        for item in items:
            record = item.record
            if record.position in known and take is None:
                continue
            if record.event_id and record.event_id in events:
                detail = f"event {record.event_id} was handled before"
                outcome = Outcome(name=DUPLICATE, detail=detail)
                rows.append(_inbox_row(record, outcome, now=now, event_id=""))
                continue
            events.add(record.event_id)
            fresh[item.route.apply].append(item)
        for apply, group in fresh.items():
            outcomes = apply([one.content for one in group], now, proven)
            _call_handlers(group)
            rows += [
                _inbox_row(one.record, outcome, now=now, event_id=one.record.event_id)
                for one, outcome in zip(group, outcomes, strict=True)
            ]
        if take is None:
            insert_rows(rows)
        else:
            _note_again(rows)


def _call_handlers(group: Sequence[_Understood]) -> None:
    """Call what else wants to hear of the records."""
    for item in group:
        for handler in item.route.handlers:
            handler(open_envelope(item.record.topic, item.record))


def _note_again(rows: Sequence[InboxMessage]) -> None:
    """Say in the inbox what became of records that were handled again."""
    for row in rows:
        InboxMessage.objects.filter(
            cluster_id=row.cluster_id,
            topic=row.topic,
            partition=row.partition,
            offset=row.offset,
        ).update(
            event_id=row.event_id,
            handled_at=row.handled_at,
            outcome=row.outcome,
            detail=row.detail,
        )


def _look_up(records: Sequence[Record]) -> tuple[set[tuple[str, int, int]], set[str]]:
    """Return which of the records, and which of their events, were handled before."""
    offsets: dict[tuple[str, int], list[int]] = defaultdict(list)
    for record in records:
        offsets[record.topic, record.partition].append(record.offset)
    wanted = Q()
    for (topic, partition), numbers in offsets.items():
        wanted |= Q(topic=topic, partition=partition, offset__in=numbers)
    known = InboxMessage.objects.filter(wanted, cluster_id=records[0].cluster_id)
    event_ids = {record.event_id for record in records} - {""}
    events = (
        set(
            InboxMessage.objects.filter(event_id__in=event_ids)
            .exclude(event_id="")
            .values_list("event_id", flat=True)
        )
        if event_ids
        else set()
    )
    return set(known.values_list("topic", "partition", "offset")), events


def _note_refused(refused: Sequence[Refused], *, now: datetime) -> None:
    """Set records aside that had no effect, and say so once each."""
    _retrying_races(_set_aside, refused, now=now)


def _set_aside(
    refused: Sequence[Refused],
    *,
    now: datetime,
    take: Callable[[], None] | None = None,
    replay_of: uuid.UUID | None = None,
) -> None:
    """Write inbox rows, dead letters and answers of records that had no effect.

    They do not use their event id up: the same event may come again, understandable.
    """
    known_routes = routes()
    with transaction.atomic():
        new = list(refused)
        if take is None:
            known, _ = _look_up([record for record, _ in refused])
            new = [pair for pair in refused if pair[0].position not in known]
            insert_rows(
                [
                    _inbox_row(record, _refusal(error), now=now, event_id="")
                    for record, error in new
                ]
            )
        else:
            take()
        set_aside(new, now=now, replay_of=replay_of)
        for record, error in new:
            known_routes[record.topic].answer_refusal(record, error, now)
    for record, error in new:
        logger.warning(
            "%s is set aside: %s",
            record.place,
            shown(error.detail),
            extra=record.log_ids,
        )


def _refusal(error: SchedulingError) -> Outcome:
    """Return what the inbox keeps of a record that had no effect."""
    name = FAILED if isinstance(error, UnexpectedError) else REFUSED
    return Outcome(name=name, detail=error.detail)


def _inbox_row(
    record: Record, outcome: Outcome, *, now: datetime, event_id: str
) -> InboxMessage:
    """Return what is kept of a record."""
    row: InboxMessage = new_row(
        InboxMessage,
        cluster_id=record.cluster_id,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        event_id=event_id,
        handled_at=now,
        outcome=outcome.name,
        detail=shown(outcome.detail),
    )
    return row
