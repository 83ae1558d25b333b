"""Counts requests over all processes, in the database, at next to no cost for each.

Why so: a cache in a process's memory counts for that process alone, and a cache of
Django's in a table reads, adds and writes in three steps, between which other requests
come. One statement that adds and returns the sum counts right whatever runs in parallel.

That a request waits for no statement, a process takes a hundredth of what is allowed at a
time and gives it out by itself: never more is given out than allowed, and less only as
long as another process holds the rest of what it took. Below 200 it takes one at a time.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from django.db import Error as DatabaseError
from django.db import connection, transaction

from scheduling.models import RateCount

logger = logging.getLogger("autopilot.rates")

# One statement has to be much quicker; what takes longer is a database in trouble.
LONGEST_WAIT_MS: Final = {"postgresql": 250, "sqlite": 2_000}
# So long nothing is asked of a database that was in trouble, and all is let through.
PAUSE_SECONDS: Final = 1.0
SHARES: Final = 100
# The longest period of a rate: a day.
LONGEST_SECONDS: Final = 86_400
# Of these windows the process forgets those that are over.
MANY_WINDOWS: Final = 10_000
_NOW: Final = {
    "postgresql": "extract(epoch FROM clock_timestamp())::float8",
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
}


@dataclass(frozen=True)
class Rate:
    """How many requests are allowed in how many seconds."""

    limit: int
    seconds: int


@dataclass
class _Share:
    """What the process may still give out in a window, and when that is over."""

    left: int
    ends_at: float


class RateCounter:
    """The counts of one process, which are shares of the counts of all.

    A window begins with a caller's first request and is over after the rate's period;
    the database's clock decides.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shares: dict[tuple[str, Rate], _Share] = {}
        self._paused_until = 0.0

    def take(self, key: str, rate: Rate) -> float:
        """Count one request; return how many seconds to wait, and 0 where it may go on.

        Where the database is in trouble, it may go on: to count is not worth an outage.
        """
        with self._lock:
            now = time.monotonic()
            share = self._shares.get((key, rate))
            if share is not None and share.ends_at > now:
                if share.left > 0:
                    share.left -= 1
                    return 0.0
                if share.left < 0:
                    return share.ends_at - now
            if now < self._paused_until:
                return 0.0
            try:
                return self._take_share(key, rate)
            except DatabaseError as error:
                self._paused_until = time.monotonic() + PAUSE_SECONDS
                logger.warning("requests are not counted: %s", str(error).strip())
                return 0.0

    def _take_share(self, key: str, rate: Rate) -> float:
        """Take the next share from the database; return how many seconds to wait."""
        size = max(1, rate.limit // SHARES)
        count, seconds_left = _add(key, size, seconds=rate.seconds)
        granted = min(size, rate.limit - (count - size))
        if len(self._shares) >= MANY_WINDOWS:
            self._forget_the_past()
        # One is given out now; a share below zero is none, until the window is over.
        left = granted - 1 if granted > 0 else -1
        self._shares[key, rate] = _Share(left, time.monotonic() + seconds_left)
        return 0.0 if granted > 0 else seconds_left

    def _forget_the_past(self) -> None:
        """Drop the windows that are over."""
        now = time.monotonic()
        self._shares = {
            k: share for k, share in self._shares.items() if share.ends_at > now
        }


# The one of this process.
requests = RateCounter()


def _add(key: str, size: int, *, seconds: int) -> tuple[int, float]:
    """Add to a caller's count; return it with the seconds for which its window lasts."""
    vendor = connection.vendor
    now = _NOW[vendor]
    table = RateCount._meta.db_table
    # A window that begins in the future is none: the clock was put back.
    lasts = "abs(excluded.started_at - c.started_at) < %(seconds)s"
    statement = f"""
        INSERT INTO {table} AS c (key, started_at, count)
        VALUES (%(key)s, {now}, %(size)s)
        ON CONFLICT (key) DO UPDATE SET
            count = CASE WHEN {lasts} THEN c.count ELSE 0 END + excluded.count,
            started_at = CASE WHEN {lasts} THEN c.started_at ELSE excluded.started_at END
        RETURNING count, started_at + %(seconds)s - {now}
    """  # noqa: S608 -- only names of ours are spliced in
    with _bounded(vendor), connection.cursor() as cursor:
        cursor.execute(statement, {"key": key, "size": size, "seconds": seconds})
        count, seconds_left = cursor.fetchone()
    return int(count), max(0.001, float(seconds_left))


@contextmanager
def _bounded(vendor: str) -> Iterator[None]:
    """Let statements wait for so long and no longer.

    Inside somebody's transaction the bound would be that transaction's too, and is left.
    """
    if connection.in_atomic_block:
        yield
    elif vendor == "postgresql":
        bound = LONGEST_WAIT_MS[vendor]
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {bound}")
            yield
    else:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout")
            (usual,) = cursor.fetchone()
            cursor.execute(f"PRAGMA busy_timeout = {LONGEST_WAIT_MS[vendor]}")
            try:
                yield
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {usual}")


def forget_old_windows() -> int:
    """Delete the windows that are over whatever their period; return how many."""
    now = _NOW[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {RateCount._meta.db_table} WHERE started_at < {now} - %s",  # noqa: S608
            [LONGEST_SECONDS],
        )
        return int(cursor.rowcount)
