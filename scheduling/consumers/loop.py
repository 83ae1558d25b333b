"""Poll, hand over, commit: the life of the process that reads Kafka.

Offsets are a hint: what was handled stands in the inbox, so that a record that comes
again changes nothing. They are committed after the transaction that handled them, and
without waiting: a synchronous commit hangs for as long as no broker answers.
"""

import logging
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils import timezone

from scheduling.adapters.message_headers import headers_of
from scheduling.consumers.reporting import Report
from scheduling.consumers.sender import Sender
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.records import Record
from scheduling.services.incoming import OUT_OF_REACH, handle_records
from scheduling.services.routes import check_topics
from scheduling.services.shown import shown

logger = logging.getLogger("autopilot.consumer")

LARGEST_BATCH = 500
POLL_SECONDS = 0.1
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 2.0
# When a database that refuses the same records may be asked whether it is their fault.
STUCK_SECONDS = 20.0
METADATA_SECONDS = 2.0
# A topic that is created later is noticed within so long; the embedded broker tells
# nobody of it.
REFRESH_SECONDS = 5.0
# How long the broker is given to hear that this member leaves.
CLOSE_SECONDS = 3.0
# The embedded broker's ids start so; it lets a member of this protocol go on at once,
# and one of the classic protocol wait for its session time-out.
EMBEDDED_PREFIX = "embedded-"
# Errors of records that only say "not yet".
_PASSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._PARTITION_EOF,  # noqa: SLF001 -- its name for a local error
        KafkaError._MAX_POLL_EXCEEDED,  # noqa: SLF001 -- its name for a local error
    }
)


# After those the client does nothing more; not each comes marked as fatal.
_FATAL = frozenset(
    {
        KafkaError._FATAL,  # noqa: SLF001 -- its name for a local error
        KafkaError.FENCED_INSTANCE_ID,
    }
)


class StopRequest:
    """Whether the end was asked for: a flag without a lock, to be set by a signal."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Ask for the end."""
        self._is_set = True

    def is_set(self) -> bool:
        """Tell whether the end was asked for."""
        return self._is_set


