"""Kafka out: one long-lived idempotent producer a process, batches, honest outcomes."""

import enum
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from scheduling.adapters.broker_probe import BrokerProbe
from scheduling.conf import message_settings
from scheduling.topics import PHASE_TRANSITION

logger = logging.getLogger("autopilot.publisher")

# Refusals of the record itself. Everything else is the broker's or the way's fault, and
# uses up no attempt (contract, section 2).
REFUSALS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    }
)
# Those of them that say: too many bytes.
TOO_LARGE = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
    }
)
# What may be too large for a topic, its broker says; the client's own limit lies beyond
# any dead letter of a record that a consumer can be expected to hold.
LARGEST_RECORD_BYTES = 16_777_216
# What is wrong with one topic says nothing of the broker.
TOPIC_ERRORS = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
# How often the caller's `while_waiting` runs.
WAIT_SLICE_SECONDS = 0.05
# How long all brokers must be out of reach before a batch is taken back.
OUT_OF_REACH_SECONDS = 2.0


class Verdict(enum.Enum):
    """What became of one record.

    ACKNOWLEDGED: the broker has it. REFUSED: the broker won't take this record.
    NOT_SENT: surely not on the topic. UNKNOWN: it may be on the topic.
    TIMED_OUT: as UNKNOWN, with the broker in reach until the caller's deadline.
    """

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutgoingRecord:
    """One record to put on a topic; `timestamp_ms` is its create time since 1970."""

    topic: str
    key: str | bytes | None
    value: bytes
    headers: Mapping[str, str]
    timestamp_ms: int


@dataclass(slots=True)
class Outcome:
    """What became of a record, and where it stands if it was acknowledged.

    acknowledged_at: monotonic seconds.
    is_too_large: it was refused for its size, or for that of the batch it was sent in.
    is_topics_fault: the broker answered that there is no such topic or partition.
    """

    verdict: Verdict = Verdict.NOT_SENT
    partition: int = -1
    offset: int = -1
    acknowledged_at: float = 0.0
    error: str = ""
    is_too_large: bool = False
    is_topics_fault: bool = False


