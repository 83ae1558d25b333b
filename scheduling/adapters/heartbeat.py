"""The process beside each cluster that says in the database how the cluster does.

In a process of its own, since a database that does not answer must hold up neither the
command, which starts the cluster afresh, nor the due-broker. It writes one row every few
seconds and takes away the rows of processes that are dead.
"""

import logging
import os
import socket
import time
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from scheduling.adapters.attendance import Stop
from scheduling.adapters.clock import clock_skew_ms, database_now
from scheduling.adapters.owner import Owner
from scheduling.adapters.vitals import process_vitals
from scheduling.domain.phases import format_instant
from scheduling.models import ProcessState

logger = logging.getLogger("autopilot.cluster")

KIND: Final = "cluster"
BEAT_SECONDS: Final = 4.0
# A process that said nothing for so long has left for good, and its row goes.
FORGOTTEN_AFTER: Final = timedelta(hours=1)
FORGET_EVERY_SECONDS: Final = 60.0


def attend(stop: Stop) -> None:
    """Write the cluster's row until it stops, and then take it away."""
    heartbeat = Heartbeat()
    while not stop.is_set():
        heartbeat.beat()
        stop.wait(BEAT_SECONDS)
    heartbeat.leave()


class Heartbeat:
    """Tells of the cluster that this process stands beside."""

    def __init__(self) -> None:
        # Its parent is the command, which is what a person knows the cluster by.
        self._pid = os.getppid()
        self._owner = str(Owner.of_process(self._pid))
        self._started_at: datetime | None = None
        self._forgets_at = 0.0

    def beat(self) -> None:
        """Write the row; a database that is away is left for the next beat."""
        try:
            now = database_now()
            self._started_at = self._started_at or now
            ProcessState.tell(
                **self._key(),
                started_at=self._started_at,
                now=now,
                figures=self._figures(now=now),
            )
            if time.monotonic() >= self._forgets_at:
                self._forgets_at = time.monotonic() + FORGET_EVERY_SECONDS
                forget_dead(now=now)
        except DatabaseError as error:
            logger.debug("the cluster's figures are not written: %s", error)
            connection.close()

    def leave(self) -> None:
        """Take the row away: the cluster ends in order."""
        try:
            ProcessState.objects.filter(**self._key()).delete()
        except DatabaseError as error:
            logger.debug("the cluster's figures stay: %s", error)

    def _figures(self, *, now: datetime) -> dict[str, Any]:
        """Return what there is to tell."""
        return {
            "owner": self._owner,
            "workers": settings.SITE.cluster_workers,
            "restarts": process_vitals.restarts,
            "lastLookAt": _ago(process_vitals.seconds_since_look, now=now),
            "lastClaimAt": _ago(process_vitals.seconds_since_claim, now=now),
            "clockStepSeconds": round(process_vitals.step_seconds, 3),
            "clockSkewMs": clock_skew_ms(),
        }

    def _key(self) -> dict[str, Any]:
        """Return what identifies the cluster's row."""
        return {"kind": KIND, "host": socket.gethostname()[:255], "pid": self._pid}


def forget_dead(*, now: datetime) -> int:
    """Take away the rows of processes that are dead; return how many.

    On this host those that are proven dead: what was started in their place has a row of
    its own. Elsewhere those that said nothing for an hour.
    """
    dead = [
        state.pk
        for state in ProcessState.objects.all()
        if now - state.seen_at > FORGOTTEN_AFTER or is_proven_dead(state)
    ]
    if dead:
        ProcessState.objects.filter(pk__in=dead).delete()
    return len(dead)


def is_proven_dead(state: ProcessState) -> bool:
    """Tell whether a process is known to be gone, and not only silent."""
    owner = state.figures.get("owner")
    return bool(owner) and Owner.parse(owner).is_dead_here()


def _ago(seconds: float | None, *, now: datetime) -> str | None:
    """Return the instant so many seconds before now."""
    return None if seconds is None else format_instant(now - timedelta(seconds=seconds))
