"""What is measured: each function runs one measurement and returns its figures.

Instants are the database's, as the rows tell them. A job's lateness has three parts:
claim (due instant to the claim: timer, hand-over to a worker, claim), publish (claim to
the broker's acknowledgement: the claim's commit, produce) and completion (acknowledgement
to the statement that completes the row and writes the audit; its commit follows).
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError

from autopilot_site.benchmarks.jobs import (
    CHUNK,
    FIRST_PROJECT,
    Tick,
    Workload,
    of_benchmarks,
    whole_milliseconds,
)
from autopilot_site.benchmarks.machine import Control, spread
from autopilot_site.benchmarks.processes import (
    Process,
    cpu_between,
    cpu_seconds,
    database_processes,
)
from scheduling.adapters.clock import database_now
from scheduling.adapters.topic_reader import TopicReader
from scheduling.domain.actors import Actor
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import AuditEntry
from scheduling.services import schedule_phase_transition

Figures = dict[str, Any]
# Far more than any of it needs; a benchmark that can't finish says so.
PATIENCE_SECONDS = 120.0
SLOWEST_JOBS_PER_SECOND = 20.0
START_SECONDS = 45.0
# What a cluster does once after its start is over by then.
SETTLE_SECONDS = 5.0
MS = timedelta(milliseconds=1)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every measurement works with.

    stage: opens a line of progress, given its title and its total.
    client: librdkafka settings of the broker that the cluster uses.
    """

    workload: Workload
    cluster: Process
    client: Mapping[str, str | int | bool]
    actor: Actor
    stage: Callable[[str, float], AbstractContextManager[Tick]]

    def start_cluster(self) -> None:
        """Start the cluster, and see it publish, so that its workers are warm.

        Raises:
            CommandError: It ended, or published nothing in time.
        """
        with self.stage("starting the cluster", 1):
            self.cluster.start()
            due = whole_milliseconds(database_now() + self.workload.lead(20))
            self.workload.schedule([due] * 20, tick=lambda _: None)
            is_warm = self.workload.wait_until_done(
                due,
                timeout_seconds=START_SECONDS,
                poll_seconds=0.1,
                check=self.cluster.check,
            )
            if not is_warm:
                raise CommandError(f"the cluster publishes nothing:\n{self.cluster.tail()}")
        with self.stage("waiting for it to settle", SETTLE_SECONDS) as tick:
            _sleep(SETTLE_SECONDS, tick)
        self.clear()

    def wait(self, last_due: datetime, *, jobs: int, poll_seconds: float) -> bool:
        """Wait until all that is due is done, for a long while."""
        ahead = max(0.0, (last_due - database_now()).total_seconds())
        return self.workload.wait_until_done(
            last_due,
            timeout_seconds=ahead + PATIENCE_SECONDS + jobs / SLOWEST_JOBS_PER_SECOND,
            poll_seconds=poll_seconds,
            check=self.cluster.check,
        )

    def clear(self) -> None:
        """Remove the jobs of the measurement that is over."""
        with self.stage("clearing away", of_benchmarks().count()) as tick:
            self.workload.remove(tick=tick)


def measure_schedule(bench: Bench, *, calls: int, jobs: int) -> Figures:
    """Schedule one by one through the Python API, then many in thousands."""
    due = bench.workload.far_ahead()
    took = []
    with bench.stage("scheduling one by one", calls) as tick:
        for _ in range(calls):
            phase = bench.workload.phase(due)
            began_at = time.perf_counter()
            schedule_phase_transition(phase, actor=bench.actor)
            took.append((time.perf_counter() - began_at) * 1000)
            tick(1)
    with bench.stage("scheduling in bulk", jobs) as tick:
        began_at = time.perf_counter()
        bench.workload.schedule([due] * jobs, tick=tick)
        bulk_seconds = time.perf_counter() - began_at
    bench.clear()
    return {
        "calls": calls,
        "perSecond": _rate(calls, sum(took) / 1000),
        "callMs": spread(took),
        "bulkJobs": jobs,
        "bulkChunk": CHUNK,
        "bulkPerSecond": _rate(jobs, bulk_seconds),
    }


