"""The real consume loop in a thread, and what goes onto and comes off its topics."""

import base64
import contextlib
import json
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from django.conf import settings
from django.db import connections

from scheduling.consumers.loop import ConsumerLoop, StopRequest
from scheduling.models import DeadLetter, InboxMessage
from scheduling.services.routes import ROUTES
from scheduling.topics import COMMAND_RESULT, CONSUMED_TOPICS, dead_letter_topic

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30
LARGEST_SENT_BYTES = 8_000_000
# Where a record stands: its topic, partition and offset.
Place = tuple[str, int, int]


def wait_until(holds, *, seconds=20, what="it"):
    """Wait for a condition; return its value, or fail and name what did not come."""
    deadline = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.02)


def client(**more):
    """Return librdkafka settings for a client of a test."""
    return {**settings.KAFKA_CLIENT, "log_level": 0, **more}


def partitions_of(reader, topics):
    """Return every partition of the topics."""
    metadata = reader.list_topics(timeout=10).topics
    return [(topic, number) for topic in topics for number in metadata[topic].partitions]


def go_to_the_end(group, topics=CONSUMED_TOPICS):
    """Let a group begin with what is sent from now on: a real cluster keeps the rest."""
    reader = Consumer(client(**{"group.id": group}))
    ends = [
        TopicPartition(topic, number, _end(reader, topic, number))
        for topic, number in partitions_of(reader, topics)
    ]
    reader.commit(offsets=ends, asynchronous=False)
    reader.close()


def _end(reader, topic, number):
    deadline = time.monotonic() + 10
    while True:
        try:
            place = TopicPartition(topic, number)
            return reader.get_watermark_offsets(place, timeout=10)[1]
        except KafkaException:
            # A topic that was just made has no leader yet.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A record that the product put on a topic."""

    topic: str
    key: bytes | None
    headers: dict
    payload: dict
    envelope: dict


def _envelope(value):
    """Return what a record of the product says; None of what other tests put there.

    On a real cluster all share the topics.
    """
    try:
        said = json.loads(value)
    except ValueError:
        return None
    return said if isinstance(said, dict) and "payload" in said else None


class Watcher:
    """Reads what comes onto topics from its making on, or all of topics of its own."""

    def __init__(self, topics, *, from_beginning=False):
        self._reader = Consumer(
            client(
                **{
                    "group.id": f"watcher-{uuid.uuid4()}",
                    "enable.auto.commit": False,
                    "fetch.wait.max.ms": 10,
                    "fetch.message.max.bytes": LARGEST_SENT_BYTES,
                }
            )
        )
        self._reader.assign(
            [
                TopicPartition(topic, number, 0 if from_beginning else end)
                for topic, number in partitions_of(self._reader, topics)
                # Waits for a leader, too.
                for end in [_end(self._reader, topic, number)]
            ]
        )
        self.found = []

    def read(self):
        """Return all that came until now."""
        while messages := self._reader.consume(100, 0.02):
            for message in messages:
                assert message.error() is None, message.error()
                envelope = _envelope(message.value())
                if envelope is None:
                    continue
                self.found.append(
                    Found(
                        topic=message.topic(),
                        key=message.key(),
                        headers={k: v.decode() for k, v in message.headers() or []},
                        payload=envelope["payload"],
                        envelope=envelope,
                    )
                )
        return self.found

    def wait_for(self, holds, *, number=1, what="a record"):
        """Return the records for which it holds, once there are so many of them."""

        def enough():
            chosen = [record for record in self.read() if holds(record)]
            return chosen if len(chosen) >= number else None

        return wait_until(enough, what=what) if number else []

    def wait_for_all(self, number, *, seconds):
        """Return what came, once there are so many."""

        def enough():
            return self.found if len(self.read()) >= number else None

        return wait_until(enough, seconds=seconds, what=f"{number} records")

    def close(self):
        """Leave the cluster."""
        self._reader.close()


class Sender:
    """Puts records on topics and tells where they stand."""

    def __init__(self):
        self._producer = Producer(
            client(
                **{
                    "linger.ms": 0,
                    "message.max.bytes": LARGEST_SENT_BYTES,
                    # So soon a topic that does not exist is given up.
                    "topic.metadata.propagation.max.ms": 500,
                }
            )
        )

    def send(self, topic, value, *, key=None, headers=None):
        """Return the record's place once a broker has it.

        Raises:
            KafkaException: No broker takes it.
        """
        (place,) = self.send_all([(topic, value, key, headers)])
        if isinstance(place, KafkaException):
            raise place
        return place

    def send_all(self, records):
        """Send `(topic, value, key, headers)`; return a place, or an error, for each."""
        places = [None] * len(records)

        def note(number):
            def note_one(error, message):
                places[number] = (
                    KafkaException(error)
                    if error
                    else (message.topic(), message.partition(), message.offset())
                )

            return note_one

        for number, (topic, value, key, headers) in enumerate(records):
            self._producer.produce(
                topic, value, key=key, headers=headers or {}, on_delivery=note(number)
            )
            self._producer.poll(0)
        assert self._producer.flush(20) == 0
        return places


