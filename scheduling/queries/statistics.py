"""How the product is doing, in figures: jobs, lateness, the consumer, what waits.

The figures of the API's `stats/`, of the health pages and of the metrics come from here.
Each is one query that an index serves, however large the tables are.
"""

import functools
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import F, FloatField, Func, QuerySet
from typing_extensions import override

from scheduling.domain.lifecycle import FINAL, TransitionStatus
from scheduling.models import (
    DeadLetter,
    OutgoingRecord,
    ProcessState,
    ScheduledTransition,
)
from scheduling.models.dead_letter import STATUSES

# The newest completions, from which lateness and execution time are told.
SAMPLE = 10_000
# Rows of one status are counted one by one up to so many; beyond it PostgreSQL estimates.
MOST_COUNTED = 2_000
# A count that took a second is kept for so many.
KEPT_TIMES_ITS_COST = 300.0
# Among so many that became ready first is the one that has been due for longest; these
# are looked at one by one.
FIRST_READY = 1_000
# A process that said nothing for so long is not alive.
SILENCE = timedelta(seconds=30)
# Dead processes are shown for so long.
REMEMBERED = timedelta(hours=1)
CONSUMER = "consumer"


@dataclass(frozen=True, kw_only=True)
class JobFigures:
    """How many jobs the table has in each status, and how long the oldest waits."""

    by_status: dict[TransitionStatus, int]
    overdue: int
    oldest_overdue_seconds: float

    @property
    def active(self) -> int:
        """Jobs that are scheduled or running."""
        return self.by_status[TransitionStatus.SCHEDULED] + self.running

    @property
    def running(self) -> int:
        """Jobs that a worker holds."""
        return self.by_status[TransitionStatus.RUNNING]


@dataclass(frozen=True, kw_only=True)
class FiringFigures:
    """How late the newest completed jobs were, in milliseconds; None without any.

    Jobs that a person ran or retried are left out of the lateness: they don't tell how
    exact the clockwork is.

    last_claim_at: of the jobs that are still in the table.
    """

    lateness_p50_ms: float | None
    lateness_p99_ms: float | None
    lateness_max_ms: float | None
    average_execution_time_ms: float | None
    last_claim_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class ConsumerFigures:
    """What the consumers that are alive say of themselves, taken together.

    lag: records on the topic that are not handled, by `topic[partition]`.
    """

    processes: int
    handled: int
    is_paused: bool
    paused_since: str | None
    pause_reason: str | None
    lag: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class OutgoingFigures:
    """Answers and dead letters that no broker has acknowledged yet."""

    unsent: int
    oldest_unsent_seconds: float


def count_jobs(*, now: datetime) -> JobFigures:
    """Count the jobs in the table by status, and the live ones whose instant passed."""
    overdue, oldest = _find_overdue(now=now)
    return JobFigures(
        by_status={
            status: _estimate(_of_status(status), name=status, counted=counted)
            for status, counted in _count_some()
        },
        overdue=overdue,
        oldest_overdue_seconds=_seconds_since(oldest, now=now),
    )


def _find_overdue(*, now: datetime) -> tuple[int, datetime | None]:
    """Return how many live jobs' instants have passed, and the earliest of these.

    In parts, each of a small index of its own: that of all jobs in due order would lead
    through everything that has been finished. Nothing but the index's own columns decides
    in the database, or else the planner takes another one. Exact but for jobs that a
    person demanded before their instant while more than `FIRST_READY` wait.
    """
    ready = ScheduledTransition.objects.order_by("ready_at", "state", "id").filter(
        status=TransitionStatus.SCHEDULED, claim_token=None, ready_at__lte=now
    )
    first = list(ready.values_list("due_at", flat=True)[:FIRST_READY])
    running = _of_status(TransitionStatus.RUNNING)
    instants = [
        *first,
        *running.values_list("due_at", flat=True)[:MOST_COUNTED],
        # What is ready again was counted above.
        *(due_at for due_at, ready_at, _ in _deferred() if ready_at > now),
    ]
    passed = [due_at for due_at in instants if due_at < now]
    beyond = (
        _count(ready.order_by(), name="ready") - len(first)
        if len(first) == FIRST_READY
        else 0
    )
    return len(passed) + beyond, min(passed, default=None)


