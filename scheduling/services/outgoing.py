"""Send what handlers owe: answers to commands, and dead letters."""

import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Coalesce, Length

from scheduling.adapters.event_publisher import (
    EventPublisher,
    Outcome,
    OutgoingRecord,
    Verdict,
)
from scheduling.adapters.topic_search import find_events
from scheduling.adapters.traced_publish import publish_traced
from scheduling.conf import scheduler_settings
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.messages import LONGEST_TRUNCATED_KEY, MIME_TYPE, write_dead_letter
from scheduling.models import OutgoingRecord as Row
from scheduling.services.broker_gate import BrokerGate
from scheduling.services.forget import forget

logger = logging.getLogger("autopilot.outgoing")

LARGEST_BATCH = 500
# Beyond that the batch is cut: dead letters may hold megabytes each.
LARGEST_BATCH_BYTES = 8_000_000
# Longer than all that is done under it: searches, a batch, and what is sent alone. And
# short: what a sender held that died goes out within 15 s (contract, section 2).
LEASE = timedelta(seconds=10)
SEARCH_SECONDS = 2.0
LEAST_SEARCH_SECONDS = 0.5
DEADLINE_SECONDS = 5.0
ALONE_SECONDS = 2.0
# What consumers have not sent by then, a cluster sends; it is there for firing, though.
LEFT_OVER_AGE = timedelta(seconds=5)
LEFT_OVER_SECONDS = 3.0
FIRST_WAIT = timedelta(seconds=1)
# A broker that is back is noticed soon; one that refuses a record is asked seldom.
LONGEST_WAIT = timedelta(seconds=5)
LONGEST_REFUSED_WAIT = timedelta(seconds=60)


def _tell_nobody(_: str) -> None:
    """Keep a failure of the broker to oneself."""


def send_outgoing(
    publisher: EventPublisher,
    *,
    now: datetime,
    may_go_on: Callable[[], bool] = lambda: True,
    older_than: timedelta = timedelta(0),
    report: Callable[[str], None] = _tell_nobody,
) -> int:
    """Send a batch of the records that are owed; return how many were taken up.

    Each is sent until a broker acknowledged it. Whoever sends holds a lease; what a dead
    sender may have sent is looked for on its topic first.

    Args:
        now: Aware UTC instant, the database's where it has a clock.
        may_go_on: Asked while answers are waited for; False takes the rest back.
        older_than: Leave younger ones to those who wrote them.
        report: Called after each sending with what the broker failed with, or empty.
    """
    token = uuid.uuid4()
    rows = _take(token, now=now, older_than=older_than)
    if not rows:
        return 0
    started = time.monotonic()
    searched = _search([row for row in rows if row.unproven_since is not None])
    done, waiting, to_send = [], [], []
    for row in rows:
        if row.event_id in searched.found:
            done.append(row)
        elif row.topic in searched.unsearchable and row.unproven_since is not None:
            reason = searched.unsearchable[row.topic]
            waiting.append((row, Outcome(verdict=Verdict.UNKNOWN, error=reason)))
        else:
            to_send.append(row)
    outcomes = _publish(publisher, to_send, now=now, may_go_on=may_go_on)
    # What is taken back on a stop, or never sent, says nothing of the broker.
    if outcomes and may_go_on():
        _report(outcomes, report)
    later = now + timedelta(seconds=time.monotonic() - started)
    for row, outcome in zip(to_send, outcomes, strict=True):
        if outcome.verdict is Verdict.ACKNOWLEDGED:
            done.append(row)
        else:
            waiting.append((row, outcome))
    _settle(done, token, acknowledged_at=later)
    _give_back(waiting, token, now=later)
    return len(rows)


def send_left_over(publisher: EventPublisher, *, now: datetime) -> int:
    """Send what no consumer sent for a while, and return how many; bounded in time."""
    ends_at = time.monotonic() + LEFT_OVER_SECONDS
    gate = BrokerGate(publisher)
    total = 0
    while gate.is_open or gate.ask():
        taken = send_outgoing(
            publisher, now=now, older_than=LEFT_OVER_AGE, report=gate.report
        )
        total += taken
        if not taken or time.monotonic() > ends_at:
            break
    gate.settle()
    return total