def measure_lateness(bench: Bench, *, jobs: int, window_seconds: float) -> Figures:
    """Let jobs come due one after the other, evenly over the window."""
    first = whole_milliseconds(database_now() + bench.workload.lead(jobs))
    step = timedelta(seconds=window_seconds) / jobs
    instants = [whole_milliseconds(first + step * number) for number in range(jobs)]
    figures = _fire(bench, "lateness", instants, poll_seconds=0.25)
    return {"windowSeconds": window_seconds, **figures}


def measure_burst(bench: Bench, *, jobs: int) -> Figures:
    """Let all jobs come due at one instant, each with a key of its own."""
    due = whole_milliseconds(database_now() + bench.workload.lead(jobs))
    return _fire(bench, "burst", [due] * jobs, poll_seconds=0.05)


def measure_burst_on_one_key(bench: Bench, *, jobs: int) -> Figures:
    """Let jobs of one key come due within a second, and read their order off the topic.

    They are made in another order than they are due in.
    """
    first = whole_milliseconds(database_now() + bench.workload.lead(jobs))
    instants = [first + MS * (number * 1000 // jobs) for number in range(jobs)]
    random.Random(1).shuffle(instants)  # noqa: S311 -- the same order each time
    with TopicReader(bench.client) as reader:
        starts = {number: span.end for number, span in reader.spans().items()}
        return _fire(
            bench,
            "burst on one key",
            instants,
            poll_seconds=0.05,
            challenge_id=str(FIRST_PROJECT),
            read=lambda: _order(reader, starts),
        )


def _fire(
    bench: Bench,
    title: str,
    instants: Sequence[datetime],
    *,
    poll_seconds: float,
    challenge_id: str | None = None,
    read: Callable[[], Figures] = dict,
) -> Figures:
    """Schedule the jobs, wait until they are published, and return the figures."""
    with bench.stage(f"{title}: scheduling", len(instants)) as tick:
        bench.workload.schedule(instants, tick=tick, challenge_id=challenge_id)
    is_in_time = database_now() < min(instants)
    with bench.stage(f"{title}: firing", 1), Control() as control:
        bench.wait(max(instants), jobs=len(instants), poll_seconds=poll_seconds)
    figures = {
        **_of_rows(len(instants)),
        **read(),
        "wereScheduledInTime": is_in_time,
        "control": control.result(),
    }
    bench.clear()
    return figures


def _of_rows(jobs: int) -> Figures:
    """Return the figures of the jobs that were published."""
    due, started, completed, final = _instants()
    lateness = [(at - then) / MS for at, then in zip(completed, due, strict=True)]
    seconds = (max(final) - min(due)).total_seconds() if final else 0.0
    claimed = (max(final) - min(started)).total_seconds() if final else 0.0
    return {
        "jobs": jobs,
        "completed": len(lateness),
        "audited": _completions_in_the_audit(),
        "early": sum(1 for value in lateness if value < 0),
        "seconds": round(seconds, 3),
        "jobsPerSecond": _rate(len(lateness), seconds),
        "jobsPerSecondFromFirstClaim": _rate(len(lateness), claimed),
        "latenessMs": spread(lateness),
        "claimMs": _between(due, started),
        "publishMs": _between(started, completed),
        "completionMs": _between(completed, final),
    }


def _instants() -> tuple[list[datetime], ...]:
    """Return when the published jobs were due, claimed, acknowledged and completed."""
    columns: tuple[list[datetime], ...] = ([], [], [], [])
    rows = of_benchmarks().filter(status=TransitionStatus.COMPLETED).order_by()
    for row in rows.values_list(
        "due_at", "started_at", "completed_at", "finalized_at"
    ).iterator(chunk_size=2_000):
        for column, instant in zip(columns, row, strict=True):
            if instant is None:
                raise AssertionError("a completed job has all four instants")
            column.append(instant)
    return columns


def _between(earlier: Sequence[datetime], later: Sequence[datetime]) -> Figures:
    """Return how the times between two instants of each job are spread, in ms."""
    return spread([(at - then) / MS for then, at in zip(earlier, later, strict=True)])


def _completions_in_the_audit() -> int:
    """Return how many of the present jobs have their completion in the audit."""
    return AuditEntry.objects.filter(
        action="transition.completed", job_id__in=of_benchmarks().values("job_id")
    ).count()


def _order(reader: TopicReader, starts: Mapping[int, int]) -> Figures:
    """Return how the present jobs stand on the topic: repeats, and who is out of order."""
    due = dict(of_benchmarks().values_list("job_id", "due_at").iterator())
    ends = {number: span.end for number, span in reader.spans().items()}
    seen: set[str] = set()
    records = violations = 0
    latest = None
    for record in reader.read(starts, ends):
        if record.job_id not in due:
            continue
        records += 1
        if record.job_id in seen:
            continue
        seen.add(record.job_id)
        instant = due[record.job_id]
        if latest is not None and instant < latest:
            violations += 1
        latest = max(latest or instant, instant)
    return {
        "onTheTopic": len(seen),
        "repeats": records - len(seen),
        "orderViolations": violations,
    }


def measure_pending(
    bench: Bench, *, pending: Sequence[int], seconds: float, idle: bool, memory: bool
) -> list[Figures]:
    """Let ever more jobs wait far ahead, and see what the cluster costs meanwhile."""
    results: list[Figures] = []
    standing = 0
    for number in sorted(pending):
        with bench.stage(f"scheduling up to {number:,} pending", number - standing) as tick:
            far = bench.workload.far_ahead()
            bench.workload.schedule([far] * (number - standing), tick=tick)
        standing = number
        with bench.stage("waiting for it to settle", SETTLE_SECONDS) as tick:
            _sleep(SETTLE_SECONDS, tick)
        figures: Figures = {"pending": number}
        if idle:
            figures |= _idle(bench, seconds=seconds)
        if memory:
            found = bench.cluster.memory()
            figures |= {
                "processes": found.processes,
                "pssMb": found.pss,
                "ussMb": found.uss,
                "rssMb": found.rss,
            }
        bench.cluster.check()
        results.append(figures)
    return results


def _idle(bench: Bench, *, seconds: float) -> Figures:
    """Return the CPU seconds a minute of the cluster and of the database's processes."""
    with bench.stage("idle", seconds) as tick, Control() as control:
        server = database_processes()
        before = cpu_seconds(bench.cluster.tree())
        server_before = cpu_seconds(server or [])
        began_at = time.monotonic()
        _sleep(seconds, tick)
        minutes = (time.monotonic() - began_at) / 60
        used = cpu_between(before, cpu_seconds(bench.cluster.tree()))
        served = cpu_between(server_before, cpu_seconds(server or []))
    return {
        "windowSeconds": round(minutes * 60, 1),
        "cpuSecondsPerMinute": round(used / minutes, 3),
        "databaseCpuSecondsPerMinute": (
            None if server is None else round(served / minutes, 3)
        ),
        "control": control.result(),
    }


def measure_restart(bench: Bench, *, jobs: int) -> Figures:
    """Let jobs come due while no cluster runs, then start one and time it."""
    bench.cluster.stop()
    due = whole_milliseconds(database_now() + bench.workload.lead(jobs))
    with bench.stage("restart: scheduling", jobs) as tick:
        bench.workload.schedule([due] * jobs, tick=tick)
    with bench.stage("restart: letting them come due", 1):
        while database_now() < due + timedelta(seconds=0.5):
            time.sleep(0.05)
    with bench.stage("restart: firing", 1):
        began_at = database_now()
        bench.cluster.start()
        with Control() as control:
            bench.wait(due, jobs=jobs, poll_seconds=0.1)
    figures = _of_rows(jobs)
    _, started, _, final = _instants()
    bench.clear()
    return {
        **{name: figures[name] for name in ("jobs", "completed", "audited", "early")},
        "secondsToFirstClaim": _seconds(began_at, min(started, default=None)),
        "secondsToLastCompletion": _seconds(began_at, max(final, default=None)),
        "control": control.result(),
    }


def _seconds(earlier: datetime, later: datetime | None) -> float | None:
    """Return the seconds between two instants, where there was a later one."""
    return round((later - earlier).total_seconds(), 3) if later else None


def _sleep(seconds: float, tick: Tick) -> None:
    """Sleep, a second at a time."""
    left = seconds
    while left > 0:
        time.sleep(min(left, 1.0))
        tick(1)
        left -= 1.0


def _rate(count: int, seconds: float) -> float | None:
    """Return how many a second."""
    return round(count / seconds, 1) if seconds > 0 else None
