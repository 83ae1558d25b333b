"""The newest reading of health, at hand: a page must not wait for a broker's silence."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from autopilot_site.health.judgement import Health
from autopilot_site.health.reading import shared_health

logger = logging.getLogger("autopilot.health")

# A reading so old is read anew, behind the page's back.
FRESH: Final = timedelta(seconds=4)
# One so old is nobody's any more: the page waits for a new one.
STALE: Final = timedelta(seconds=20)
# The next one begins when the page is on its way: two threads of a process share a core.
AFTER: Final = timedelta(seconds=0.2)


class LatestHealth:
    """Gives the newest reading, and sees to the next one.

    Args:
        read: Reads for a bounded time, given this host's instant as `now`.
    """

    def __init__(self, read: Callable[..., Health] = shared_health) -> None:
        self._ask = read
        self._lock = threading.Lock()
        self._newest: Health | None = None
        self._is_reading = False

    def read(self, *, now: datetime) -> Health:
        """Return a reading that is a few seconds old at the most."""
        newest = self._newest
        age = None if newest is None else abs(now - newest.timestamp)
        if newest is None or age is None or age > STALE:
            return self._read_now(now)
        if age > FRESH:
            self._read_behind(now)
        return newest

    def _read_now(self, now: datetime) -> Health:
        """Wait for a reading, for a bounded time."""
        found = self._ask(now=now)
        self._newest = found
        return found

    def _read_behind(self, now: datetime) -> None:
        """Let a thread read, unless one does already."""
        with self._lock:
            if self._is_reading:
                return
            self._is_reading = True
        timer = threading.Timer(
            AFTER.total_seconds(), self._read_and_tell, args=(now + AFTER,)
        )
        timer.daemon = True
        timer.name = "home-health"
        timer.start()

    def _read_and_tell(self, now: datetime) -> None:
        """Read, and be ready for the next one whatever happens."""
        try:
            self._read_now(now)
        except Exception:
            # Nobody waits for it: who asks when this one is too old reads for themselves.
            logger.exception("the home page's health could not be read")
        finally:
            self._is_reading = False


latest_health = LatestHealth()
