"""What the facts mean: each check up, degraded or down, with its cause in words.

Pure: it asks nobody. Nothing that a neighbour said is passed on as it is, since the
answer is open to everybody (contract, section 7): no address, user, secret or trace.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from autopilot_site.health.causes import tell_cause
from autopilot_site.health.facts import DatabaseFacts, DiskFacts, Facts, ProcessFacts
from recovery.results import RunStatus
from scheduling.adapters.broker_probe import BrokerAnswer
from scheduling.adapters.heartbeat import KIND as CLUSTER
from scheduling.conf import RecoverySettings
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant, parse_instant
from scheduling.models.circuit_breaker import CLOSED
from scheduling.queries.statistics import CONSUMER, sum_up_consumers

# A process that says nothing for so long is missed; clusters and consumers say something
# every four seconds or sooner.
SILENT_SECONDS: Final = 11.0
# Where others of its kind live, a silent one is missed for so long: it may have been
# taken away for good.
MISSED_SECONDS: Final = 300.0
# No cluster has claimed or looked for so long: nothing fires.
IDLE_SECONDS: Final = 30.0
# What is said of a cluster that has just begun.
STARTING: Final = "no cluster has looked for due jobs yet"
OVERDUE_SECONDS: Final = 30.0
# How the cause begins that tells of them, behind their number.
OVERDUE_SAID: Final = " overdue, the oldest by "
OVERDUE_FOR_LONG_SECONDS: Final = 60.0
UNSENT_SECONDS: Final = 60.0
# The consumers are behind by so many records.
LAG_RECORDS: Final = 10_000
SKEW_MS: Final = 1_000.0
LEAST_FREE_BYTES: Final = 100 * 1024 * 1024
LEAST_FREE_SHARE: Final = 0.1
FAILED_RUNS: Final = frozenset({RunStatus.FAILED, RunStatus.TIMED_OUT})
# So many failed runs one after the other, and recovery is down.
FAILED_IN_A_ROW: Final = 3
# A run may be late by so many intervals before one is missed.
MISSED_INTERVALS: Final = 3


class CheckStatus(StrEnum):
    """How one part is."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"


class HealthStatus(StrEnum):
    """How all of it is; ERROR answers 503."""

    OK = "ok"
    DEGRADED = "degraded"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Check:
    """How one part is, why, and the figures that belong to it."""

    status: CheckStatus
    detail: str
    figures: Mapping[str, Any]

    def show(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"status": self.status.value, "detail": self.detail, **self.figures}


# What each page tells, and which part being down makes it an error.
SUBJECTS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "scheduler": (
        "scheduler",
        ("scheduler", "database", "circuitBreakers", "clock", "disk"),
    ),
    "recovery": ("recovery", ("recovery", "database", "circuitBreakers")),
    "kafka": ("kafka", ("kafka",)),
}


@dataclass(frozen=True, kw_only=True)
class Health:
    """All checks by name, and what they come to."""

    status: HealthStatus
    timestamp: datetime
    checks: Mapping[str, Check]

    @property
    def is_failed(self) -> bool:
        """Whether the answer is 503."""
        return self.status is HealthStatus.ERROR

    @property
    def causes(self) -> list[str]:
        """Why all is not well, one line for each part; empty where it is."""
        return [
            f"{name}: {check.detail}"
            for name, check in self.checks.items()
            if check.status is not CheckStatus.UP
        ]

    def about(self, subject: str) -> "Health":
        """Return the health of one subject: `scheduler`, `recovery` or `kafka`."""
        own, names = SUBJECTS[subject]
        checks = {name: self.checks[name] for name in names if name in self.checks}
        return Health(
            status=_sum_up(checks, vital=own), timestamp=self.timestamp, checks=checks
        )

    def show(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "status": self.status.value,
            "timestamp": format_instant(self.timestamp),
            "checks": {name: check.show() for name, check in self.checks.items()},
        }


def judge(facts: Facts, *, now: datetime, recovery: RecoverySettings) -> Health:
    """Say how the product is.

    The whole is an error only without a database: a web process that is started again
    because Kafka is down mends nothing (contract, section 7).

    Args:
        now: This host's instant, for the answer.
    """
    database = facts.database
    checks = {
        "database": _database(database, error=facts.database_error),
        "scheduler": _scheduler(database, broker=facts.broker),
        "recovery": _recovery(database, conf=recovery),
        "kafka": _kafka(database, broker=facts.broker),
        "circuitBreakers": _breakers(database),
        "clock": _clock(database),
        "disk": _disk(facts.disk),
    }
    return Health(status=_sum_up(checks, vital="database"), timestamp=now, checks=checks)


