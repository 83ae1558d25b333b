"""Looks on the topic for events whose publishing had an unknown outcome."""

import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaException,
    Message,
    TopicPartition,
)
from django.conf import settings

from scheduling.domain.errors import ServiceUnavailableError
from scheduling.topics import PHASE_TRANSITION

# Record timestamps come from the publisher's estimate of the database's clock, or from
# the broker's own; a search starts this much earlier.
CLOCK_MARGIN = timedelta(seconds=30)
TIMEOUT_SECONDS = 10.0
_CHUNK = 500


class FoundEvent(NamedTuple):
    """Where an event stands on the topic, and its record's timestamp."""

    partition: int
    offset: int
    at: datetime


def find_events(
    wanted: Mapping[uuid.UUID, datetime], *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[uuid.UUID, FoundEvent]:
    """Return where each wanted event first stands; those not on the topic are missing.

    Args:
        wanted: Event ids, each with the instant from which it may have been published.

    Raises:
        ServiceUnavailableError: The topic could not be read to its end in time.
    """
    consumer = Consumer(
        {
            **settings.KAFKA_CLIENT,
            "group.id": "autopilot-search",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            "isolation.level": "read_committed",
        }
    )
    deadline = time.monotonic() + timeout_seconds
    try:
        ends = _open(consumer, min(wanted.values()) - CLOCK_MARGIN, deadline)
        return _read(consumer, ends, set(wanted), deadline)
    except KafkaException as error:
        raise ServiceUnavailableError(
            f"the topic {PHASE_TRANSITION} can't be searched now: {error.args[0].str()}"
        ) from error
    finally:
        consumer.close()


def _left(deadline: float) -> float:
    """Return the seconds left, at least a little."""
    return max(0.1, deadline - time.monotonic())


def _open(consumer: Consumer, since: datetime, deadline: float) -> dict[int, int]:
    """Place the consumer at `since` on each partition; return where each ends."""
    metadata = consumer.list_topics(PHASE_TRANSITION, timeout=_left(deadline))
    topic = metadata.topics[PHASE_TRANSITION]
    if topic.error is not None:
        raise KafkaException(topic.error)
    since_ms = int(since.timestamp() * 1000)
    asked = [
        TopicPartition(PHASE_TRANSITION, number, since_ms) for number in topic.partitions
    ]
    places = []
    ends: dict[int, int] = {}
    for place in consumer.offsets_for_times(asked, timeout=_left(deadline)):
        if place.error is not None:
            raise KafkaException(place.error)
        low, high = consumer.get_watermark_offsets(
            TopicPartition(PHASE_TRANSITION, place.partition), timeout=_left(deadline)
        )
        if low == high:
            continue
        if place.offset < 0:
            if _last_record_is_older(consumer, place.partition, high, since_ms, deadline):
                continue
            place.offset = low
        ends[place.partition] = high
        places.append(TopicPartition(PHASE_TRANSITION, place.partition, place.offset))
    consumer.assign(places)
    return ends


def _last_record_is_older(
    consumer: Consumer, partition: int, high: int, since_ms: int, deadline: float
) -> bool:
    """Tell whether "no record is as young as that" is true of a partition.

    That is the answer of a real broker; the embedded one gives it to every question
    about instants, and then the partition must be read from its beginning.
    """
    consumer.assign([TopicPartition(PHASE_TRANSITION, partition, high - 1)])
    while time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            return bool(message.timestamp()[1] < since_ms)
        if (
            message is None
            and consumer.position([TopicPartition(PHASE_TRANSITION, partition)])[0].offset
            >= high
        ):
            # A control record, which no consumer is shown: assume the least.
            return False
    raise ServiceUnavailableError(f"the topic {PHASE_TRANSITION} could not be read in time")


def _read(
    consumer: Consumer, ends: dict[int, int], wanted: set[uuid.UUID], deadline: float
) -> dict[uuid.UUID, FoundEvent]:
    """Read every partition up to its end, or until all were found."""
    found: dict[uuid.UUID, FoundEvent] = {}
    while ends and wanted - found.keys():
        if time.monotonic() >= deadline:
            raise ServiceUnavailableError(
                f"the topic {PHASE_TRANSITION} could not be searched in time"
            )
        for message in consumer.consume(_CHUNK, timeout=0.1):
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            event_id = event_id_of(message)
            if event_id in wanted and event_id not in found:
                found[event_id] = _place(message)
        _drop_finished(consumer, ends)
    return found


def _drop_finished(consumer: Consumer, ends: dict[int, int]) -> None:
    """Forget the partitions that were read to their end."""
    places = [TopicPartition(PHASE_TRANSITION, number) for number in ends]
    for place in consumer.position(places):
        # The position is the next offset to read; control records lie between.
        if place.offset >= ends[place.partition]:
            del ends[place.partition]


def event_id_of(message: Message) -> uuid.UUID | None:
    """Return the record's `event-id` header; None where it has none of that form."""
    value = dict(message.headers() or []).get("event-id")
    try:
        return uuid.UUID(value.decode()) if isinstance(value, bytes) else None
    except ValueError:
        return None


def _place(message: Message) -> FoundEvent:
    """Return where the record stands."""
    timestamp_ms = message.timestamp()[1]
    return FoundEvent(
        int(message.partition() or 0),
        int(message.offset() or 0),
        datetime.fromtimestamp(timestamp_ms / 1000, UTC),
    )