class EventPublisher:
    """Owns this process's producer; make it after the fork, never before."""

    def __init__(self, client: Mapping[str, Any], *, message_timeout_ms: int) -> None:
        self._client = dict(client)
        self._config = {
            "message.max.bytes": LARGEST_RECORD_BYTES,
            **client,
            "enable.idempotence": True,
            "acks": "all",
            # A batch goes out whole when `publish` flushes, which does not wait for this:
            # sent one by one, its records cost the broker and us many requests.
            "linger.ms": 20,
            "message.timeout.ms": message_timeout_ms,
            "request.timeout.ms": min(10_000, message_timeout_ms),
            "topic.metadata.propagation.max.ms": 5_000,
            "queue.buffering.max.messages": 100_000,
            "error_cb": self._notice_error,
        }
        self._producer: Producer | None = None
        self._unreachable_since: float | None = None
        self._last_error = ""

    def warm_up(self) -> None:
        """Connect, so that the first record needn't wait for its producer id."""
        self._get_producer().poll(0)

    def is_in_reach(self, *, timeout_seconds: float) -> bool:
        """Ask the cluster for its metadata; tell whether it answered and can take records.

        A cluster that has just come back answers before any partition has its leader, and
        takes nothing until then.
        """
        try:
            metadata = self._get_producer().list_topics(timeout=timeout_seconds)
        except KafkaException:
            return False
        topic = metadata.topics.get(PHASE_TRANSITION)
        partitions = topic.partitions.values() if topic else ()
        if partitions and all(one.leader < 0 for one in partitions):
            return False
        self._note_reached()
        return True

    @property
    def seems_out_of_reach(self) -> bool:
        """Whether librdkafka reported every broker down and nothing worked since."""
        return self._unreachable_since is not None

    def publish(
        self,
        records: Sequence[OutgoingRecord],
        *,
        deadline_seconds: float,
        while_waiting: Callable[[], bool],
    ) -> list[Outcome]:
        """Produce all records, wait for every answer, and return one outcome each.

        Args:
            records: In the order in which they shall stand on the topic.
            deadline_seconds: From now; what has no answer by then is taken back.
            while_waiting: Called about 20 times a second; False takes the rest back.
        """
        outcomes = [Outcome() for _ in records]
        try:
            self._produce_and_wait(records, outcomes, deadline_seconds, while_waiting)
        except (KafkaException, SystemError) as error:
            # A fatal error is raised by poll and flush as well, and a callback that runs
            # with it pending turns it into SystemError. Only a new producer helps.
            self._replace(str(error))
            for outcome in outcomes:
                if outcome.verdict is Verdict.NOT_SENT:
                    outcome.verdict, outcome.error = Verdict.UNKNOWN, str(error)
        return outcomes

    def _produce_and_wait(
        self,
        records: Sequence[OutgoingRecord],
        outcomes: list[Outcome],
        deadline_seconds: float,
        while_waiting: Callable[[], bool],
    ) -> None:
        """Fill in the outcomes."""
        producer = self._get_producer()
        waiting = _Waiting(outcomes)
        refused_keys: set[tuple[str, str | bytes]] = set()
        for index, record in enumerate(records):
            if record.key is not None and (record.topic, record.key) in refused_keys:
                # A later record of the key must not overtake the one refused here.
                outcomes[index].error = "an earlier record of the key was refused"
                continue
            if not _produce(producer, record, index, waiting) and record.key is not None:
                refused_keys.add((record.topic, record.key))
        deadline = time.monotonic() + deadline_seconds
        while waiting.indexes:
            producer.flush(WAIT_SLICE_SECONDS)
            if not waiting.indexes:
                break
            is_late = time.monotonic() >= deadline
            is_lost = self._is_lost()
            if is_late or is_lost or not while_waiting():
                waiting.late = is_late and self._is_answered()
                _take_back(producer, waiting)
                return
        if any(outcome.verdict is Verdict.ACKNOWLEDGED for outcome in outcomes):
            self._note_reached()

    def _note_reached(self) -> None:
        """A broker has answered."""
        self._unreachable_since = None
        self._last_error = ""

    def _is_lost(self) -> bool:
        """Tell whether all brokers have been out of reach for long enough."""
        since = self._unreachable_since
        return since is not None and time.monotonic() - since > OUT_OF_REACH_SECONDS

    def _is_answered(self) -> bool:
        """Tell whether a broker answers others, while it has not answered us in time.

        librdkafka may keep silent about a broker that has gone. It is asked on a
        connection of its own: on the producer's, an answer waits behind those before it.
        """
        return not self.seems_out_of_reach and BrokerProbe(self._client).ask().brokers > 0

    def _notice_error(self, error: KafkaError) -> None:
        """Take librdkafka's word on the connection; the loops above act on it."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = error.str()
            return
        # It comes last and says least: what came before it is the cause.
        if self._unreachable_since is None:
            logger.warning("no Kafka broker in reach: %s", self._last_error or error.str())
        self._unreachable_since = self._unreachable_since or time.monotonic()

    def _get_producer(self) -> Producer:
        """Return the producer, made on first use."""
        if self._producer is None:
            self._producer = Producer(self._config)
        return self._producer

    def _replace(self, reason: str) -> None:
        """Drop a producer that can't be used any more."""
        logger.error("the Kafka producer is replaced: %s", reason)
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()

    def close(self) -> None:
        """Let what is queued go, for at most a second."""
        if self._producer is not None:
            self._producer.flush(1)