def without_answer(*, now: datetime, seconds: float) -> Health:
    """Say how the product is where the database keeps us waiting without a word."""
    unknown = _check(
        {}, down=["the database does not answer, so nothing is known"], well=""
    )
    checks = {
        "database": _check(
            {}, down=[f"it does not answer within {seconds:.0f} s"], well=""
        ),
        "scheduler": unknown,
        "recovery": unknown,
        "kafka": unknown,
    }
    return Health(status=HealthStatus.ERROR, timestamp=now, checks=checks)


def _sum_up(checks: Mapping[str, Check], *, vital: str) -> HealthStatus:
    """Return what the checks come to where that one must not be down."""
    if checks[vital].status is CheckStatus.DOWN:
        return HealthStatus.ERROR
    if all(check.status is CheckStatus.UP for check in checks.values()):
        return HealthStatus.OK
    return HealthStatus.DEGRADED


def _check(
    figures: Mapping[str, Any],
    *,
    well: str,
    down: Iterable[str] = (),
    degraded: Iterable[str] = (),
) -> Check:
    """Return a check with all its causes in words; without one it is up.

    Args:
        well: What to say where all is well.
    """
    worst, bad = list(down), list(degraded)
    status = CheckStatus.DOWN if worst else CheckStatus.DEGRADED if bad else CheckStatus.UP
    return Check(status=status, detail="; ".join([*worst, *bad]) or well, figures=figures)


def _database(database: DatabaseFacts | None, *, error: str) -> Check:
    """Tell whether the database can be used."""
    if database is None:
        return _check({"responseMs": None}, down=[error], well="")
    return _check({"responseMs": round(database.took_ms, 1)}, well="it answers")


def _scheduler(database: DatabaseFacts | None, *, broker: BrokerAnswer) -> Check:
    """Tell whether jobs fire."""
    if database is None:
        return _check({}, down=["unknown without the database"], well="")
    clusters = [one for one in database.processes if one.state.kind == CLUSTER]
    alive = [one for one in clusters if _is_alive(one)]
    figures = _scheduler_figures(database, alive=alive)
    down, degraded = _judge_clusters(clusters, alive=alive, now=database.now)
    overdue = database.jobs.oldest_overdue_seconds
    if overdue > OVERDUE_SECONDS:
        count = _many(database.jobs.overdue, "job")
        said = f"{count}{OVERDUE_SAID}{overdue:.0f} s"
        is_our_fault = overdue > OVERDUE_FOR_LONG_SECONDS and not broker.error
        (down if is_our_fault else degraded).append(said)
    failed = figures["failedJobs"]
    well = f"{_many(len(alive), 'cluster')} with {_many(figures['workers'], 'worker')}"
    if failed:
        well += f"; {_many(failed, 'failed job')} to be dealt with"
    return _check(figures, down=down, degraded=degraded, well=well)


def _scheduler_figures(
    database: DatabaseFacts, *, alive: Sequence[ProcessFacts]
) -> dict[str, Any]:
    """Return the figures of firing, in the contract's words."""
    jobs, firing = database.jobs, database.firing
    claims = [firing.last_claim_at, *(_instant(one, "lastClaimAt") for one in alive)]
    last_claim_at = max((at for at in claims if at is not None), default=None)
    return {
        "activeJobs": jobs.active,
        "runningJobs": jobs.running,
        "overdueJobs": jobs.overdue,
        "oldestOverdueSeconds": round(jobs.oldest_overdue_seconds, 3),
        "completedJobs": jobs.by_status[TransitionStatus.COMPLETED],
        "failedJobs": jobs.by_status[TransitionStatus.FAILED],
        "averageExecutionTimeMs": firing.average_execution_time_ms,
        "latenessMs": {
            "p50": firing.lateness_p50_ms,
            "p99": firing.lateness_p99_ms,
            "max": firing.lateness_max_ms,
        },
        "workers": sum(int(one.state.figures.get("workers", 0)) for one in alive),
        "lastClaimAt": format_instant(last_claim_at) if last_claim_at else None,
        "clockSkewMs": database.skew_ms,
        "processes": [
            {
                "kind": one.state.kind,
                "pid": one.state.pid,
                "host": one.state.host,
                "restarts": one.state.figures.get("restarts"),
                "seenAt": format_instant(one.state.seen_at),
            }
            for one in database.processes
        ],
    }


