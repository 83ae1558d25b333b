"""The clock that decides what is due: the database's on PostgreSQL.

Hosts may disagree about the time; the one database decides. SQLite has no clock of its
own, so there `ClockGuard` watches the wall clock for steps.
"""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from django.db import connection


def database_now() -> datetime:
    """Return the aware UTC instant by the clock that decides."""
    if connection.vendor != "postgresql":
        return datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now.astimezone(UTC)


def clock_skew_ms() -> float | None:
    """Return by how much this host's clock is ahead of the database's, in milliseconds.

    None on SQLite, which has no clock of its own.
    """
    if connection.vendor != "postgresql":
        return None
    connection.ensure_connection()
    asked_at = time.time()
    instant = database_now()
    answered_at = time.time()
    middle = (asked_at + answered_at) / 2
    return (middle - instant.timestamp()) * 1000


@dataclass
class DatabaseClock:
    """The deciding clock, estimated between looks from the monotonic one.

    A look that brought the database's instant tells `observe` when it was asked; in
    between, `now()` needs no round trip.
    """

    _epoch_minus_monotonic: float = field(
        default_factory=lambda: time.time() - time.monotonic()
    )
    is_observed: bool = False

    def observe(self, now: datetime, *, asked_at: float, answered_at: float) -> None:
        """Take the database's instant, read between two monotonic readings (seconds)."""
        middle = (asked_at + answered_at) / 2
        self._epoch_minus_monotonic = now.timestamp() - middle
        self.is_observed = True

    def epoch(self) -> float:
        """Return the estimated database instant in seconds since 1970."""
        return time.monotonic() + self._epoch_minus_monotonic

    def seconds_until(self, instant: datetime) -> float:
        """Return the seconds until then, negative once it has passed."""
        return instant.timestamp() - self.epoch()


process_clock = DatabaseClock()

# A slew by NTP stays far below this between two ticks; a step is above it.
LARGEST_SLEW_SECONDS = 0.5
# How far the clock may stand from where it should be for firing to go on.
TOLERATED_STEP_SECONDS = 1.0
SANE_TICKS_TO_RESUME = 3


@dataclass
class ClockGuard:
    """Notices when the wall clock was stepped against the clock that only counts.

    While the steps seen add up to more than a second, `may_fire` is False: firing early
    can't be taken back. It is True again once the clock has been set back right for
    three ticks, or after a restart, which is an operator's word that it is right.
    CLOCK_BOOTTIME also counts while the host sleeps.
    """

    _last_wall: float = field(default_factory=time.time)
    _last_boot: float = field(
        default_factory=lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    )
    step_seconds: float = 0.0
    _sane_ticks: int = SANE_TICKS_TO_RESUME

    def tick(self, *, wall: float | None = None, boot: float | None = None) -> None:
        """Compare both clocks with the last tick's."""
        wall = time.time() if wall is None else wall
        boot = time.clock_gettime(time.CLOCK_BOOTTIME) if boot is None else boot
        drift = (wall - self._last_wall) - (boot - self._last_boot)
        self._last_wall, self._last_boot = wall, boot
        if abs(drift) > LARGEST_SLEW_SECONDS:
            self.step_seconds += drift
        is_sane = abs(self.step_seconds) <= TOLERATED_STEP_SECONDS
        self._sane_ticks = self._sane_ticks + 1 if is_sane else 0

    @property
    def may_fire(self) -> bool:
        """Whether the wall clock can be trusted."""
        return self._sane_ticks >= SANE_TICKS_TO_RESUME


process_guard = ClockGuard()