class RunningConsumer:
    """A `ConsumerLoop` on all topics with a route, in a thread, until it is closed."""

    def __init__(self):
        self.group = f"test-{uuid.uuid4()}"
        go_to_the_end(self.group)
        self.watcher = Watcher(
            [COMMAND_RESULT, *(dead_letter_topic(topic) for topic in CONSUMED_TOPICS)]
        )
        self.sender = Sender()
        # It asks for offsets, and never joins.
        self._asker = Consumer(client(**{"group.id": self.group}))
        self._partitions = partitions_of(self._asker, list(ROUTES))
        self._stop = StopRequest()
        self.loop = ConsumerLoop(
            client_config=settings.KAFKA_CLIENT,
            topics=list(ROUTES),
            group=self.group,
            stop=self._stop,
        )
        self._thread = threading.Thread(target=self._run, daemon=True, name="consumer")
        self._thread.start()

    def _run(self):
        try:
            self.loop.run()
        finally:
            connections.close_all()

    @property
    def is_alive(self):
        """Whether it still consumes."""
        return self._thread.is_alive()

    def wait_handled(self, places, *, seconds=START_SECONDS):
        """Wait until each of the records has its inbox row; return the rows by place."""
        wanted = set(places)

        def all_of_them():
            assert self.is_alive, "the consumer has ended"
            rows = inbox_rows(wanted)
            return rows if rows.keys() == wanted else None

        return wait_until(all_of_them, seconds=seconds, what="the inbox rows")

    def committed(self):
        """Return the group's offset of every partition it has any of."""
        asked = [TopicPartition(*one) for one in self._partitions]
        places = self._asker.committed(asked, timeout=10)
        return {(place.topic, place.partition): place.offset for place in places}

    def wait_committed(self, places):
        """Wait until the group's offsets lie behind all of the records."""

        def all_of_them():
            offsets = self.committed()
            return all(offsets[topic, number] > at for topic, number, at in places)

        wait_until(all_of_them, what="the group's offset")

    def close(self):
        """Stop it in order."""
        self._stop.set()
        self._thread.join(20)
        assert not self.is_alive, "the consumer does not stop"
        self.watcher.close()
        self._asker.close()


def inbox_rows(places):
    """Return the inbox rows of the records that have one, by place."""
    rows = InboxMessage.objects.filter(topic__in={topic for topic, _, _ in places})
    found = {(row.topic, row.partition, row.offset): row for row in rows}
    return {place: found[place] for place in places if place in found}


def dead_letters(places):
    """Return the dead letters of the records, in the table, by place."""
    rows = DeadLetter.objects.filter(topic__in={topic for topic, _, _ in places})
    found = {}
    for row in rows:
        place = (row.topic, row.partition, row.offset)
        if place in places:
            assert place not in found, f"{place} is set aside twice"
            found[place] = row
    return found


def original_place(found):
    """Return where the record of a dead letter on a topic stood."""
    payload = found.payload
    return (
        payload["originalTopic"],
        payload["originalPartition"],
        payload["originalOffset"],
    )


def original_bytes(found):
    """Return the bytes that a dead letter on a topic holds."""
    text = found.payload["originalMessage"]
    return None if text is None else base64.b64decode(text, validate=True)


@contextlib.contextmanager
def running_consumer():
    """Run a consumer for as long as the block lasts."""
    consumer = RunningConsumer()
    try:
        yield consumer
    finally:
        consumer.close()


class ConsumerProcess:
    """A `consume_events` as a process, or a script that stands in for it, with its log."""

    def __init__(self, environment, log, *, script=None):
        self._log = log
        command = [str(script)] if script else ["manage.py", "consume_events"]
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    @property
    def log(self):
        """All that it has printed."""
        return self._log.read_text(errors="replace")

    def wait_for_line(self, text, *, seconds=30):
        """Wait until it has printed that."""
        try:
            wait_until(lambda: text in self.log, seconds=seconds, what=text)
        except AssertionError as error:
            raise AssertionError(f"{error}; the log is\n{self.log[-3000:]}") from None

    def kill(self):
        """End it with no chance to put anything in order."""
        self.process.kill()
        self.process.wait(10)

    def stop(self):
        """Ask it to end, and return its exit code."""
        self.process.terminate()
        return self.process.wait(20)