def _deferred() -> list[tuple[datetime, datetime, datetime | None]]:
    """Return due, ready and claimed instants of jobs given back for later than due."""
    rows = ScheduledTransition.objects.order_by().filter(
        status=TransitionStatus.SCHEDULED, ready_at__gt=F("due_at")
    )
    return list(rows.values_list("due_at", "ready_at", "started_at")[:MOST_COUNTED])


def _of_status(status: TransitionStatus) -> QuerySet[ScheduledTransition]:
    """Return the jobs of one status, in words that let the database see its index of them.

    SQLite takes an index of some rows only where the question repeats the index's
    condition. PostgreSQL's planner would take each word for one condition more, and
    estimate less; but of what is scheduled it would go through all that is finished, in
    the index of due instants, since that is long past.
    """
    rows = ScheduledTransition.objects.order_by().filter(status=status)
    if status is TransitionStatus.SCHEDULED:
        return rows.filter(claim_token=None)
    if connection.vendor == "postgresql":
        return rows
    if status is TransitionStatus.RUNNING:
        return rows.filter(key__gte="")
    # Written out: values that are given apart are not compared with the index's.
    return rows.extra(where=[_IS_FINAL])  # noqa: S610 -- names of ours only


_IS_FINAL = "status IN ({})".format(", ".join(f"'{one}'" for one in sorted(FINAL)))


def _count_some() -> list[tuple[TransitionStatus, int]]:
    """Return how many jobs are in each status, up to one more than `MOST_COUNTED`."""
    statement, values = _count_statement(connection.vendor, MOST_COUNTED + 1)
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(zip(TransitionStatus, cursor.fetchone(), strict=True))


@functools.cache
def _count_statement(vendor: str, most: int) -> tuple[str, list[Any]]:
    """Return the statement that counts up to so many jobs of each status, with its values.

    One for all statuses, and written once: the database counts sooner than Django writes.
    """
    parts = [
        _of_status(status).values("pk")[:most].query.sql_with_params()
        for status in TransitionStatus
    ]
    columns = ", ".join(f"(SELECT count(*) FROM ({sql}) AS part)" for sql, _ in parts)  # noqa: S608 -- Django's own SQL
    return f"SELECT {columns}", [value for _, values in parts for value in values]


def _count(rows: QuerySet[ScheduledTransition], *, name: str) -> int:
    """Return how many rows there are, exactly up to `MOST_COUNTED`."""
    return _estimate(rows, name=name, counted=rows[: MOST_COUNTED + 1].count())


def _estimate(rows: QuerySet[ScheduledTransition], *, name: str, counted: int) -> int:
    """Return how many rows there are, where so many were counted.

    Beyond `MOST_COUNTED` PostgreSQL's planner estimates from its own figures. SQLite has
    none: there they are counted in an index, and not again while that would take much of
    the time.

    Args:
        counted: Up to one more than `MOST_COUNTED`.
    """
    if counted <= MOST_COUNTED:
        return counted
    if connection.vendor == "postgresql":
        plan = json.loads(rows.values("pk").explain(format="json"))
        return max(counted, int(plan[0]["Plan"]["Plan Rows"]))
    known = _kept_counts.get(name)
    began_at = time.monotonic()
    if known is None or began_at >= known.until:
        count = rows.count()
        took = time.monotonic() - began_at
        known = _KeptCount(count=count, until=began_at + took * KEPT_TIMES_ITS_COST)
        _kept_counts[name] = known
    return max(counted, known.count)


@dataclass(frozen=True, kw_only=True)
class _KeptCount:
    """A count that was dear; `until` in monotonic seconds."""

    count: int
    until: float


_kept_counts: dict[str, _KeptCount] = {}


