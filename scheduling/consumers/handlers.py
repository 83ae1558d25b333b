"""Handle records exactly once: inbox row, effect and audit in one transaction.

Knows records and the inbox, and nothing of Kafka's client: `loop` hands the records
over. Whatever is wrong with one record never keeps its neighbours from being handled.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ParamSpec

from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    transaction,
)
from django.db.models import Q
from django.utils import timezone

from scheduling.adapters.inserts import insert_rows
from scheduling.consumers.router import ROUTES, Apply, Outcome, Proven, Route
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.messages import UnusableMessageError
from scheduling.models import InboxMessage
from scheduling.services.apply_challenge import OutcomeUnknownError, prove_outcomes

logger = logging.getLogger("autopilot.consumer")

# A neighbour that is out of reach: the same record is handled once it is back.
OUT_OF_REACH = (OperationalError, InterfaceError, ServiceUnavailableError)
MOST_TRIES = 5
FIRST_WAIT_SECONDS = 0.05
# Jobs whose outcome became unknown while others were searched for; more rounds than
# that, and the record waits.
MOST_SEARCHES = 3
LONGEST_SHOWN = 300
LONGEST_EVENT_ID = 128
DUPLICATE, REFUSED, FAILED = "duplicate", "refused", "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record as it was received."""

    cluster_id: str
    topic: str
    partition: int
    offset: int
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def position(self) -> tuple[str, int, int]:
        """Where it stands in its cluster."""
        return self.topic, self.partition, self.offset

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @property
    def event_id(self) -> str:
        """Its `event-id` header; empty where it has none that can be kept."""
        for name, value in self.headers:
            if name == "event-id" and value is not None:
                try:
                    text = value.decode("utf-8").strip()
                except UnicodeDecodeError:
                    return ""
                is_usable = text.isprintable() and len(text) <= LONGEST_EVENT_ID
                return text if is_usable else ""
        return ""


@dataclass(frozen=True, kw_only=True)
class _Understood:
    """A record with what it says."""

    record: Record
    route: Route
    content: Any


def handle_records(records: Sequence[Record], *, is_stuck: bool = False) -> None:
    """Handle records, each exactly once, those about one subject in their order.

    Returns once each is handled, refused or given up on. May be called again with the
    same records whatever happened: what was done is not done twice.

    Args:
        is_stuck: The database refused these records for long. Where it answers all the
            same, one of them is to blame, and is found and given up on.

    Raises:
        OperationalError, InterfaceError: The database is out of reach.
        ServiceUnavailableError: A job's outcome must be known first, and the topic can't
            be searched now.
    """
    understood: list[_Understood] = []
    refused: list[tuple[Record, Outcome]] = []
    for record in records:
        route = ROUTES[record.topic]
        try:
            content = route.read(record.value)
        except UnusableMessageError as error:
            refused.append((record, Outcome(name=REFUSED, detail=shown(str(error)))))
        else:
            understood.append(_Understood(record=record, route=route, content=content))
    if refused:
        _set_aside(refused)
    for wave in _waves(understood):
        _handle_wave(wave, is_stuck=is_stuck)


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


def _handle_wave(wave: Sequence[_Understood], *, is_stuck: bool) -> None:
    """Handle records of different subjects together, or else one by one."""
    if len(wave) > 1 and not is_stuck:
        try:
            _apply(wave)
        except OUT_OF_REACH:
            raise
        except Exception as error:  # noqa: BLE001 -- whose fault it is, is found out below
            logger.debug("%d records are handled one by one: %s", len(wave), error)
        else:
            return
    for item in wave:
        _handle_one(item, is_stuck=is_stuck)


def _handle_one(item: _Understood, *, is_stuck: bool) -> None:
    """Handle one record; after five unexpected errors it is given up on."""
    for attempt in range(1, MOST_TRIES + 1):
        try:
            _apply([item])
        except Exception as error:
            if isinstance(error, OUT_OF_REACH) and not (is_stuck and _is_to_blame(error)):
                raise
            if attempt == MOST_TRIES:
                logger.exception("%s failed five times", item.record.place)
                detail = shown(f"{type(error).__name__}: {error}")
                _set_aside([(item.record, Outcome(name=FAILED, detail=detail))])
                return
            logger.warning(
                "%s failed (%s), attempt %d", item.record.place, shown(repr(error)), attempt
            )
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        else:
            return


def _is_to_blame(error: Exception) -> bool:
    """Tell whether the record causes the error: the database answers other questions."""
    if isinstance(error, ServiceUnavailableError):
        return False
    connection.close()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (OperationalError, InterfaceError):
        return False
    return True


def _apply(items: Sequence[_Understood]) -> None:
    """Apply the records, searching for jobs' outcomes first where that is needed.

    Kafka is never asked inside the transaction.
    """
    proven: dict[str, datetime | None] = {}
    for _ in range(MOST_SEARCHES):
        try:
            _retrying_races(_apply_in_transaction, items, proven)
        except OutcomeUnknownError as error:
            proven |= prove_outcomes(error.job_ids, now=timezone.now())
        else:
            return
    raise ServiceUnavailableError("jobs keep changing while their outcome is searched for")


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


def _apply_in_transaction(items: Sequence[_Understood], proven: Proven) -> None:
    """Apply the records that are new, and note each in the inbox, as one fact."""
    now = timezone.now()
    with transaction.atomic():
        known, events = _look_up([item.record for item in items])
        rows: list[InboxMessage] = []
        fresh: dict[Apply, list[_Understood]] = defaultdict(list)
        for item in items:
            record = item.record
            if record.position in known:
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
            rows += [
                _inbox_row(one.record, outcome, now=now, event_id=one.record.event_id)
                for one, outcome in zip(group, outcomes, strict=True)
            ]
        insert_rows(rows)


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


def _set_aside(refused: Sequence[tuple[Record, Outcome]]) -> None:
    """Note records that had no effect, and say so once each."""
    _retrying_races(_note_refused, refused)


def _note_refused(refused: Sequence[tuple[Record, Outcome]]) -> None:
    """Write the inbox rows of records that had no effect.

    They do not use their event id up: the same event may come again, understandable.
    """
    now = timezone.now()
    with transaction.atomic():
        known, _ = _look_up([record for record, _ in refused])
        new = [pair for pair in refused if pair[0].position not in known]
        insert_rows([_inbox_row(record, out, now=now, event_id="") for record, out in new])
    for record, outcome in new:
        if outcome.name == REFUSED:
            logger.warning("%s is refused: %s", record.place, outcome.detail)


def _inbox_row(
    record: Record, outcome: Outcome, *, now: datetime, event_id: str
) -> InboxMessage:
    """Return what is kept of a record."""
    return InboxMessage(
        cluster_id=record.cluster_id,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        event_id=event_id,
        handled_at=now,
        outcome=outcome.name,
        detail=shown(outcome.detail),
    )


def shown(text: str) -> str:
    """Return text from outside as one line that is safe to log and to store."""
    cut = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in cut
    )[:500]
