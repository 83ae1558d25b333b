"""How the product is doing, in figures: jobs, lateness, the consumer, what waits.

The figures of the API's `stats/`, of the health pages and of the metrics come from here.
Each is one query that an index serves, however large the tables are.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import F, Max, Min, Q, QuerySet

from scheduling.domain.lifecycle import TransitionStatus
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
MOST_COUNTED = 20_000
# Among so many that became ready first is the one that has been due for longest.
FIRST_READY = 100
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
    rows = ScheduledTransition.objects.order_by()
    overdue = _overdue_parts(now=now)
    oldest = [part.aggregate(at=Min("due_at"))["at"] for part in overdue[1:]]
    first = overdue[0].order_by("ready_at", "state", "id")[:FIRST_READY]
    oldest.extend(first.values_list("due_at", flat=True))
    return JobFigures(
        by_status={
            status: _count(rows.filter(status=status)) for status in TransitionStatus
        },
        overdue=sum(_count(part) for part in overdue),
        oldest_overdue_seconds=_seconds_since(
            min((at for at in oldest if at is not None), default=None), now=now
        ),
    )


def _overdue_parts(*, now: datetime) -> list[QuerySet[ScheduledTransition]]:
    """Return the live jobs whose instant passed, in parts that share none.

    Each is read from a small index of its own: that of all jobs in due order would lead
    through everything that has been finished.
    """
    rows = ScheduledTransition.objects.order_by().filter(due_at__lt=now)
    scheduled = rows.filter(status=TransitionStatus.SCHEDULED)
    return [
        scheduled.filter(Q(ready_at__lte=F("due_at")), claim_token=None, ready_at__lte=now),
        scheduled.filter(ready_at__gt=F("due_at")),
        rows.filter(status=TransitionStatus.RUNNING),
    ]


def _count(rows: QuerySet[ScheduledTransition]) -> int:
    """Return how many rows there are, exactly up to `MOST_COUNTED`.

    Beyond it PostgreSQL's planner estimates from its own figures; SQLite, which has none,
    counts them in an index.
    """
    if connection.vendor != "postgresql":
        return rows.count()
    counted = rows[: MOST_COUNTED + 1].count()
    if counted <= MOST_COUNTED:
        return counted
    plan = json.loads(rows.values("pk").explain(format="json"))
    return max(counted, int(plan[0]["Plan"]["Plan Rows"]))


def measure_firing(*, sample: int = SAMPLE) -> FiringFigures:
    """Measure the newest completions, so many of them, and find the last claim."""
    completed = ScheduledTransition.objects.filter(
        status=TransitionStatus.COMPLETED, finalized_at__isnull=False
    )
    newest = list(
        completed.order_by("-finalized_at").values_list(
            "lateness_ms", "forced_at", "started_at", "completed_at"
        )[:sample]
    )
    lateness = sorted(
        late for late, forced_at, *_ in newest if late is not None and forced_at is None
    )
    # A completion that was proven later has no start of its own, or one after its end.
    durations = [
        (completed_at - started_at).total_seconds() * 1000
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


def _last_claim(completed: Iterable[datetime | None]) -> datetime | None:
    """Return the instant of the newest claim.

    Args:
        completed: When completed jobs were claimed.
    """
    jobs = ScheduledTransition.objects.order_by()
    held = jobs.filter(status=TransitionStatus.RUNNING)
    # A claim that was given back waits for later than its due instant.
    given_back = jobs.filter(status=TransitionStatus.SCHEDULED, ready_at__gt=F("due_at"))
    claims = [
        *completed,
        held.aggregate(at=Max("started_at"))["at"],
        given_back.aggregate(at=Max("started_at"))["at"],
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
