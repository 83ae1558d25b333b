"""The consumer as the process it is: records in, rows out, whatever happens to it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from django.db import connection
from django.utils import timezone

from scheduling.adapters.embedded_kafka import EmbeddedKafka
from scheduling.adapters.tcp_forwarder import TcpForwarder
from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, InboxMessage, ProcessState, ScheduledTransition
from scheduling.topics import (
    ALL_TOPICS,
    CHALLENGE_UPDATE,
    CONSUMED_TOPICS,
    NOTIFICATION_CREATE,
    NOTIFICATION_UPDATE,
)

MANAGE = Path(__file__).resolve().parents[3] / "manage.py"
CONSUMED = list(CONSUMED_TOPICS)
# After so long without a word a member is taken for dead.
SESSION_SECONDS = 6
# A real cluster keeps what earlier runs wrote: each run has ids of its own.
_numbers = count(int(time.time() * 1000) * 1000)
pytestmark = [pytest.mark.processes, pytest.mark.first_start, pytest.mark.timeout(90)]


def wait_until(holds, *, seconds=30, what="it"):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s")


class ConsumerProcess:
    """A `consume_events` with its log."""

    def __init__(self, environment, log):
        self._log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, str(MANAGE), "consume_events"],
                env=environment,
                stderr=sink,
                stdout=sink,
                start_new_session=True,
            )

    @property
    def log(self):
        return self._log.read_text()

    def wait_for_line(self, text, *, times=1, seconds=30):
        try:
            wait_until(lambda: self.log.count(text) >= times, seconds=seconds, what=text)
        except AssertionError as error:
            raise AssertionError(f"{error}; the log is\n{self.log[-3000:]}") from None

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def stop(self, number=signal.SIGTERM):
        """Ask it to end; return its exit code and how long it took."""
        asked_at = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(20), time.monotonic() - asked_at


def go_to_the_end(bootstrap, group):
    """Let the group begin with what is sent from now on: a real cluster keeps the rest."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    ends = []
    for topic in CONSUMED:
        for partition in reader.list_topics(topic, timeout=10).topics[topic].partitions:
            place = TopicPartition(topic, partition)
            place.offset = reader.get_watermark_offsets(place, timeout=10)[1]
            ends.append(place)
    reader.commit(offsets=ends, asynchronous=False)
    reader.close()


@pytest.fixture
def start(request, process_environment, kafka, tmp_path):
    """Return a starter of consumers, all of one group of this test."""
    group = f"test-{uuid.uuid4()}"
    is_real = "embedded_kafka" not in request.fixturenames
    if is_real and os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        go_to_the_end(kafka, group)
    logs = count(1)
    with contextlib.ExitStack() as stack:

        def begin(*, is_awaited=True, **environment):
            consumer = ConsumerProcess(
                {**process_environment, "KAFKA_CONSUMER_GROUP": group, **environment},
                tmp_path / f"consumer-{next(logs)}.log",
            )
            stack.callback(consumer.kill)
            if is_awaited:
                consumer.wait_for_line(f"consuming 5 topics as group {group}")
            return consumer

        yield begin


@pytest.fixture
def send(kafka):
    """Return a sender of values, each acknowledged when it returns."""
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 0, "log_level": 0})

    def produce(*values, topic=CHALLENGE_UPDATE, headers=None):
        for value in values:
            producer.produce(topic, value, key=b"key", headers=headers)
        assert producer.flush(20) == 0

    return produce


@pytest.fixture
def update(now):
    """Return a maker of updates of new challenges with two phases each."""

    def make(number=None, *, due_in=5):
        number = number or next(_numbers)
        return json.dumps(
            {
                "topic": CHALLENGE_UPDATE,
                "originator": "test",
                "timestamp": format_instant(now),
                "mimeType": "application/json",
                "payload": {
                    "projectId": number,
                    "challengeId": number,
                    "status": "ACTIVE",
                    "operator": "admin",
                    "phases": [
                        {
                            "phaseId": phase,
                            "phaseTypeName": "Registration",
                            "endTime": format_instant(now + timedelta(hours=due_in)),
                        }
                        for phase in (1, 2)
                    ],
                },
            }
        ).encode()

    return make


def project_of(value):
    return str(json.loads(value)["payload"]["projectId"])


def made(values):
    """Return how many jobs were ever made of each value's project."""
    projects = {project_of(value) for value in values}
    scheduled = AuditEntry.objects.filter(
        action="transition.scheduled", project_id__in=projects
    )
    return Counter(scheduled.values_list("project_id", flat=True))


def wait_for_jobs(values, *, seconds=30):
    wanted = {project_of(value): 2 for value in values}
    wait_until(lambda: made(values) == wanted, seconds=seconds, what="the jobs")