def forget_sent(*, now: datetime) -> int:
    """Delete what was acknowledged long enough ago; return how many.

    Answers are kept as long as completed jobs, for whoever asks what was answered.
    """
    horizon = now - scheduler_settings().period("max_completed_job_age")
    sent = Row.objects.filter(acknowledged_at__lt=horizon)
    return forget(sent, order_by="acknowledged_at", size=LARGEST_BATCH)


class _Searched:
    """Which events stand on their topics, and which topics could not be searched."""

    def __init__(self) -> None:
        self.found: set[uuid.UUID] = set()
        self.unsearchable: dict[str, str] = {}


def _take(token: uuid.UUID, *, now: datetime, older_than: timedelta) -> list[Row]:
    """Lease the oldest records that nobody sends; return them as they stood before.

    Those not tried yet go first: what can't be sent, for want of its topic, keeps
    nothing else waiting.
    """
    free = Row.objects.filter(
        Q(lease_until=None) | Q(lease_until__lte=now),
        Q(next_attempt_at=None) | Q(next_attempt_at__lte=now),
        acknowledged_at=None,
    )
    if older_than:
        free = free.filter(created_at__lte=now - older_than)
    free = free.order_by(F("next_attempt_at").asc(nulls_first=True), "id")
    with transaction.atomic():
        if connection.features.has_select_for_update_skip_locked:
            free = free.select_for_update(skip_locked=True, of=("self",))
        # Their sizes first, as a few hundred of them may be too large to be held at once.
        sized = free.values_list(
            "pk", Coalesce(Length("value"), Length("dead_letter__value"), 0)
        )
        chosen = _cut(sized[:LARGEST_BATCH])
        rows = Row.objects.filter(pk__in=chosen).select_related("dead_letter")
        by_key = {row.pk: row for row in rows}
        taken = [by_key[key] for key in chosen]
        Row.objects.filter(pk__in=chosen).update(
            lease_token=token,
            lease_until=now + LEASE,
            attempts=F("attempts") + 1,
            # From now on it may be on the topic without our knowing.
            unproven_since=Coalesce("unproven_since", Value(now)),
        )
    return taken


def _cut(sizes: Iterable[tuple[int, int]]) -> list[int]:
    """Return the first of the keys, as many as fit into memory and the producer."""
    chosen: list[int] = []
    total = 0
    for key, size in sizes:
        total += 2 * size
        if chosen and total > LARGEST_BATCH_BYTES:
            break
        chosen.append(key)
    return chosen


def _search(rows: Sequence[Row]) -> _Searched:
    """Look for records that an earlier attempt may have put on their topics."""
    searched = _Searched()
    wanted: dict[str, dict[uuid.UUID, datetime]] = defaultdict(dict)
    for row in rows:
        if row.unproven_since is not None:
            wanted[row.topic][row.event_id] = row.unproven_since
    ends_at = time.monotonic() + SEARCH_SECONDS
    for topic, events in wanted.items():
        left = ends_at - time.monotonic()
        if left < LEAST_SEARCH_SECONDS:
            searched.unsearchable[topic] = "other topics took the time to search this one"
            continue
        try:
            found = find_events(events, topic=topic, timeout_seconds=left)
        except ServiceUnavailableError as error:
            searched.unsearchable[topic] = error.detail
        else:
            searched.found.update(found)
    return searched


def _publish(
    publisher: EventPublisher,
    rows: Sequence[Row],
    *,
    now: datetime,
    may_go_on: Callable[[], bool],
) -> list[Outcome]:
    """Send the rows together; alone those of a batch that was too large as a whole."""
    outcomes = publish_traced(
        publisher,
        [_record(row, now=now) for row in rows],
        deadline_seconds=DEADLINE_SECONDS,
        while_waiting=may_go_on,
    )
    ends_at = time.monotonic() + ALONE_SECONDS
    for place, outcome in enumerate(outcomes):
        if not outcome.is_too_large or len(rows) == 1:
            continue
        left = ends_at - time.monotonic()
        if left > 0 and may_go_on():
            (outcomes[place],) = publish_traced(
                publisher,
                [_record(rows[place], now=now)],
                deadline_seconds=left,
                while_waiting=may_go_on,
            )
        else:
            # Whether it is too large by itself is found out next time.
            outcomes[place] = Outcome(verdict=Verdict.NOT_SENT, error=outcome.error)
    return outcomes


