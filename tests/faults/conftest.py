"""Real processes of the product on this test's neighbours, and what stands on the topic."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition
from django.db import connection

from scheduling.domain.actors import cli_actor
from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.domain.phases import PhaseData
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.schedule import Scheduled, schedule_many
from scheduling.topics import PHASE_TRANSITION

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("worker", "worker", "monitor", "pusher")


def wait_for(condition, *, seconds, what):
    """Wait until the condition holds; fail the test with `what` where it doesn't."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"waited {seconds} s for {what}")
    return None


class Cluster:
    """A `manage.py qcluster`, with its processes by role."""

    def __init__(self, environment, log, *, directory=ROOT):
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "qcluster"],
                cwd=directory,
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.seen = set()
        try:
            self.wait_ready()
        except BaseException:
            self.end()
            raise

    def wait_ready(self):
        wait_for(lambda: len(self.children()) == len(ROLES), seconds=60, what="the cluster")

    def sentinel(self):
        # What runs beside the cluster has no children.
        found = psutil.Process(self.process.pid).children()
        return next((one for one in found if one.children()), None)

    def children(self):
        """The sentinel's children in the order in which it starts them."""
        try:
            beside = psutil.Process(self.process.pid).children()
            self.seen.update(p.pid for p in beside)
            sentinel = self.sentinel()
            found = sentinel.children() if sentinel else []
        except psutil.NoSuchProcess:
            return []
        self.seen.update({self.process.pid, *(p.pid for p in found)})
        if sentinel:
            self.seen.add(sentinel.pid)
        return sorted(found, key=lambda p: p.pid)

    def pid_of(self, role):
        """The process of a role: command, sentinel, worker, monitor or pusher."""
        if role == "command":
            return self.process.pid
        if role == "sentinel":
            return self.sentinel().pid
        return self.children()[ROLES.index(role)].pid

    def pids(self):
        """Every process of it that lives."""
        return [pid for pid in self.seen if _lives(pid)]

    def stop(self):
        """Stop it as an operator does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def end(self):
        """End whatever is left of it."""
        self.children()
        for pid in [*self.pids(), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(5)


def _lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start_cluster(process_environment, tmp_path):
    """Return a starter of clusters; what still runs at the end of the test is ended."""
    started = []

    def start(**environment):
        cluster = Cluster(process_environment | environment, tmp_path / "cluster.log")
        started.append(cluster)
        return cluster

    yield start
    for cluster in started:
        cluster.end()
    log = tmp_path / "cluster.log"
    if log.exists():
        print(log.read_text()[-3000:])


@dataclass
class Record:
    """A record on the topic."""

    partition: int
    offset: int
    key: str
    headers: dict
    value: bytes
    at: datetime

    @property
    def event_id(self):
        return self.headers["event-id"]

    @property
    def job_id(self):
        return self.headers["job-id"]


def _record(message):
    return Record(
        message.partition(),
        message.offset(),
        message.key().decode(),
        {name: value.decode() for name, value in message.headers()},
        message.value(),
        datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC),
    )


class Topic:
    """What came onto the topic of transitions since the test began."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        reader = self._reader()
        self.starts = {
            number: reader.get_watermark_offsets(
                TopicPartition(PHASE_TRANSITION, number), timeout=10
            )[1]
            for number in self._partitions(reader)
        }
        reader.close()

    def _reader(self):
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"reader-{os.getpid()}-{time.monotonic_ns()}",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )

    def _partitions(self, reader):
        return list(
            reader.list_topics(PHASE_TRANSITION, 10).topics[PHASE_TRANSITION].partitions
        )

    def records(self):
        """Every record since the start, partition by partition."""
        reader = self._reader()
        ends = {
            number: reader.get_watermark_offsets(
                TopicPartition(PHASE_TRANSITION, number), timeout=10
            )[1]
            for number in self.starts
        }
        reader.assign(
            [TopicPartition(PHASE_TRANSITION, n, start) for n, start in self.starts.items()]
        )
        count = sum(ends[n] - start for n, start in self.starts.items())
        found = []
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            for message in reader.consume(500, 0.1):
                assert message.error() is None, message.error()
                # Others may write to a real cluster's topic meanwhile.
                if message.offset() < ends[message.partition()]:
                    found.append(message)
        reader.close()
        assert len(found) == count
        # What other tests put there need not be a transition.
        return [_record(message) for message in found if message.headers()]