def _judge_clusters(
    clusters: Sequence[ProcessFacts], *, alive: Sequence[ProcessFacts], now: datetime
) -> tuple[list[str], list[str]]:
    """Return what is wrong with the clusters: what stops all firing, and what does not."""
    degraded = [_say_missing(one) for one in _missed(clusters, alive=alive)]
    worked = [
        at
        for one in clusters
        if not one.is_proven_dead
        for at in (_instant(one, "lastLookAt"), _instant(one, "lastClaimAt"))
        if at is not None
    ]
    idle = (now - max(worked)).total_seconds() if worked else None
    if not clusters:
        return ["no cluster runs: nothing fires"], degraded
    if idle is None:
        # One that has just begun looks within a second of its first word.
        starting = any(
            (now - one.state.started_at).total_seconds() < IDLE_SECONDS for one in alive
        )
        if starting:
            return [], [*degraded, STARTING]
        return ["no cluster lives: nothing fires"], degraded
    if idle > IDLE_SECONDS:
        return [f"no cluster has claimed or looked for {idle:.0f} s"], degraded
    if idle > SILENT_SECONDS:
        degraded.append(f"no cluster has claimed or looked for {idle:.0f} s")
    return [], degraded


def _recovery(database: DatabaseFacts | None, *, conf: RecoverySettings) -> Check:
    """Tell whether recovery does its work."""
    if database is None:
        return _check({}, down=["unknown without the database"], well="")
    runs = database.runs
    last = runs[0] if runs else None
    good = sum(run.status not in FAILED_RUNS for run in runs)
    figures = {
        "lastRun": format_instant(last.started_at) if last and last.started_at else None,
        "lastStatus": last.status.value if last else None,
        "lastDurationMs": last.duration_ms if last else None,
        "successRate": round(good / len(runs), 3) if runs else None,
        "isRecoveryEnabled": conf.enabled,
    }
    if not conf.enabled:
        return _check(figures, well="it is switched off")
    if last is None:
        return _check(figures, well="no run has ended yet")
    newest = runs[:FAILED_IN_A_ROW]
    if len(newest) == FAILED_IN_A_ROW and all(run.status in FAILED_RUNS for run in newest):
        return _check(figures, down=["the last three runs failed"], well="")
    degraded = []
    if last.status in FAILED_RUNS:
        degraded.append(f"the last run ended {last.status.value}")
    interval = conf.period("sync_interval")
    allowed = MISSED_INTERVALS * interval + conf.period("startup_timeout")
    if interval and last.finished_at and database.now - last.finished_at > allowed:
        age = _said(database.now - last.finished_at)
        degraded.append(f"no run has ended for {age}")
    return _check(
        figures, degraded=degraded, well=f"the last run ended {last.status.value}"
    )


def _kafka(database: DatabaseFacts | None, *, broker: BrokerAnswer) -> Check:
    """Tell whether brokers answer, and whether what they hold is read and written."""
    figures: dict[str, Any] = {
        "brokers": broker.brokers,
        "producer": None,
        "consumer": None,
        "consumerLag": None,
    }
    down = [] if not broker.error else [f"no broker answers{tell_cause(broker.error)}"]
    if database is None:
        return _check(figures, down=down, degraded=["the database knows more"], well="")
    consumers = [one for one in database.processes if one.state.kind == CONSUMER]
    alive = [one for one in consumers if _is_alive(one)]
    told = sum_up_consumers([one.state for one in alive], now=database.now)
    unsent = database.outgoing
    figures |= {
        "producer": {
            "unsent": unsent.unsent,
            "oldestUnsentSeconds": round(unsent.oldest_unsent_seconds, 3),
        },
        "consumer": {
            "processes": told.processes,
            "handled": told.handled,
            "isPaused": told.is_paused,
            "pausedSince": told.paused_since,
        },
        "consumerLag": told.lag,
    }
    degraded = [_say_missing(one) for one in _missed(consumers, alive=alive)]
    if not consumers:
        degraded.append("no consumer runs: nothing is read")
    if told.is_paused:
        degraded.append(
            f"a consumer waits for the database or the brokers since {told.paused_since}"
        )
    lag = sum(told.lag.values())
    if lag > LAG_RECORDS:
        degraded.append(f"{lag} records wait to be read")
    if unsent.oldest_unsent_seconds > UNSENT_SECONDS:
        degraded.append(
            f"{unsent.unsent} answers and dead letters wait to be sent, the oldest for "
            f"{unsent.oldest_unsent_seconds:.0f} s"
        )
    well = f"{_many(broker.brokers, 'broker')}, {_many(len(alive), 'consumer')}"
    return _check(figures, down=down, degraded=degraded, well=well)


