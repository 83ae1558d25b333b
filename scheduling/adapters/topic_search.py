"""Looks on the topic for events whose publishing had an unknown outcome."""

import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from django.conf import settings

from scheduling.adapters.message_headers import headers_of
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.topics import PHASE_TRANSITION

# Record timestamps come from the publisher's estimate of the database's clock, or from
# the broker's own; a search starts this much earlier.
CLOCK_MARGIN = timedelta(seconds=30)
TIMEOUT_SECONDS = 10.0
_CHUNK = 500
# What a broker that has just started, or a leader that has just changed, says for a moment.
SETTLING: Final = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
    }
)
SETTLING_PAUSE_SECONDS: Final = 0.1


class FoundEvent(NamedTuple):
    """Where an event stands on the topic, and its record's timestamp."""

    partition: int
    offset: int
    at: datetime


def find_events(
    wanted: Mapping[uuid.UUID, datetime],
    *,
    topic: str = PHASE_TRANSITION,
    timeout_seconds: float = TIMEOUT_SECONDS,
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
            # It joins no group, but asks for one's coordinator, which only the rights on
            # this one allow.
            "group.id": settings.KAFKA_CONSUMER_GROUP,
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            "isolation.level": "read_committed",
        }
    )
    deadline = time.monotonic() + timeout_seconds
    try:
        search = _Search(consumer, topic, deadline)
        return search.find(set(wanted), since=min(wanted.values()) - CLOCK_MARGIN)
    except KafkaException as error:
        raise ServiceUnavailableError(
            f"the topic {topic} can't be searched now: {error.args[0].str()}"
        ) from error
    finally:
        consumer.close()


class _Search:
    """One search: a consumer, a topic, and when it has to be over."""

    def __init__(self, consumer: Consumer, topic: str, deadline: float) -> None:
        self._consumer, self._topic, self._deadline = consumer, topic, deadline

    @property
    def _left(self) -> float:
        """The seconds left, at least a little."""
        return max(0.1, self._deadline - time.monotonic())

    def find(
        self, wanted: set[uuid.UUID], *, since: datetime
    ) -> dict[uuid.UUID, FoundEvent]:
        """Return where the wanted events stand, however often it takes to ask.

        Else a search just after a broker's return would fail, and with it the trial of
        the circuit breaker: everything would wait for the next one.
        """
        while True:
            try:
                return self.read(self.open(since), wanted)
            except KafkaException as error:
                is_settling = error.args[0].code() in SETTLING
                if not is_settling or time.monotonic() >= self._deadline:
                    raise
                time.sleep(SETTLING_PAUSE_SECONDS)

    def open(self, since: datetime) -> dict[int, int]:
        """Place the consumer at `since` on each partition; return where each ends."""
        metadata = self._consumer.list_topics(self._topic, timeout=self._left)
        topic = metadata.topics[self._topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        since_ms = int(since.timestamp() * 1000)
        asked = [
            TopicPartition(self._topic, number, since_ms) for number in topic.partitions
        ]
        places = []
        ends: dict[int, int] = {}
        for place in self._consumer.offsets_for_times(asked, timeout=self._left):
            if place.error is not None:
                raise KafkaException(place.error)
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, place.partition), timeout=self._left
            )
            if low == high:
                continue
            if place.offset < 0:
                if self._last_record_is_older(place.partition, high, since_ms):
                    continue
                place.offset = low
            ends[place.partition] = high
            places.append(TopicPartition(self._topic, place.partition, place.offset))
        self._consumer.assign(places)
        return ends

    def _last_record_is_older(self, partition: int, high: int, since_ms: int) -> bool:
        """Tell whether "no record is as young as that" is true of a partition.

        That is the answer of a real broker; the embedded one gives it to every question
        about instants, and then the partition must be read from its beginning.
        """
        self._consumer.assign([TopicPartition(self._topic, partition, high - 1)])
        while time.monotonic() < self._deadline:
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                return bool(message.timestamp()[1] < since_ms)
            place = TopicPartition(self._topic, partition)
            if message is None and self._consumer.position([place])[0].offset >= high:
                # A control record, which no consumer is shown: assume the least.
                return False
        raise ServiceUnavailableError(f"the topic {self._topic} could not be read in time")

    def read(
        self, ends: dict[int, int], wanted: set[uuid.UUID]
    ) -> dict[uuid.UUID, FoundEvent]:
        """Read every partition up to its end, or until all were found."""
        found: dict[uuid.UUID, FoundEvent] = {}
        while ends and wanted - found.keys():
            if time.monotonic() >= self._deadline:
                raise ServiceUnavailableError(
                    f"the topic {self._topic} could not be searched in time"
                )
            for message in self._consumer.consume(_CHUNK, timeout=0.1):
                error = message.error()
                if error is not None:
                    raise KafkaException(error)
                event_id = event_id_of(message)
                if event_id in wanted and event_id not in found:
                    found[event_id] = _place(message)
            self._drop_finished(ends)
        return found

    def _drop_finished(self, ends: dict[int, int]) -> None:
        """Forget the partitions that were read to their end."""
        places = [TopicPartition(self._topic, number) for number in ends]
        for place in self._consumer.position(places):
            # The position is the next offset to read; control records lie between.
            if place.offset >= ends[place.partition]:
                del ends[place.partition]


def event_id_of(message: Message) -> uuid.UUID | None:
    """Return the record's `event-id` header; None where it has none of that form."""
    value = dict(headers_of(message)).get("event-id")
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
