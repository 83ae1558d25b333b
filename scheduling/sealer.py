"""The process beside each cluster that seals the audit, one over all hosts at a time.

Behind the seals it keeps the texts that jobs are searched by.

In a publishing worker it would keep a lane closed while it hashes a burst; here it has a
process, which gives way to all others.
"""

import logging
import time
from datetime import timedelta
from typing import Final

from scheduling.adapters.attendance import Attendance, Stop
from scheduling.adapters.clock import database_now
from scheduling.adapters.job_texts import follow_one_seal, is_indexed, ready_some
from scheduling.models import AuditSeal, Housekeeping
from scheduling.services.seals import Sealer

logger = logging.getLogger("autopilot.audit")

KIND: Final = "sealer"
# An entry is sealed within 10 s, also where this process has to be started again.
LOOK_SECONDS: Final = 3.0
# Whose turn it is; shorter than a look, so that the one who had it last keeps it.
TURN: Final = "audit.sealing"
TURN_LASTS: Final = timedelta(seconds=2)
# Whoever can change the database can't change the logs: a seal in there anchors the chain.
ANCHOR_SECONDS: Final = 3600.0
# Seals to follow in one look, each of up to five thousand entries: a second of
# PostgreSQL's time where all are of new jobs.
MOST_FOLLOWED: Final = 4
# Looks from one to the next in which it follows the seals of others.
FOLLOW_EVERY: Final = 20


def attend(stop: Stop) -> None:
    """Seal what is new, every few seconds, until the cluster stops."""
    attendance = Attendance(kind=KIND, stop=stop, every_seconds=LOOK_SECONDS)
    attendance.attend(Round(stop).look)


class Round:
    """One look after the other."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._sealer = Sealer()
        self._anchored_at: float | None = None
        self._looks_to_follow = 0

    def look(self) -> None:
        """Seal all there is, if it is this process's turn, and follow the seals.

        Raises:
            DatabaseError: The database is out of reach.
        """
        self._seal()
        self._looks_to_follow -= 1
        if self._looks_to_follow < 0:
            self._follow()

    def _seal(self) -> None:
        """Seal all there is, if it is this process's turn."""
        if not self._sealer.has_work():
            return
        if not Housekeeping.take(TURN, interval=TURN_LASTS, now=database_now()):
            return
        newest = None
        while not self._stop.is_set():
            seal = self._sealer.seal_next(now=database_now())
            if seal is None:
                break
            newest = seal
        if newest is not None:
            self._looks_to_follow = 0
            self._anchor(newest)

    def _follow(self) -> None:
        """Keep the texts of the jobs under the next seals, where there is an index."""
        self._looks_to_follow = FOLLOW_EVERY
        if not is_indexed():
            return
        if ready_some():
            self._looks_to_follow = 0
        for _ in range(MOST_FOLLOWED):
            if self._stop.is_set() or not follow_one_seal():
                return
        self._looks_to_follow = 0

    def _anchor(self, seal: AuditSeal) -> None:
        """Write the chain's end to the log, now and then."""
        now = time.monotonic()
        if self._anchored_at is not None and now - self._anchored_at < ANCHOR_SECONDS:
            return
        self._anchored_at = now
        logger.info(
            "the audit is sealed up to entry %d: seal %d, digest %s",
            seal.last_id,
            seal.number,
            seal.digest,
        )
