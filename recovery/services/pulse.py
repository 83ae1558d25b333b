"""How a run shows that it lives, learns that it must end, and outlives an outage."""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from django.db import InterfaceError, OperationalError, connection

from recovery.services.runs import HeldRun
from scheduling.adapters.clock import DatabaseClock, database_now
from scheduling.adapters.patience import is_session_lost

logger = logging.getLogger("autopilot.recovery")

RENEW_SECONDS: Final = 5.0
# How often it is asked, while nothing comes from upstream, whether the run must end.
LOOK_SECONDS: Final = 1.0
DATABASE_PATIENCE_SECONDS: Final = 60.0
DATABASE_RETRY_SECONDS: Final = 0.5
Result = TypeVar("Result")


class StopError(Exception):
    """The run has to end before it is through; `args` say why."""


class TimeIsUpError(StopError):
    """It took longer than it may."""


class DatabaseAwayError(OperationalError):
    """The database did not come back in time."""


class Pulse:
    """The signs of life of one run.

    Args:
        is_stopping: Whether its process was told to stop.
        while_working: Called with each sign of life, every few seconds.
        most_seconds: How long it may read; None: as long as it takes.
    """

    def __init__(
        self,
        held: HeldRun,
        *,
        is_stopping: Callable[[], bool],
        while_working: Callable[[], None],
        most_seconds: float | None,
    ) -> None:
        self._held = held
        self._is_stopping = is_stopping
        self._while_working = while_working
        self._ends_at = None if most_seconds is None else time.monotonic() + most_seconds
        self._shown_at = time.monotonic()

    def show(self) -> None:
        """Renew the lease now and then, and see whether the run must end at once.

        Raises:
            StopError: It must.
            RunLostError: Somebody else has ended it.
        """
        if time.monotonic() - self._shown_at > RENEW_SECONDS:
            self.with_database(self._held.renew)
            self.with_database(self._while_working)
            self._shown_at = time.monotonic()
        if self._is_stopping():
            raise StopError("its process was told to stop; the next run goes on")

    def check_time(self) -> None:
        """See whether there is time to read more.

        Raises:
            TimeIsUpError: There is not.
        """
        if self._ends_at is not None and time.monotonic() > self._ends_at:
            raise TimeIsUpError(
                "it took longer than RECOVERY_STARTUP_TIMEOUT; the next run goes on"
            )

    def sleep(self, seconds: float) -> None:
        """Sleep, with signs of life."""
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))
            self.show()

    def with_database(self, work: Callable[[], Result]) -> Result:
        """Do it, and do it again once the database is back where it went away.

        Raises:
            OperationalError, InterfaceError: Of the statement itself, while the database
                is there.
            DatabaseAwayError: It stays away.
        """
        gives_up_at = time.monotonic() + DATABASE_PATIENCE_SECONDS
        while True:
            try:
                return work()
            except (OperationalError, InterfaceError) as error:
                if connection.in_atomic_block or not is_session_lost(error):
                    raise
                logger.warning("the run waits for the database: %s", str(error).strip())
                self._wait_for_database(error, gives_up_at=gives_up_at)

    def _wait_for_database(self, error: Exception, *, gives_up_at: float) -> None:
        """Wait until the database answers.

        Raises:
            DatabaseAwayError: It stays away.
        """
        while not _is_database_back():
            if time.monotonic() > gives_up_at or self._is_stopping():
                raise DatabaseAwayError(str(error).strip()) from error
            time.sleep(DATABASE_RETRY_SECONDS)


def _is_database_back() -> bool:
    """Tell whether the database answers, on a new connection."""
    connection.close()
    try:
        connection.ensure_connection()
    except (OperationalError, InterfaceError):
        return False
    return bool(connection.is_usable())


def estimated_clock() -> DatabaseClock:
    """Return an estimate of the database's clock, for threads without a session."""
    clock = DatabaseClock()
    asked_at = time.monotonic()
    now = database_now()
    clock.observe(now, asked_at=asked_at, answered_at=time.monotonic())
    return clock
