"""The machine that is measured on: what it is, and how quiet it was meanwhile."""

import math
import platform
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import psutil
from django.conf import settings
from django.db import connection

_TICK_SECONDS = 0.020
LIBRARIES = ("django", "django-q2", "confluent-kafka", "psycopg")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return how values are spread; percentiles by nearest rank."""
    ordered = sorted(values)

    def at(share: float) -> float | None:
        if not ordered:
            return None
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)

    return {"count": len(ordered), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)}


class Control:
    """A bare 20 ms timer of this process beside the measurement, and the CPUs' steal.

    How late it wakes is what the machine itself adds to every figure of the window.
    """

    def __init__(self) -> None:
        self._lateness_ms: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True, name="control")
        self._cpu = psutil.cpu_times()

    def __enter__(self) -> Self:
        self._cpu = psutil.cpu_times()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _tick(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            due += _TICK_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))
            woke_at = time.monotonic()
            self._lateness_ms.append((woke_at - due) * 1000)
            # After a long pause it counts once, not once for each tick that was missed.
            due = max(due, woke_at - _TICK_SECONDS)

    def result(self) -> dict[str, Any]:
        """Return the timer's lateness, and which share of the CPUs went where."""
        before, now = self._cpu, psutil.cpu_times()
        total = sum(now[:8]) - sum(before[:8])
        idle = now.idle + now.iowait - before.idle - before.iowait
        steal = now.steal - before.steal

        def percent(seconds: float) -> float:
            return round(100 * seconds / total, 1) if total > 0 else 0.0

        return {
            "timerMs": spread(self._lateness_ms),
            "stealPercent": percent(steal),
            "busyPercent": percent(total - idle - steal),
        }


def describe(*, broker: str) -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "database": _database(),
        "broker": broker,
        "cores": psutil.cpu_count(),
        "memoryMb": psutil.virtual_memory().total // 2**20,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "workers": settings.Q_CLUSTER["workers"],
        "maxConcurrentJobs": settings.SCHEDULER.max_concurrent_jobs,
    }


def _database() -> str:
    """Return the database's name, version and how safe its commits are."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT current_setting('server_version'),"
                " current_setting('synchronous_commit'), current_setting('fsync')"
            )
            number, commit, fsync = cursor.fetchone()
            return f"PostgreSQL {number}, synchronous_commit={commit}, fsync={fsync}"
        cursor.execute("SELECT sqlite_version()")
        number = cursor.fetchone()[0]
        cursor.execute("PRAGMA journal_mode")
        mode = cursor.fetchone()[0]
        cursor.execute("PRAGMA synchronous")
        return f"SQLite {number}, journal_mode={mode}, synchronous={cursor.fetchone()[0]}"