def measure_firing(*, sample: int = SAMPLE) -> FiringFigures:
    """Measure the newest completions, so many of them, and find the last claim."""
    completed = ScheduledTransition.objects.filter(
        status=TransitionStatus.COMPLETED, finalized_at__isnull=False
    )
    newest = list(
        completed.order_by("-finalized_at").values_list(
            "lateness_ms",
            *(_EpochSeconds(name) for name in ("forced_at", "started_at", "completed_at")),
        )[:sample]
    )
    lateness = sorted(
        late for late, forced_at, *_ in newest if late is not None and forced_at is None
    )
    # A completion that was proven later has no start of its own, or one after its end.
    durations = [
        # Seconds since 1970 have no more digits than microseconds fill.
        round((completed_at - started_at) * 1000, 3)
        for *_, started_at, completed_at in newest
        if started_at and completed_at and completed_at >= started_at
    ]
    return FiringFigures(
        lateness_p50_ms=_percentile(lateness, 0.50),
        lateness_p99_ms=_percentile(lateness, 0.99),
        lateness_max_ms=lateness[-1] if lateness else None,
        average_execution_time_ms=(sum(durations) / len(durations) if durations else None),
        last_claim_at=_last_claim([started_at for *_, started_at, _ in newest]),
    )


class _EpochSeconds(Func):
    """Seconds since 1970: a number is read in a fiftieth of an instant's time."""

    template = "extract(epoch FROM %(expressions)s)::float8"
    arity = 1
    output_field = FloatField()

    @override
    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """Return it in SQLite's words: its own functions know no microseconds."""
        seconds = "strftime('%%%%s', %(expressions)s)"
        # Behind `YYYY-MM-DD HH:MM:SS`, where there is any.
        part = "('0' || substr(%(expressions)s, 20))"
        return self.as_sql(
            compiler, connection, template=f"({seconds} + {part})", **context
        )


def _last_claim(completed: Iterable[float | None]) -> datetime | None:
    """Return the instant of the newest claim.

    Args:
        completed: When completed jobs were claimed, in epoch seconds.
    """
    newest = max((at for at in completed if at is not None), default=None)
    held = _of_status(TransitionStatus.RUNNING)
    claims = [
        None if newest is None else datetime.fromtimestamp(newest, UTC),
        *held.values_list("started_at", flat=True)[:MOST_COUNTED],
        # A claim that was given back waits for later than its due instant.
        *(started_at for *_, started_at in _deferred()),
    ]
    return max((at for at in claims if at is not None), default=None)


def list_processes(*, now: datetime) -> Sequence[ProcessState]:
    """Return what the long-running processes said of themselves of late."""
    return list(ProcessState.objects.filter(seen_at__gte=now - REMEMBERED))


def sum_up_consumers(
    processes: Iterable[ProcessState], *, now: datetime
) -> ConsumerFigures:
    """Return what the living consumers among the processes say, taken together."""
    alive = sorted(
        (
            process
            for process in processes
            if process.kind == CONSUMER and now - process.seen_at <= SILENCE
        ),
        key=lambda process: process.seen_at,
    )
    paused = sorted(
        (str(process.figures.get("pausedSince")), str(process.figures.get("pauseReason")))
        for process in alive
        if process.figures.get("isPaused")
    )
    lag: dict[str, int] = {}
    for process in alive:
        # Of a partition that moved from one to another, the newer word counts.
        lag |= process.figures.get("lag", {})
    return ConsumerFigures(
        processes=len(alive),
        handled=sum(process.figures.get("handled", 0) for process in alive),
        is_paused=bool(paused),
        paused_since=paused[0][0] if paused else None,
        pause_reason=paused[0][1] if paused else None,
        lag=dict(sorted(lag.items())),
    )


def count_dead_letters() -> dict[str, int]:
    """Count the dead letters by status."""
    return {
        status: DeadLetter.objects.filter(status=status).order_by().count()
        for status in STATUSES
    }


def measure_outgoing(*, now: datetime) -> OutgoingFigures:
    """Count the records that are owed to a topic, and tell the oldest one's age."""
    unsent = OutgoingRecord.objects.filter(acknowledged_at__isnull=True)
    oldest = unsent.order_by("id").values_list("created_at", flat=True).first()
    return OutgoingFigures(
        unsent=unsent.order_by().count(),
        oldest_unsent_seconds=_seconds_since(oldest, now=now),
    )


def _seconds_since(instant: datetime | None, *, now: datetime) -> float:
    """Return the seconds that have passed since then; 0 where there is no such instant."""
    return max(0.0, (now - instant).total_seconds()) if instant else 0.0


def _percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that this share of the sorted ones does not exceed."""
    if not values:
        return None
    return values[math.ceil(share * len(values)) - 1]