class TestConsumeEvents:
    def test_makes_jobs_of_what_upstream_tells(self, start, send, update, now):
        consumer = start()
        value = update()

        send(value)

        wait_for_jobs([value])
        jobs = ScheduledTransition.objects.filter(project_id=project_of(value))
        assert {job.due_at for job in jobs} == {now + timedelta(hours=5)}
        assert consumer.process.poll() is None

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_in_order_when_asked(self, start, send, update, number):
        consumer = start()
        values = [update() for _ in range(20)]
        send(*values)
        wait_until(lambda: made(values), what="the first job")

        code, seconds = consumer.stop(number)

        assert (code, seconds < 10) == (0, True)
        successor = start()
        wait_for_jobs(values)
        assert "Traceback" not in consumer.log + successor.log

    def test_goes_on_where_another_one_ended(self, start, send, update):
        first = update()
        send(first)
        consumer = start()
        wait_for_jobs([first])
        assert consumer.stop()[0] == 0
        noted = InboxMessage.objects.count()

        second = update()
        send(second)
        start()

        wait_for_jobs([first, second])
        assert made([first, second]) == {project_of(first): 2, project_of(second): 2}
        if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
            # A real cluster's topics also hold what other tests put there.
            assert InboxMessage.objects.count() == noted + 1

    def test_has_each_effect_once_after_being_killed_in_the_middle(
        self, start, send, update
    ):
        values = [update() for _ in range(300)]
        send(*values)
        consumer = start()
        wait_until(lambda: made(values), what="the first job")

        consumer.kill()
        successor = start()

        wait_for_jobs(values, seconds=40)
        sentinel = update()
        send(sentinel)
        wait_for_jobs([sentinel])
        assert made(values) == {project_of(value): 2 for value in values}
        assert "Traceback" not in successor.log

    def test_shares_the_work_with_others(self, start, send, update):
        first, second = start(), start(is_awaited=False)
        # With one partition for each topic there may be nothing left for the second.
        second.wait_for_line("joining the group")
        values = [update() for _ in range(50)]

        send(*values)

        wait_for_jobs(values)
        assert (first.stop()[0], second.stop()[0]) == (0, 0)

    def test_handles_the_same_event_once(self, start, send, update):
        start()
        value, other, sentinel = update(), update(), update()
        headers = {"event-id": str(uuid.uuid4())}

        send(value, other, headers=headers)
        send(sentinel)

        wait_for_jobs([value, sentinel])
        assert made([other]) == {}

    def test_sets_garbage_between_valid_records_aside(self, start, send, update):
        consumer = start()
        values = [update(), update(), update()]
        hostile = json.dumps({"topic": "a\nINFO forged\x1b[2J", "timestamp": 1}).encode()
        noted = InboxMessage.objects.filter(outcome="refused").count()

        send(values[0], b"\xff\x00", values[1], None, hostile, b"[]", values[2])

        wait_for_jobs(values)
        assert InboxMessage.objects.filter(outcome="refused").count() == noted + 4
        assert consumer.log.count("is set aside") == 4
        assert not any(line.startswith("INFO forged") for line in consumer.log.splitlines())
        assert "\x1b" not in consumer.log

    def test_reads_notifications_too(self, start, send, now):
        start()
        number = next(_numbers)
        for topic, status in (
            (NOTIFICATION_CREATE, "DRAFT"),
            (NOTIFICATION_UPDATE, "ACTIVE"),
        ):
            phase = {
                "id": number,
                "name": "Registration",
                "scheduledStartDate": format_instant(now + timedelta(hours=1)),
                "scheduledEndDate": format_instant(now + timedelta(hours=2)),
            }
            payload = {"id": number, "projectId": number, "status": status}
            payload["phases"] = [phase]
            value = {"topic": topic, "timestamp": format_instant(now), "payload": payload}
            send(json.dumps(value).encode(), topic=topic)
            noted = InboxMessage.objects.filter(topic=topic)
            wait_until(noted.exists, what="the inbox row")

        jobs = ScheduledTransition.objects.filter(project_id=str(number))
        wait_until(lambda: jobs.count() == 2, what="the jobs")
        assert {job.project_status for job in jobs} == {"ACTIVE"}


