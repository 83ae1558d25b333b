"""What is to be known of the product's health, as plain values; nothing is judged here.

Every question to the database is served by an index, however many rows there are, and is
bounded on PostgreSQL; the brokers are asked for a bounded time.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import ProgrammingError, connection

from autopilot_site.health.causes import tell_cause
from recovery.models import RecoveryRun
from recovery.results import OPEN, RunStatus
from scheduling.adapters.broker_probe import BrokerAnswer, process_probe
from scheduling.adapters.clock import clock_skew_ms
from scheduling.adapters.heartbeat import is_proven_dead
from scheduling.adapters.patience import atomic_within
from scheduling.models import CircuitBreaker, ProcessState, VerificationResult
from scheduling.queries.breakers import list_breakers
from scheduling.queries.statistics import (
    FiringFigures,
    JobFigures,
    OutgoingFigures,
    count_jobs,
    list_processes,
    measure_firing,
    measure_outgoing,
)

logger = logging.getLogger("autopilot.health")

# Of the newest completions; the API's statistics take more, and more time.
SAMPLE: Final = 500
DATABASE_PATIENCE: Final = timedelta(seconds=2)
# The newest runs, of which the rate of success is told.
RUNS: Final = 20


@dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """A long-running process: what it said, how long ago, and whether it is gone."""

    state: ProcessState
    silent_seconds: float
    is_proven_dead: bool


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A whole run of recovery that has ended."""

    status: RunStatus
    started_at: datetime | None
    finished_at: datetime | None
    reason: str

    @property
    def duration_ms(self) -> int | None:
        """How long it took."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0, (self.finished_at - self.started_at) // timedelta(milliseconds=1))


@dataclass(frozen=True, kw_only=True)
class DatabaseFacts:
    """What the database tells, at its own instant `now`.

    skew_ms: by how much this host's clock is ahead of the database's; None on SQLite.
    runs: the newest whole runs that have ended, the newest first.
    breakers: all of them, also those that have no row yet.
    verification: what the verification that runs by itself last found.
    """

    now: datetime
    skew_ms: float | None
    took_ms: float
    jobs: JobFigures
    firing: FiringFigures
    processes: Sequence[ProcessFacts]
    outgoing: OutgoingFigures
    runs: Sequence[RunFacts]
    breakers: Sequence[CircuitBreaker]
    verification: VerificationResult | None = None


@dataclass(frozen=True, kw_only=True)
class DiskFacts:
    """The file system that this host writes to."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All of it.

    database: None where it can't be used; `database_error` then says why, in our words.
    disk: None where it can't be told.
    """

    database: DatabaseFacts | None
    database_error: str
    broker: BrokerAnswer
    disk: DiskFacts | None


def gather(*, now: datetime, sample: int = SAMPLE) -> Facts:
    """Ask for everything once; what does not answer is told as such.

    Args:
        now: This host's instant.
        sample: Of how many completions the lateness is told; 0: of none.
    """
    database, error = _ask_database(now=now, sample=sample)
    return Facts(
        database=database,
        database_error=error,
        broker=process_probe().ask(),
        disk=_ask_disk(),
    )


def _ask_database(*, now: datetime, sample: int) -> tuple[DatabaseFacts | None, str]:
    """Return what the database tells, or why it tells nothing.

    What the driver says may name hosts and users: it goes to the log.
    """
    try:
        return _read_database(now=now, sample=sample), ""
    except DatabaseError as error:
        said = str(error).strip()
        logger.warning("the database can't be used: %s", said)
        connection.close()
        if isinstance(error, ProgrammingError) or "no such table" in said:
            return None, "its tables are missing: was `manage.py migrate` run?"
        return None, f"it can't be reached, or doesn't answer in time{tell_cause(said)}"


def _read_database(*, now: datetime, sample: int = SAMPLE) -> DatabaseFacts:
    """Read it all from one state of the database.

    Raises:
        DatabaseError: It can't be used.
    """
    began_at = time.monotonic()
    with _bounded():
        skew_ms = clock_skew_ms()
        instant = now - timedelta(milliseconds=skew_ms or 0.0)
        jobs = count_jobs(now=instant)
        return DatabaseFacts(
            now=instant,
            skew_ms=skew_ms,
            jobs=jobs,
            firing=measure_firing(sample=sample),
            processes=[
                ProcessFacts(
                    state=state,
                    silent_seconds=(instant - state.seen_at).total_seconds(),
                    is_proven_dead=is_proven_dead(state),
                )
                for state in list_processes(now=instant)
            ],
            outgoing=measure_outgoing(now=instant),
            runs=_read_runs(),
            breakers=list_breakers(),
            verification=VerificationResult.objects.first(),
            took_ms=(time.monotonic() - began_at) * 1000,
        )


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Bound each question; on SQLite reading waits for nobody, and needs no bound.

    A transaction there would take the place of a writer.
    """
    if connection.vendor != "postgresql":
        yield
        return
    with atomic_within(DATABASE_PATIENCE):
        yield


def _read_runs() -> list[RunFacts]:
    """Return the newest runs that have ended."""
    ended = RecoveryRun.objects.whole().exclude(status__in=[one.value for one in OPEN])
    return [
        RunFacts(
            status=run.current_status,
            started_at=run.started_at,
            finished_at=run.finished_at,
            reason=str(run.errors[0].get("reason", "")) if run.errors else "",
        )
        for run in ended.only("status", "started_at", "finished_at", "errors")[:RUNS]
    ]


def _ask_disk() -> DiskFacts | None:
    """Return how full the disk is that holds the database, or else our directory."""
    name = settings.DATABASES["default"]["NAME"]
    is_file = connection.vendor == "sqlite"
    place = Path(str(connection.settings_dict["NAME"] if is_file else settings.BASE_DIR))
    directory = place.parent if is_file and name else place
    try:
        usage = shutil.disk_usage(directory)
        # What only root may use is not free to us.
        found = os.statvfs(directory)
    except OSError:
        return None
    return DiskFacts(free_bytes=found.f_bavail * found.f_frsize, total_bytes=usage.total)