class _Waiting:
    """Which records still wait for an answer, and what to make of a late one."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self.indexes: set[int] = set()
        self.late = False

    def answer(self, index: int, error: KafkaError | None, message: Message) -> None:
        """Note the delivery report of one record."""
        if index not in self.indexes:
            # The caller was told an outcome, which must stand.
            return
        self.indexes.discard(index)
        outcome = self.outcomes[index]
        if error is None:
            outcome.verdict = Verdict.ACKNOWLEDGED
            outcome.acknowledged_at = time.monotonic()
            outcome.partition = int(message.partition() or 0)
            outcome.offset = int(message.offset() or 0)
            return
        outcome.verdict = self.judge(error.code())
        outcome.error = "no answer in time" if self.late else error.str()
        outcome.is_too_large = error.code() in TOO_LARGE
        outcome.is_topics_fault = error.code() in TOPIC_ERRORS

    def judge(self, code: int) -> Verdict:
        """Return what an error code says about the record."""
        if code in REFUSALS:
            return Verdict.REFUSED
        if self.late:
            return Verdict.TIMED_OUT
        # Also of a record purged from the queue: librdkafka puts back there what it sent
        # and got no answer to.
        return Verdict.UNKNOWN


def _produce(
    producer: Producer, record: OutgoingRecord, index: int, waiting: _Waiting
) -> bool:
    """Queue one record; False where librdkafka refuses it at once."""
    waiting.indexes.add(index)
    try:
        producer.produce(
            record.topic,
            key=record.key,
            value=record.value,
            headers=list(record.headers.items()),
            timestamp=record.timestamp_ms,
            on_delivery=lambda error, message: waiting.answer(index, error, message),
        )
    except BufferError as error:
        waiting.indexes.discard(index)
        waiting.outcomes[index].error = f"the local queue is full: {error}"
        return False
    except KafkaException as error:
        reason = error.args[0]
        if reason.fatal():
            raise
        waiting.indexes.discard(index)
        waiting.outcomes[index].verdict = waiting.judge(reason.code())
        if waiting.outcomes[index].verdict is Verdict.UNKNOWN:
            # Refused before it was queued: it can't be on the topic.
            waiting.outcomes[index].verdict = Verdict.NOT_SENT
        waiting.outcomes[index].error = reason.str()
        waiting.outcomes[index].is_too_large = reason.code() in TOO_LARGE
        return False
    return True


def _take_back(producer: Producer, waiting: _Waiting) -> None:
    """Stop waiting: each open record is answered as purged, unsent or in flight."""
    producer.purge()
    end = time.monotonic() + 1
    while waiting.indexes and time.monotonic() < end:
        producer.poll(WAIT_SLICE_SECONDS)
    for index in waiting.indexes:
        waiting.outcomes[index].verdict = (
            Verdict.TIMED_OUT if waiting.late else Verdict.UNKNOWN
        )
        waiting.outcomes[index].error = "no answer"
    waiting.indexes.clear()


_publisher: EventPublisher | None = None


def publisher_class() -> type[EventPublisher]:
    """Return the class that AUTOPILOT_EVENT_PUBLISHER names.

    Raises:
        ImproperlyConfigured: It names no class that has what `EventPublisher` has.
    """
    path = message_settings().event_publisher
    try:
        kind: Any = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"AUTOPILOT_EVENT_PUBLISHER: {error}") from error
    if not isinstance(kind, type):
        raise ImproperlyConfigured(f"AUTOPILOT_EVENT_PUBLISHER: {path} is no class")
    wanted = [
        name
        for name, value in vars(EventPublisher).items()
        if callable(value) and not name.startswith("_")
    ]
    missing = [name for name in wanted if not callable(getattr(kind, name, None))]
    if missing:
        raise ImproperlyConfigured(
            f"AUTOPILOT_EVENT_PUBLISHER: {path} lacks {', '.join(missing)}"
        )
    return kind


def process_publisher() -> EventPublisher:
    """Return this process's one publisher.

    Raises:
        ImproperlyConfigured: As `publisher_class`.
    """
    global _publisher  # noqa: PLW0603 -- one producer a process is the point
    if _publisher is None:
        _publisher = publisher_class()(
            settings.KAFKA_CLIENT,
            # The attempt's own deadline is kept by `publish`; this is the net below.
            message_timeout_ms=settings.SCHEDULER.job_timeout + 5_000,
        )
    return _publisher