def _breakers(database: DatabaseFacts | None) -> Check:
    """Tell whether a circuit breaker holds calls back."""
    if database is None:
        return _check({}, down=["unknown without the database"], well="")
    degraded = [
        f"the breaker `{one.name}` is {one.state.replace('_', ' ')}"
        + (f" since {format_instant(one.opened_at)}" if one.opened_at else "")
        for one in database.breakers
        if one.state != CLOSED
    ]
    figures = {"breakers": {one.name: one.state for one in database.breakers}}
    return _check(figures, degraded=degraded, well="all are closed")


def _clock(database: DatabaseFacts | None) -> Check:
    """Tell whether the clocks can be trusted."""
    if database is None:
        return _check({}, down=["unknown without the database"], well="")
    degraded = []
    if database.skew_ms is not None and abs(database.skew_ms) > SKEW_MS:
        degraded.append(
            f"this host's clock and the database's differ by {database.skew_ms:+.0f} ms"
        )
    alive = [one for one in database.processes if _is_alive(one)]
    steps = [float(one.state.figures.get("clockStepSeconds") or 0) for one in alive]
    step = max(steps, key=abs, default=0.0)
    if step:
        degraded.append(
            f"the clock was stepped by {step:+.1f} s: nothing fires until it is set "
            "right, or the cluster is restarted"
        )
    figures = {"clockSkewMs": database.skew_ms, "clockStepSeconds": step}
    return _check(figures, degraded=degraded, well="no step, no skew")


def _disk(disk: DiskFacts | None) -> Check:
    """Tell whether there is room to write."""
    if disk is None:
        unknown = {"freeBytes": None, "totalBytes": None}
        return _check(unknown, degraded=["it can't be told how full it is"], well="")
    figures = {"freeBytes": disk.free_bytes, "totalBytes": disk.total_bytes}
    least = min(LEAST_FREE_BYTES, disk.total_bytes * LEAST_FREE_SHARE)
    free_mib = disk.free_bytes / 1024 / 1024
    if disk.free_bytes < least:
        said = f"the disk is full: {free_mib:.0f} MiB are free"
        return _check(figures, degraded=[said], well="")
    return _check(figures, well=f"{free_mib:.0f} MiB are free")


def _is_alive(process: ProcessFacts) -> bool:
    """Tell whether a process has said something of late."""
    return not process.is_proven_dead and process.silent_seconds <= SILENT_SECONDS


def _missed(
    processes: Sequence[ProcessFacts], *, alive: Sequence[ProcessFacts]
) -> list[ProcessFacts]:
    """Return the processes that ought to say something and don't."""
    return [
        one
        for one in processes
        if one not in alive and (not alive or one.silent_seconds <= MISSED_SECONDS)
    ]


def _say_missing(process: ProcessFacts) -> str:
    """Say which process is missed."""
    state = process.state
    how = "is dead" if process.is_proven_dead else "says nothing"
    return (
        f"{state.kind} {state.pid} on {state.host} {how}; its last word came "
        f"{process.silent_seconds:.0f} s ago"
    )


def _instant(process: ProcessFacts, name: str) -> datetime | None:
    """Return an instant that a process told."""
    text = process.state.figures.get(name)
    return parse_instant(text) if text else None


def _many(count: int, thing: str) -> str:
    """Say how many there are."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _said(age: timedelta) -> str:
    """Say a duration in whole minutes, or seconds where it is short."""
    seconds = age.total_seconds()
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} minutes"  # noqa: PLR2004