@pytest.fixture
def slow_broker(embedded_kafka):
    """Return a switch for how many milliseconds the broker takes for each answer."""
    return embedded_kafka.set_rtt


@pytest.fixture
def topic(kafka):
    """Return what comes onto the topic of transitions from now on."""
    return Topic(kafka)


_bases = iter(range(time.time_ns() // 1_000_000, 2**53, 1_000_000))


@pytest.fixture
def plant(transactional_db):
    """Return a scheduler of many jobs: `count` of them over `seconds`, on `keys` keys."""

    def sow(count, *, seconds=0.0, starts_in=2.0, keys=5):
        base = next(_bases)
        start = datetime.now(UTC) + timedelta(seconds=starts_in + 0.1)
        items = []
        for number in range(count):
            due = start + timedelta(seconds=seconds * number / count)
            items.append(
                PhaseData(
                    project_id=str(base + number % keys),
                    phase_id=str(number + 1),
                    phase_type_name="Submission",
                    state=TransitionKind.END,
                    end_time=due.replace(microsecond=due.microsecond // 1000 * 1000),
                    operator="tests",
                    project_status="ACTIVE",
                )
            )
        results = schedule_many(items, actor=cli_actor("tests"), now=datetime.now(UTC))
        assert all(isinstance(result, Scheduled) for result in results), results[:3]
        return [result.job.job_id for result in results]

    return sow


def completed(job_ids):
    """How many of the jobs are completed."""
    return ScheduledTransition.objects.filter(
        job_id__in=job_ids, status=TransitionStatus.COMPLETED
    ).count()


def wait_completed(job_ids, *, seconds):
    """Wait until all jobs are completed."""

    def done():
        try:
            return completed(job_ids) == len(job_ids)
        except Exception:  # noqa: BLE001 -- the database may be away
            connection.close()
            return False

    wait_for(done, seconds=seconds, what=f"{len(job_ids)} jobs to be completed")


def check_fired_rightly(job_ids, topic, *, most_repeats=0):
    """Check the promises on rows, audit and topic: not lost, early, twice or disordered."""
    rows = {
        job.job_id: job for job in ScheduledTransition.objects.filter(job_id__in=job_ids)
    }
    by_job = defaultdict(list)
    firsts = []
    seen = set()
    for record in topic.records():
        if record.job_id in rows:
            by_job[record.job_id].append(record)
            if record.event_id not in seen:
                seen.add(record.event_id)
                firsts.append(record)
    lost = [job_id for job_id in job_ids if job_id not in by_job]
    assert not lost, f"{len(lost)} lost"
    for job_id, records in by_job.items():
        job = rows[job_id]
        assert {record.event_id for record in records} == {str(job.event_id)}
        assert {record.key for record in records} == {job.key}
        assert len({record.value for record in records}) == 1
        early = [record for record in records if record.at < job.due_at]
        assert not early, f"{job_id} was early"
        places = {(record.partition, record.offset) for record in records}
        assert (job.topic_partition, job.topic_offset) in places
    repeats = sum(len(records) - 1 for records in by_job.values())
    assert repeats <= most_repeats, f"{repeats} repeated records"
    last = {}
    for record in firsts:
        due = rows[record.job_id].due_at
        assert last.get((record.partition, record.key), due) <= due, "order of a key"
        last[record.partition, record.key] = due
    check_audit_chain(job_ids)


def check_audit_chain(job_ids):
    """Check that each job's audit leads step by step to its status, and fired once."""
    histories = defaultdict(list)
    for entry in AuditEntry.objects.filter(job_id__in=job_ids).order_by("id"):
        histories[entry.job_id].append(entry)
    for job in ScheduledTransition.objects.filter(job_id__in=job_ids):
        status = ""
        for entry in histories[job.job_id]:
            assert entry.old_status == status, [e.action for e in histories[job.job_id]]
            status = entry.new_status
        assert status == job.status
        fired = [e for e in histories[job.job_id] if e.action == "transition.completed"]
        assert len(fired) == 1
