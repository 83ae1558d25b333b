"""The metrics' names, types and labels, and where each value comes from."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from autopilot_site.health import CheckStatus, Health
from autopilot_site.health.facts import DatabaseFacts
from autopilot_site.metrics.totals import (
    CHANGES,
    DURATION_BUCKETS,
    EXECUTION_BUCKETS,
    FAILURES,
    LATENESS_BUCKETS,
    PUBLISHED,
    Counts,
    Spread,
)
from recovery.results import OPEN as UNFINISHED
from recovery.results import RunStatus
from scheduling.models import VerificationResult
from scheduling.models.circuit_breaker import CLOSED, HALF_OPEN, OPEN
from scheduling.queries.statistics import sum_up_consumers

STATUS_VALUES: Final = {
    CheckStatus.UP: 1.0,
    CheckStatus.DEGRADED: 0.5,
    CheckStatus.DOWN: 0.0,
}

BREAKER_VALUES: Final = {CLOSED: 0.0, HALF_OPEN: 1.0, OPEN: 2.0}


class ProductCollector(Collector):
    """Turns what was read at a scrape into metrics; without a database only the checks.

    A value that is always there begins at 0, so that its first increase is seen.
    """

    def __init__(
        self,
        health: Health,
        *,
        database: DatabaseFacts | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._database, self._health, self._counts = database, health, counts

    @override
    def collect(self) -> Iterator[Metric]:
        yield self._checks()
        if self._database is not None:
            yield from _gauges(self._database)
        if self._counts is not None:
            yield from _firing(self._counts)
            yield from _recovery(self._counts)
            yield from _dead_letters(self._counts)

    def _checks(self) -> Metric:
        """Return how each part of the health is."""
        checks = GaugeMetricFamily(
            "autopilot_check_status",
            "Each check of /health: 1 up, 0.5 degraded, 0 down.",
            labels=["check"],
        )
        for name, check in self._health.checks.items():
            checks.add_metric([name], STATUS_VALUES[check.status])
        return checks


def _gauges(database: DatabaseFacts) -> Iterator[Metric]:
    """Return what is so now."""
    by_status = GaugeMetricFamily(
        "autopilot_transitions", "Jobs in the live table.", labels=["status"]
    )
    for status, count in database.jobs.by_status.items():
        by_status.add_metric([status.value], count)
    yield by_status
    yield GaugeMetricFamily(
        "autopilot_overdue_transitions",
        "Live jobs whose instant has passed.",
        value=database.jobs.overdue,
    )
    yield GaugeMetricFamily(
        "autopilot_oldest_overdue_seconds",
        "For how long the oldest of them is overdue; 0 without any.",
        value=database.jobs.oldest_overdue_seconds,
    )
    lag = GaugeMetricFamily(
        "autopilot_consumer_lag",
        "Records on a partition that are not handled yet.",
        labels=["topic", "partition"],
    )
    told = sum_up_consumers([one.state for one in database.processes], now=database.now)
    for place, number in told.lag.items():
        topic, _, partition = place.rpartition("[")
        lag.add_metric([topic, partition.removesuffix("]")], number)
    yield lag
    breakers = GaugeMetricFamily(
        "autopilot_circuit_breaker_state",
        "Each circuit breaker: 0 closed, 1 half open, 2 open.",
        labels=["name"],
    )
    for breaker in database.breakers:
        breakers.add_metric([breaker.name], BREAKER_VALUES[breaker.state])
    yield breakers
    processes = GaugeMetricFamily(
        "autopilot_process_silence_seconds",
        "How long ago a long-running process said something.",
        labels=["kind", "host", "pid"],
    )
    for one in database.processes:
        labels = [one.state.kind, one.state.host, str(one.state.pid)]
        processes.add_metric(labels, max(0.0, one.silent_seconds))
    yield processes
    yield GaugeMetricFamily(
        "autopilot_unsent_records",
        "Answers and dead letters that no broker has acknowledged yet.",
        value=database.outgoing.unsent,
    )
    if database.verification is not None:
        yield from _verification(database.verification, now=database.now)


def _verification(result: VerificationResult, *, now: datetime) -> Iterator[Metric]:
    """Return what the verification that runs by itself found."""
    yield GaugeMetricFamily(
        "autopilot_verification_violations",
        "Broken promises that the last verification by itself found.",
        value=sum(result.violations.values()),
    )
    yield GaugeMetricFamily(
        "autopilot_verification_age_seconds",
        "How long ago it ended.",
        value=max(0.0, (now - result.finished_at).total_seconds()),
    )


def _firing(counts: Counts) -> Iterator[Metric]:
    """Return what firing has done since ever."""
    yield CounterMetricFamily(
        "autopilot_transitions_published",
        "Transitions whose event a broker has acknowledged.",
        value=counts.values[PUBLISHED],
    )
    yield CounterMetricFamily(
        "autopilot_publish_failures",
        "Attempts that ended without an acknowledgement.",
        value=sum(counts.values[action] for action in FAILURES),
    )
    yield _histogram(
        "autopilot_transition_lateness_seconds",
        "Acknowledgement minus due instant, of what no person demanded.",
        counts.spread("lateness", LATENESS_BUCKETS),
        LATENESS_BUCKETS,
    )
    yield _histogram(
        "autopilot_execution_seconds",
        "Acknowledgement minus claim.",
        counts.spread("execution", EXECUTION_BUCKETS),
        EXECUTION_BUCKETS,
    )


def _recovery(counts: Counts) -> Iterator[Metric]:
    """Return what recovery has done since ever."""
    runs = CounterMetricFamily(
        "autopilot_recovery_runs", "Runs that have ended.", labels=["status"]
    )
    for status in RunStatus:
        if status not in UNFINISHED:
            runs.add_metric([status.value], counts.values[f"run|{status.value}"])
    yield runs
    yield _histogram(
        "autopilot_recovery_duration_seconds",
        "How long the runs took.",
        counts.spread("duration", DURATION_BUCKETS),
        DURATION_BUCKETS,
    )
    changes = CounterMetricFamily(
        "autopilot_recovery_changes", "Jobs that the runs changed.", labels=["kind"]
    )
    for kind in CHANGES.values():
        changes.add_metric([kind], counts.values[f"change|{kind}"])
    yield changes


def _dead_letters(counts: Counts) -> Iterator[Metric]:
    """Return what was set aside since ever."""
    letters = CounterMetricFamily(
        "autopilot_dead_letters", "Records that were set aside.", labels=["reason"]
    )
    for code, number in sorted(counts.of("letter|").items()):
        letters.add_metric([code], number)
    yield letters


def _histogram(
    name: str, documentation: str, spread: Spread, bounds: Sequence[float]
) -> Metric:
    """Return a histogram; its buckets hold all up to their bound."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, bounds), "+Inf"), spread.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(
        name, documentation, buckets=buckets, sum_value=spread.total
    )
