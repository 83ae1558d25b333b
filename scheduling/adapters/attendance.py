"""The loop of a process beside each cluster: looks now and then, and says that it lives."""

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from django.db import Error as DatabaseError
from django.db import connection

from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner
from scheduling.models import ProcessState

logger = logging.getLogger("autopilot.cluster")

# How often it says that it lives, and after how long without it is taken for gone.
SEEN_SECONDS: Final = 10.0
GONE_AFTER: Final = timedelta(seconds=35)
LONGEST_DATABASE_WAIT_SECONDS: Final = 5.0
# It gives way to what fires.
NICENESS: Final = 10


class Stop(Protocol):
    """Tells when the cluster stops."""

    def is_set(self) -> bool:
        """Tell whether it does."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for that; tell whether it came."""
        ...


@dataclass
class Attendance:
    """One such process.

    kind: of its row among the processes.
    begin: what it does once, before its first look, for those where that must be one with
        its first word: calls `show_life` in a transaction of its own.
    """

    kind: str
    stop: Stop
    every_seconds: float
    begin: Callable[[], None] | None = None
    _begun_at: datetime | None = None
    _seen_at: float = 0.0
    _failures: int = 0

    def attend(self, look: Callable[[], None]) -> None:
        """Look until the cluster stops; wait where the database is away."""
        os.nice(NICENESS)
        while not self.stop.is_set():
            try:
                self.turn(look)
                self._failures = 0
                self.stop.wait(self.every_seconds)
            except DatabaseError as error:
                self._wait_for_database(error)
        self._leave()

    def turn(self, look: Callable[[], None]) -> None:
        """Look once, after saying that this process lives.

        Raises:
            DatabaseError: The database is out of reach.
        """
        if self._begun_at is None and self.begin is not None:
            try:
                self.begin()
            except DatabaseError:
                self._begun_at = None
                raise
        self.show_life()
        look()

    def show_life(self) -> None:
        """Say now and then that this process lives.

        Raises:
            DatabaseError: The database is out of reach.
        """
        if self._begun_at and time.monotonic() - self._seen_at < SEEN_SECONDS:
            return
        now = database_now()
        self._begun_at = self._begun_at or now
        ProcessState.tell(
            **self.key(),
            started_at=self._begun_at,
            now=now,
            figures={"owner": str(Owner.current())},
        )
        self._seen_at = time.monotonic()

    def _leave(self) -> None:
        """Take this process's row away: it ends in order."""
        try:
            ProcessState.objects.filter(**self.key()).delete()
        except DatabaseError as error:
            logger.debug("the row of the %s stays: %s", self.kind, error)

    def _wait_for_database(self, error: DatabaseError) -> None:
        """Wait, longer each time, and begin afresh with a new connection."""
        if not self._failures:
            logger.warning("the %s waits for the database: %s", self.kind, error)
        self._failures += 1
        connection.close()
        self.stop.wait(min(float(self._failures), LONGEST_DATABASE_WAIT_SECONDS))

    def key(self) -> dict[str, Any]:
        """Return what identifies this process's row."""
        return {"kind": self.kind, "host": socket.gethostname()[:255], "pid": os.getpid()}


def lives(kind: str, *, now: datetime, since: timedelta = timedelta(0)) -> bool:
    """Tell whether a process of that kind is at work, and has been for so long."""
    living = ProcessState.objects.filter(kind=kind, seen_at__gte=now - GONE_AFTER)
    return living.filter(started_at__lte=now - since).exists()
