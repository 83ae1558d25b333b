"""What is measured of the consumer: records a second, valid ones and garbage, and memory.

A consumer process of the benchmark's own, in a group of its own, reads the topic
`autopilot.challenge.update` from its present end on. Time runs from the first record sent
until the group's offsets lie behind the last one: then each effect and each offset is
committed. The records stay on the topic, and the dead letters on theirs.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, Producer, TopicPartition
from django.core.management.base import CommandError
from django.db import connection
from django.db.models import Q, QuerySet
from django.db.models.functions import Length

from autopilot_site.benchmarks.jobs import FIRST_PROJECT, OPERATOR, Tick, of_benchmarks
from autopilot_site.benchmarks.machine import Control
from autopilot_site.benchmarks.measures import Bench, Figures
from autopilot_site.benchmarks.processes import Process, cpu_between, cpu_seconds
from scheduling.adapters.clock import database_now
from scheduling.domain.phases import LARGEST_ID, format_instant
from scheduling.models import Challenge, DeadLetter, InboxMessage, OutgoingRecord
from scheduling.topics import CHALLENGE_UPDATE, CONSUMED_TOPICS

# So many records may wait on the topic: the consumer never starves, and the embedded
# broker, which keeps little, forgets none of them.
LARGEST_BACKLOG = 4_000
WARM_UP_RECORDS = 200
PATIENCE_SECONDS = 120.0
SLOWEST_RECORDS_PER_SECOND = 20.0
START_SECONDS = 45.0
REQUEST_SECONDS = 10.0
POLL_SECONDS = 0.02
MEMORY_SAMPLES = 10
_CHUNK = 1_000
# Ids above those of the other measurements, different ones in one second and the next.
_FIRST_PROJECT = FIRST_PROJECT + 50_000_000
_IDS_PER_RUN = 1_000_000
_RUNS = 200
Make = Callable[[int], bytes]
Row = TypeVar("Row", DeadLetter, InboxMessage)
# A topic and a partition.
Place = tuple[str, int]


def measure_consume(bench: Bench, *, records: int) -> Figures:
    """Let a consumer handle so many updates of two phases each, then as much garbage."""
    with _Stand(bench) as stand:
        now, due = database_now(), bench.workload.far_ahead()
        warm = _FIRST_PROJECT + int(now.timestamp()) % _RUNS * _IDS_PER_RUN
        first = warm + WARM_UP_RECORDS
        stand.warm_up(lambda number: _update(warm + number, due, now=now))
        updates = stand.run(
            "updates", records, lambda number: _update(first + number, due, now=now)
        )
        jobs = of_benchmarks().filter(
            project_id__gte=str(first), project_id__lt=str(first + records)
        )
        updates["jobs"] = jobs.count()
        garbage = stand.run("garbage", records, _garbage)
        return {"updates": updates, "garbage": garbage | stand.wait_for_dead_letters()}


def problems_of(figures: Mapping[str, Any]) -> list[str]:
    """Name what must never be seen, whatever the speed.

    Others may send to the same topic meanwhile: more than was sent is no problem.
    """
    updates, garbage = figures["updates"], figures["garbage"]
    found = []
    for name, part in figures.items():
        if part["handled"] < part["records"]:
            found.append(f"{part['handled']} of {part['records']} {name} were handled")
    if updates["jobs"] != 2 * updates["records"]:
        found.append(f"{updates['jobs']} jobs were made of {updates['records']} updates")
    if garbage["deadLetters"] < garbage["records"]:
        found.append(f"{garbage['deadLetters']} of {garbage['records']} were set aside")
    if garbage["deadLettersSent"] < garbage["records"]:
        found.append(f"{garbage['deadLettersSent']} dead letters are on their topic")
    return found


class _Stand:
    """A consumer process, what it is fed with, and what is left of it at the end."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._group = f"autopilot-benchmark-{bench.workload.run}"
        client = {**bench.client, "log_level": 0}
        self._producer = Producer({**client, "linger.ms": 5, "acks": "all"})
        # It asks for offsets, and never joins the group.
        self._asker = Consumer({**client, "group.id": self._group})
        self._process = Process(
            ["consume_events"],
            environment={
                "KAFKA_BOOTSTRAP_SERVERS": str(bench.client["bootstrap.servers"]),
                "KAFKA_CONSUMER_GROUP": self._group,
                "LOG_LEVEL": "ERROR",
            },
        )
        self._starts: dict[Place, int] = {}
        self._began: dict[Place, int] = {}
        self._began_at = 0.0

    def __enter__(self) -> Self:
        self._starts = {
            (topic, number): self._end(topic, number)
            for topic in CONSUMED_TOPICS
            for number in self._partitions(topic)
        }
        self._asker.commit(
            offsets=[TopicPartition(*place, end) for place, end in self._starts.items()],
            asynchronous=False,
        )
        self._process.__enter__()
        self._process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._process.__exit__(kind, error, traceback)
        finally:
            self._producer.purge()
            self._clear_away()
            self._asker.close()

    # --- Feeding and waiting ----------------------------------------------------------
    def warm_up(self, make: Make) -> None:
        """Wait until the consumer has joined its group and handled a few records."""
        with self._bench.stage("consume: starting the consumer", 1):
            self._feed(WARM_UP_RECORDS, make, tick=lambda _: None)
            self._wait(give_up_after=START_SECONDS)

    def run(self, title: str, number: int, make: Make) -> Figures:
        """Send so many records and return the figures of their handling."""
        self._began = self._ends([CHALLENGE_UPDATE])
        memory = [self._memory()]
        cpu = cpu_seconds(self._process.tree())
        self._began_at = began_at = time.monotonic()
        with (
            self._bench.stage(f"consume: {title}", number) as tick,
            Control() as control,
        ):
            step = max(1, number // MEMORY_SAMPLES)
            for start in range(0, number, step):
                size = min(step, number - start)
                self._feed(size, lambda at, start=start: make(start + at), tick=tick)  # type: ignore[misc]
                memory.append(self._memory())
            self._wait(give_up_after=PATIENCE_SECONDS + number / SLOWEST_RECORDS_PER_SECOND)
        seconds = time.monotonic() - began_at
        used = cpu_between(cpu, cpu_seconds(self._process.tree()))
        return {
            "records": number,
            "handled": self._rows(InboxMessage.objects.all()).count(),
            "seconds": round(seconds, 3),
            "recordsPerSecond": round(number / seconds, 1),
            "cpuMsPerRecord": round(1000 * used / number, 3),
            "memoryMb": [*memory, self._memory()],
            "control": control.result(),
        }

    def wait_for_dead_letters(self) -> Figures:
        """Wait until brokers have all dead letters, and return how many a second."""
        owed = OutgoingRecord.objects.filter(dead_letter__in=self._letters())
        with self._bench.stage("consume: sending the dead letters", 1):
            give_up_at = time.monotonic() + PATIENCE_SECONDS
            while (
                owed.filter(acknowledged_at=None).exists() and time.monotonic() < give_up_at
            ):
                self._process.check()
                time.sleep(0.1)
        seconds = time.monotonic() - self._began_at
        sent = owed.exclude(acknowledged_at=None).count()
        return {
            "deadLetters": self._letters().count(),
            "deadLettersSent": sent,
            "deadLettersSentPerSecond": round(sent / seconds, 1),
        }

    def _feed(self, number: int, make: Make, *, tick: Tick) -> None:
        """Send records, no faster than they are handled."""
        for start in range(0, number, _CHUNK):
            size = min(_CHUNK, number - start)
            for at in range(start, start + size):
                value = make(at)
                self._producer.produce(
                    CHALLENGE_UPDATE, value, key=str(at), on_delivery=self._delivered
                )
                self._producer.poll(0)
            left = self._producer.flush(REQUEST_SECONDS)
            if left:
                raise CommandError(f"the broker did not take {left} records")
            tick(size)
            while self._lag() > LARGEST_BACKLOG:
                self._process.check()
                time.sleep(POLL_SECONDS)

    def _delivered(self, error: object, _: object) -> None:
        """See that the broker took a record.

        Raises:
            CommandError: It did not.
        """
        if error is not None:
            raise CommandError(f"the broker refuses a record: {error}")

    def _wait(self, *, give_up_after: float) -> None:
        """Wait until the group's offsets lie behind all records.

        Raises:
            CommandError: They don't, in time.
        """
        give_up_at = time.monotonic() + give_up_after
        while lag := self._lag():
            self._process.check()
            if time.monotonic() > give_up_at:
                raise CommandError(
                    f"{lag:,} records are not handled:\n{self._process.tail()}"
                )
            time.sleep(POLL_SECONDS)

    # --- Asking -----------------------------------------------------------------------
    def _partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions.

        Raises:
            CommandError: It does not exist.
        """
        metadata = self._asker.list_topics(topic, timeout=REQUEST_SECONDS)
        partitions = list(metadata.topics[topic].partitions)
        if not partitions:
            raise CommandError(f"there is no topic {topic}: see `manage.py ensure_topics`")
        return partitions

    def _end(self, topic: str, number: int) -> int:
        """Return the offset behind a partition's last record."""
        place = TopicPartition(topic, number)
        return int(self._asker.get_watermark_offsets(place, timeout=REQUEST_SECONDS)[1])

    def _ends(self, topics: Collection[str] = CONSUMED_TOPICS) -> dict[Place, int]:
        """Return the offsets behind the last record of each partition."""
        return {
            (topic, number): self._end(topic, number)
            for topic, number in self._starts
            if topic in topics
        }

    def _lag(self) -> int:
        """Return how many records the group's offsets do not lie behind."""
        ends = self._ends([CHALLENGE_UPDATE])
        asked = [TopicPartition(*place) for place in ends]
        committed = self._asker.committed(asked, timeout=REQUEST_SECONDS)
        return sum(ends[one.topic, one.partition] - one.offset for one in committed)

    def _memory(self) -> float:
        """Return the consumer's own memory, in MiB."""
        return self._process.memory().uss

    def _letters(self) -> QuerySet[DeadLetter]:
        """Return the dead letters of the last run."""
        return self._rows(DeadLetter.objects.all())

    def _rows(self, rows: QuerySet[Row]) -> QuerySet[Row]:
        """Return those rows that are about records of the last run."""
        return rows.filter(_between(self._began, self._ends([CHALLENGE_UPDATE])))

    # --- Clearing away ----------------------------------------------------------------
    def _clear_away(self) -> None:
        """Delete what stands in the database of the records; jobs go with the others."""
        with self._bench.stage("consume: clearing away", 1):
            span = _between(self._starts, self._ends())
            letters = DeadLetter.objects.filter(span)
            OutgoingRecord.objects.filter(dead_letter__in=letters.values("pk")).delete()
            if connection.vendor == "postgresql":
                # For each dead letter the server looks for records of it, and has no
                # index for that: it shall look through what is left only.
                with connection.cursor() as cursor:
                    cursor.execute(f"VACUUM {OutgoingRecord._meta.db_table}")
            letters.delete()
            InboxMessage.objects.filter(span).delete()
            Challenge.objects.annotate(digits=Length("challenge_id")).filter(
                digits=len(str(LARGEST_ID)),
                challenge_id__gte=str(_FIRST_PROJECT),
                challenge_id__lte=str(LARGEST_ID),
            ).delete()
        self._bench.clear()


def _between(starts: Mapping[Place, int], ends: Mapping[Place, int]) -> Q:
    """Return the condition for the records of each partition between two offsets."""
    wanted = Q(pk__in=[])
    for (topic, number), start in starts.items():
        end = ends[topic, number]
        wanted |= Q(topic=topic, partition=number, offset__gte=start, offset__lt=end)
    return wanted


def _update(project: int, due: datetime, *, now: datetime) -> bytes:
    """Return an update of a new challenge with two phases."""
    phases = [
        {"phaseId": phase, "phaseTypeName": "Benchmark", "endTime": format_instant(due)}
        for phase in (1, 2)
    ]
    payload = {
        "projectId": project,
        "challengeId": project,
        "status": "ACTIVE",
        "operator": OPERATOR,
        "phases": phases,
    }
    return json.dumps(
        {
            "topic": CHALLENGE_UPDATE,
            "originator": "benchmark",
            "timestamp": format_instant(now),
            "mimeType": "application/json",
            "payload": payload,
        }
    ).encode()


def _garbage(number: int) -> bytes:
    """Return a record that is nothing."""
    return b"\xff garbage %d " % number + b"x" * 400