def _report(outcomes: Sequence[Outcome], report: Callable[[str], None]) -> None:
    """Tell what the broker failed with, or that it did not, where that can be known.

    One that took something works; to refuse a record, or to know no such topic, is an
    answer as well.
    """
    failed = [
        one
        for one in outcomes
        if one.verdict in {Verdict.UNKNOWN, Verdict.TIMED_OUT} and not one.is_topics_fault
    ]
    answered = {Verdict.ACKNOWLEDGED, Verdict.REFUSED}
    if any(one.verdict in answered or one.is_topics_fault for one in outcomes):
        report("")
    elif failed:
        report(failed[0].error)


def _record(row: Row, *, now: datetime) -> OutgoingRecord:
    """Return a row as the record to send."""
    letter = row.dead_letter
    key = None if row.key is None else bytes(row.key)
    if letter is None:
        value = bytes(row.value or b"")
    else:
        value = write_dead_letter(row.topic, letter, is_truncated=row.is_truncated)
        if row.is_truncated and len(key or b"") > LONGEST_TRUNCATED_KEY:
            key = None
    return OutgoingRecord(
        topic=row.topic,
        key=key,
        value=value,
        headers={
            "event-id": str(row.event_id),
            "content-type": MIME_TYPE,
            **{name: text for name, text in row.headers.items() if text},
        },
        timestamp_ms=int(now.timestamp() * 1000),
    )


def _settle(rows: Sequence[Row], token: uuid.UUID, *, acknowledged_at: datetime) -> None:
    """Note that brokers have the records."""
    Row.objects.filter(pk__in=[row.pk for row in rows], lease_token=token).update(
        acknowledged_at=acknowledged_at,
        lease_token=None,
        lease_until=None,
        unproven_since=None,
        next_attempt_at=None,
        last_error="",
    )


@dataclass(frozen=True, kw_only=True)
class _Wait:
    """Why records of a topic wait, for how long, and what is known of them."""

    topic: str
    error: str
    seconds: float
    is_surely_unsent: bool
    is_cut: bool


def _give_back(
    waiting: Sequence[tuple[Row, Outcome]], token: uuid.UUID, *, now: datetime
) -> None:
    """Let records wait for their next attempts; those that wait alike are said once."""
    alike: dict[_Wait, list[int]] = defaultdict(list)
    for row, outcome in waiting:
        alike[_wait(row, outcome)].append(row.pk)
    for wait, keys in alike.items():
        changes: dict[str, object] = {
            "lease_token": None,
            "lease_until": None,
            "next_attempt_at": now + timedelta(seconds=wait.seconds),
            "last_error": wait.error[:500],
        }
        if wait.is_surely_unsent:
            changes["unproven_since"] = None
        if wait.is_cut:
            changes["is_truncated"] = True
        Row.objects.filter(pk__in=keys, lease_token=token).update(**changes)
        if not wait.is_cut:
            logger.warning("%d records for %s wait: %s", len(keys), wait.topic, wait.error)


def _wait(row: Row, outcome: Outcome) -> _Wait:
    """Return how a record waits after that outcome."""
    is_refused = outcome.verdict is Verdict.REFUSED
    # Without its bytes it may fit; that is tried at once.
    is_cut = outcome.is_too_large and is_refused and _may_be_cut(row)
    longest = LONGEST_REFUSED_WAIT if is_refused else LONGEST_WAIT
    wait = min(FIRST_WAIT * 2 ** min(row.attempts, 10), longest)
    return _Wait(
        topic=row.topic,
        error=f"refused: {outcome.error}" if is_refused else outcome.error,
        seconds=0.0 if is_cut else wait.total_seconds(),
        is_surely_unsent=outcome.verdict in {Verdict.NOT_SENT, Verdict.REFUSED},
        is_cut=is_cut,
    )


def _may_be_cut(row: Row) -> bool:
    """Tell whether the record can go out without the bytes that it is about."""
    return row.dead_letter_id is not None and not row.is_truncated