class TestConsumeEventsWithoutNeighbours:
    def test_refuses_to_start_without_a_database(self, start, tmp_path):
        consumer = start(is_awaited=False, DATABASE_URL=f"sqlite:///{tmp_path}/none.db")

        assert consumer.process.wait(20) == 1
        assert "was `manage.py migrate` run?" in consumer.log
        assert "Traceback" not in consumer.log

    def test_waits_for_a_broker_and_ends_when_asked(self, start):
        consumer = start(is_awaited=False, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
        consumer.wait_for_line("Trying again until it answers")

        code, seconds = consumer.stop()

        assert (code, seconds < 10) == (0, True)
        assert consumer.log.count("Kafka:") == 1

    def test_waits_for_topics_that_are_missing(self, start, update, tmp_path):
        others = set(CONSUMED) - {CHALLENGE_UPDATE}
        with EmbeddedKafka(topics=dict.fromkeys(others, 1)) as broker:
            consumer = start(KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap)
            consumer.wait_for_line(f"missing topics: {CHALLENGE_UPDATE}")
            value = update()

            broker.create_topic(CHALLENGE_UPDATE, partitions=1)
            _send_to(broker, value)

            wait_for_jobs([value])
            assert consumer.log.count("missing topics") == 1


@pytest.mark.usefixtures("embedded_kafka")
class TestConsumeEventsInOutages:
    def test_tells_no_lag_when_the_group_takes_it_in_again(self, start, send, update):
        def lag_told_after(instant):
            states = ProcessState.objects.filter(kind="consumer", seen_at__gt=instant)
            return next((state.figures["lag"] for state in states), None)

        started_at = timezone.now()
        consumer = start()
        wait_until(lambda: lag_told_after(started_at), what="the first figures")
        values = [update() for _ in range(3)]
        send(*values)
        wait_for_jobs(values)

        consumer.process.send_signal(signal.SIGSTOP)
        time.sleep(SESSION_SECONDS + 4)
        consumer.process.send_signal(signal.SIGCONT)
        consumer.wait_for_line("partitions assigned", times=2, seconds=40)

        later = timezone.now() + timedelta(seconds=3)
        wait_until(lambda: lag_told_after(later), what="the figures")
        assert sum(lag_told_after(later).values()) == 0

    def test_goes_on_when_the_broker_is_back(self, start, send, update, embedded_kafka):
        consumer = start()
        first, second = update(), update()
        send(first)
        wait_for_jobs([first])

        embedded_kafka.down()
        consumer.wait_for_line("Trying again until it answers")
        time.sleep(2)
        embedded_kafka.up()
        send(second)

        wait_for_jobs([second], seconds=20)
        consumer.wait_for_line("Kafka answers again")
        assert consumer.log.count("Kafka:") == 1

    def test_ends_when_asked_while_the_broker_is_away(
        self, start, send, update, embedded_kafka
    ):
        consumer = start()
        value = update()
        send(value)
        wait_for_jobs([value])
        embedded_kafka.down()
        consumer.wait_for_line("Trying again until it answers")

        code, seconds = consumer.stop()

        assert (code, seconds < 10) == (0, True)

    def test_reads_all_of_a_broker_that_took_the_place_of_another(self, start, update):
        old = EmbeddedKafka(topics=dict.fromkeys(ALL_TOPICS, 1))
        port = int(old.bootstrap.rpartition(":")[2])
        firsts, seconds = [update(), update(), update()], [update(), update()]
        try:
            consumer = start(KAFKA_BOOTSTRAP_SERVERS=old.bootstrap)
            _send_to(old, *firsts)
            wait_for_jobs(firsts)
        finally:
            old.close()

        with EmbeddedKafka(port=port, topics=dict.fromkeys(ALL_TOPICS, 1)) as new:
            _send_to(new, *seconds)

            wait_for_jobs(seconds, seconds=40)
        assert "another Kafka cluster" in consumer.log
        assert made(firsts) == {project_of(value): 2 for value in firsts}

    def test_goes_on_when_the_database_is_back(
        self, start, send, update, process_environment
    ):
        if connection.vendor != "postgresql":
            pytest.skip("a database without a server has no outage")
        address = f"{connection.settings_dict['HOST']}:{connection.settings_dict['PORT']}"
        port = int(connection.settings_dict["PORT"])
        with contextlib.closing(TcpForwarder(port=0, target_port=port)) as way:
            url = process_environment["DATABASE_URL"]
            assert address in url
            consumer = start(DATABASE_URL=url.replace(address, f"127.0.0.1:{way.port}"))
            values = [update() for _ in range(30)]
            way.down()
            send(*values)
            consumer.wait_for_line("consumption is paused")
            time.sleep(3)
            way.up()

            wait_for_jobs(values, seconds=20)
            assert consumer.log.count("consumption is paused") == 1
            consumer.wait_for_line("consumption goes on")
            assert consumer.stop()[0] == 0


def _send_to(broker, *values):
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for value in values:
        producer.produce(CHALLENGE_UPDATE, value)
    assert producer.flush(20) == 0