class ConsumerLoop:
    """Reads topics until it is asked to stop."""

    def __init__(
        self,
        *,
        client_config: Mapping[str, str | int | bool],
        topics: Sequence[str],
        group: str,
        instance_id: str = "",
        stop: StopRequest,
    ) -> None:
        """Prepare; nothing is asked of Kafka yet.

        Args:
            instance_id: The member's name in the group, kept over restarts; empty: a new
                member each time.

        Raises:
            ImproperlyConfigured: A topic has no route.
        """
        check_topics(topics)
        # What goes wrong is told by us, once, and not by librdkafka each second.
        self._config: dict[str, Any] = {
            **client_config,
            "log_level": 0,
            "error_cb": self._note_error,
        }
        self._topics = list(topics)
        self._group = group
        self._instance_id = instance_id
        self._stop = stop
        self._cluster_id = ""
        self._must_ask_cluster = False
        self._is_kafka_down = False
        self._last_error = ""
        self._fatal = ""
        self._is_paused = False
        # Topics that do not exist yet, and when the cluster was last asked for them.
        self._missing: frozenset[str] = frozenset()
        self._asked_at = 0.0
        self._warned_of: set[str] = set()
        self._next_offsets: dict[tuple[str, int], int] = {}
        self._backlog: list[Message] = []
        self._report = Report()
        self._sender = Sender()
        self.handled = 0

    def run(self) -> None:
        """Read until asked to stop.

        Raises:
            ImproperlyConfigured: The Kafka client refuses its settings, or another
                consumer has taken this one's name in the group.
        """
        self._sender.start()
        try:
            while not self._stop.is_set() and self._find_cluster():
                consumer = self._subscribe()
                try:
                    while not self._stop.is_set() and self._turn(consumer):
                        pass
                finally:
                    self._close(consumer)
        finally:
            self._sender.stop()
            self._report.remove()
        logger.info("stopped after %d records", self.handled)

    def _turn(self, consumer: Consumer) -> bool:
        """Handle what is there, or wait a little for something.

        Returns:
            False where a new consumer is needed: a topic that was missing has come, or
            the cluster is another one than before. Of that one all is read from the
            start: what was received meanwhile may have come from either, so it is
            handled as the old one's, and found again in the new one.
        """
        batch = self._receive(consumer)
        if self._fatal:
            raise ImproperlyConfigured(self._fatal)
        is_same = True
        self._report.write(consumer, handled=self.handled)
        if self._missing and time.monotonic() > self._asked_at + REFRESH_SECONDS:
            self._must_ask_cluster = True
        missing = self._missing
        if self._must_ask_cluster or self._went_back(batch):
            known = self._ask_until_known(consumer, is_waiting=bool(batch))
            if known is None:
                return True
            is_same = known == self._cluster_id
        records = [self._record(message) for message in batch]
        if records and self._persist(consumer, records):
            self.handled += len(records)
            self._sender.wake()
            if is_same:
                self._commit(consumer, records)
        return is_same and not missing - self._missing

    # --- Receiving --------------------------------------------------------------------
    def _receive(self, consumer: Consumer) -> list[Message]:
        """Return what has come in, waiting for the first of it only."""
        messages, self._backlog = self._backlog, []
        if not messages:
            first = consumer.poll(POLL_SECONDS)
            if first is None:
                return []
            messages.append(first)
        if len(messages) < LARGEST_BATCH:
            messages += consumer.consume(LARGEST_BATCH - len(messages), timeout=0)
        return [message for message in messages if self._is_record(message)]

    def _is_record(self, message: Message) -> bool:
        """Tell records from errors, which are said once."""
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            self._warn_of_missing([message.topic() or ""])
        elif error.code() not in _PASSING:
            self._note_error(error)
            if error.str() not in self._warned_of:
                self._warned_of.add(error.str())
                logger.warning("Kafka: %s", shown(error.str()))
        return False

    def _went_back(self, batch: Sequence[Message]) -> bool:
        """Tell whether an offset came again: the cluster may be another one now."""
        for message in batch:
            place = (str(message.topic()), int(message.partition() or 0))
            if int(message.offset() or 0) < self._next_offsets.get(place, 0):
                return True
        return False

    def _record(self, message: Message) -> Record:
        """Return a message as the handlers take it."""
        return Record(
            cluster_id=self._cluster_id,
            topic=str(message.topic()),
            partition=int(message.partition() or 0),
            offset=int(message.offset() or 0),
            value=message.value(),
            key=_bytes(message.key()),
            headers=tuple((name, _bytes(value)) for name, value in headers_of(message)),
            timestamp_ms=int(message.timestamp()[1]),
        )

    # --- Handling ---------------------------------------------------------------------
    def _persist(self, consumer: Consumer, records: Sequence[Record]) -> bool:
        """Handle the records, waiting for neighbours; False if stopped before that."""
        wait = FIRST_WAIT_SECONDS
        stuck_at = time.monotonic() + STUCK_SECONDS
        while True:
            try:
                handle_records(
                    records, now=timezone.now(), is_stuck=time.monotonic() > stuck_at
                )
            except Exception as error:  # noqa: BLE001 -- nothing stops the stream for good
                # A connection that broke would be used again, and break again.
                connection.close()
                self._pause_for(consumer, error)
                self._wait(consumer, wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                if self._stop.is_set():
                    return False
            else:
                if self._is_paused:
                    self._resume(consumer)
                    logger.warning("consumption goes on")
                return True

    def _pause_for(self, consumer: Consumer, error: Exception) -> None:
        """Stop fetching until the records in hand could be handled; say why, once."""
        # What an unforeseen error says may quote a record: only its kind is told.
        is_foreseen = isinstance(error, OUT_OF_REACH)
        said = str(error).strip() if is_foreseen else ""
        reason = shown(said or type(error).__name__)
        if not self._is_paused:
            self._pause(consumer, reason)
            logger.warning("consumption is paused: %s", reason)
            if not is_foreseen:
                logger.error("%s", "".join(traceback.format_tb(error.__traceback__)))
        if isinstance(error, ServiceUnavailableError):
            self._report.write(consumer, handled=self.handled)

    def _wait(self, consumer: Consumer, seconds: float) -> None:
        """Let time pass, but stay a member of the group; what still comes is kept."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            message = consumer.poll(min(left, POLL_SECONDS))
            if message is not None:
                self._backlog.append(message)

    def _pause(self, consumer: Consumer, reason: str) -> None:
        self._is_paused = True
        self._report.pause(reason)
        consumer.pause(consumer.assignment())

    def _resume(self, consumer: Consumer) -> None:
        self._is_paused = False
        self._report.resume()
        consumer.resume(consumer.assignment())

    def _commit(self, consumer: Consumer, records: Sequence[Record]) -> None:
        """Tell Kafka how far we are."""
        for record in records:
            self._next_offsets[record.topic, record.partition] = record.offset + 1
        ends = {(record.topic, record.partition): record.offset + 1 for record in records}
        try:
            consumer.commit(
                offsets=[TopicPartition(*place, end) for place, end in ends.items()],
                asynchronous=True,
            )
        except KafkaException as error:
            logger.info("offsets are not committed: %s", error.args[0].str())

    # --- The cluster and the group ----------------------------------------------------
    def _find_cluster(self) -> bool:
        """Wait until a broker names the cluster; False if asked to stop before that.

        Raises:
            ImproperlyConfigured: The Kafka client refuses its settings.
        """
        try:
            client = AdminClient(self._config)
        except KafkaException as error:
            raise ImproperlyConfigured(
                f"the Kafka client refuses its settings: {error.args[0].str()}"
            ) from error
        while not self._stop.is_set():
            cluster_id = self._ask_cluster(client)
            if cluster_id is not None:
                if self._cluster_id not in {"", cluster_id}:
                    logger.warning("this is another Kafka cluster now: %s", cluster_id)
                self._cluster_id = cluster_id
                self._next_offsets.clear()
                return True
            client.poll(0)
            time.sleep(FIRST_WAIT_SECONDS)
        return False

    def _ask_cluster(self, client: Any) -> str | None:
        """Ask for the cluster's id, and for topics that are missing; None: no answer."""
        try:
            metadata = client.list_topics(timeout=METADATA_SECONDS)
        except KafkaException as error:
            if isinstance(client, AdminClient):
                # It tells of a cause only when polled; a consumer is polled anyway.
                client.poll(0)
            self._note_out_of_reach(error.args[0])
            return None
        if not metadata.cluster_id:
            return None
        self._note_reachable()
        self._must_ask_cluster = False
        self._asked_at = time.monotonic()
        self._missing = frozenset(self._topics) - metadata.topics.keys()
        self._warn_of_missing(sorted(self._missing))
        return str(metadata.cluster_id)

    def _ask_until_known(self, consumer: Consumer, *, is_waiting: bool) -> str | None:
        """Make sure whose offsets these are: another cluster counts from 0 again.

        Args:
            is_waiting: Records are in hand, and must not be handled before it is known.

        Returns:
            The cluster's id; None if nobody answers and nothing waits for it, or if
            asked to stop.
        """
        while (cluster_id := self._ask_cluster(consumer)) is None:
            if self._stop.is_set() or not is_waiting:
                return None
            time.sleep(FIRST_WAIT_SECONDS)
        self._next_offsets.clear()
        return cluster_id

    @property
    def _is_embedded(self) -> bool:
        """Whether the cluster is the embedded broker, which knows the newer protocol."""
        return self._cluster_id.startswith(EMBEDDED_PREFIX)

    def _subscribe(self) -> Consumer:
        """Return a consumer that joins the group."""
        is_embedded = self._is_embedded
        protocol: dict[str, str | int] = (
            {"group.protocol": "consumer"}
            if is_embedded
            else {
                # Not a cooperative one: a named member that dies between its two rounds
                # comes back to half an assignment, which nobody completes any more.
                "partition.assignment.strategy": "roundrobin",
                # So soon its partitions go to others after a member was killed, and so
                # long a group that forms anew waits for one that died meanwhile. Brokers
                # allow no less unless told otherwise.
                "session.timeout.ms": 6_000,
                "heartbeat.interval.ms": 1_500,
                # One that is killed and started again takes its own place. Otherwise each
                # start makes the group wait until the dead member's session is over, and
                # where they die more often than that, nobody has some partitions at all.
                **({"group.instance.id": self._instance_id} if self._instance_id else {}),
            }
        )
        consumer = Consumer(
            {
                **self._config,
                **protocol,
                "group.id": self._group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20 if is_embedded else 100,
                "queued.max.messages.kbytes": 16_384,
                "topic.metadata.refresh.interval.ms": int(REFRESH_SECONDS * 1000),
                "on_commit": self._note_commit,
            }
        )
        consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked)
        logger.info("joining the group %s on cluster %s", self._group, self._cluster_id)
        return consumer

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Say that it begins; a rebalance may also mean a broker that is new."""
        self._must_ask_cluster = True
        self._report.begin_assignment()
        logger.info(
            "consuming %d topics as group %s (%d partitions assigned)",
            len(self._topics),
            self._group,
            len(partitions),
        )
        if self._is_paused:
            # The assignment takes effect after this callback unless done here.
            # The newer protocol of groups adds; the classic one gives anew.
            if self._is_embedded:
                consumer.incremental_assign(partitions)
            else:
                consumer.assign(partitions)
            consumer.pause(partitions)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget partitions; whoever gets them finds in the inbox what was handled.

        Called between two batches, so that nothing is in hand, or while a record waits
        for a neighbour: it is handled here or there, once.
        """
        for place in partitions:
            self._next_offsets.pop((place.topic, place.partition), None)
        logger.info("%d partitions are revoked", len(partitions))

    def _close(self, consumer: Consumer) -> None:
        """Leave the group, if a broker can be told in time.

        With a commit under way and no broker, the client would wait for ever; the
        thread does not keep the process from ending.
        """
        closing = threading.Thread(target=consumer.close, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            logger.warning("no broker could be told that this consumer leaves")

    # --- What is said once ------------------------------------------------------------
    def _warn_of_missing(self, topics: Sequence[str]) -> None:
        new = [topic for topic in topics if topic not in self._warned_of]
        if new:
            self._warned_of.update(new)
            logger.warning(
                "missing topics: %s. `manage.py ensure_topics` creates them; they are "
                "consumed as soon as they exist",
                ", ".join(new),
            )

    def _note_error(self, error: KafkaError) -> None:
        """Take what librdkafka tells.

        It may be about one connection of several, or old by now: whether there is an
        outage is found out by asking the cluster.
        """
        self._must_ask_cluster = True
        if error.fatal() or error.code() in _FATAL:
            # Of those one is foreseen: a static member whose name another one has taken.
            self._fatal = (
                f"KAFKA_GROUP_INSTANCE_ID={self._instance_id}: another consumer has begun "
                "with this name, and each needs one of its own"
                if self._instance_id and "fenced" in error.str()
                else f"the Kafka client can't go on: {shown(error.str())}"
            )
        # "All brokers down" comes last and says least.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = error.str()

    def _note_out_of_reach(self, error: KafkaError) -> None:
        self._must_ask_cluster = True
        if not self._is_kafka_down:
            self._is_kafka_down = True
            reason = shown(self._last_error or error.str())
            logger.warning("Kafka: %s. Trying again until it answers", reason)

    def _note_reachable(self) -> None:
        if self._is_kafka_down:
            self._is_kafka_down = False
            logger.warning("Kafka answers again")
        self._last_error = ""

    def _note_commit(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        if error is not None:
            logger.info("offsets are not committed: %s", error.str())


def _bytes(value: str | bytes | None) -> bytes | None:
    """Return a key or a header's value as the bytes that it is."""
    return value.encode() if isinstance(value, str) else value
