"""The process beside each cluster that carries runs out, one over all hosts at a time.

A run takes seconds to minutes and is mostly Python's own work. In a publishing worker it
would keep a lane closed meanwhile, and in a thread beside one it would take turns with
what fires. Here it has a process, and gives way to all others.
"""

import logging
import os
import socket
import time
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import Error as DatabaseError
from django.db import connection, transaction

from recovery.models import RecoveryRun
from recovery.results import RunStatus, Trigger
from recovery.services.conduct import conduct
from recovery.services.runs import (
    HeldRun,
    Request,
    ask_for_run,
    end_dead,
    is_dead,
    request_of,
    take,
)
from scheduling.adapters.attendance import Stop
from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner
from scheduling.conf import recovery_settings
from scheduling.models import Housekeeping, ProcessState

logger = logging.getLogger("autopilot.recovery")

KIND: Final = "recovery"
# The row that those who begin at the same time wait for.
TURN: Final = "recovery.begin"
LOOK_SECONDS: Final = 1.0
# How often it says that it lives, and after how long without it is taken for gone.
SEEN_SECONDS: Final = 10.0
GONE_AFTER: Final = timedelta(seconds=35)
LONGEST_DATABASE_WAIT_SECONDS: Final = 5.0
NICENESS: Final = 10


def attend(stop: Stop) -> None:
    """Carry out runs until the cluster stops.

    What is asked for by hand, the one at the clusters' start, the periodic ones, and
    those whose process died.
    """
    os.nice(NICENESS)
    Caretaker(stop).attend()


class Caretaker:
    """Looks every second for what there is to do."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._begun_at: datetime | None = None
        self._must_start = False
        # When the newest whole run that is known of began, in monotonic seconds.
        self._ran_at = float("-inf")
        self._seen_at = 0.0
        self._failures = 0

    def attend(self) -> None:
        """Work until the cluster stops; wait where the database is away."""
        while not self._stop.is_set():
            try:
                self.look()
                self._failures = 0
                self._stop.wait(LOOK_SECONDS)
            except DatabaseError as error:
                self._wait_for_database(error)
        self._leave()

    def look(self) -> None:
        """Do what there is to do now.

        Raises:
            DatabaseError: The database is out of reach.
        """
        if self._begun_at is None:
            self._begin()
        self._show_life()
        held = self._next_run()
        if held is not None:
            conduct(held, is_stopping=self._stop.is_set, while_working=self._show_life)

    def _begin(self) -> None:
        """Join the caretakers; the first of them owes the run of the start.

        Those who begin together pass one after the other.
        """
        Housekeeping.objects.get_or_create(
            name=TURN, defaults={"last_run_at": database_now()}
        )
        with transaction.atomic():
            Housekeeping.objects.select_for_update().get(name=TURN)
            now = database_now()
            self._must_start = not any(
                _lives(state, now=now)
                for state in ProcessState.objects.filter(kind=KIND).exclude(**_key())
            )
            ProcessState.objects.filter(
                kind=KIND, seen_at__lt=now - timedelta(days=1)
            ).delete()
            self._write_state(now=now, begun_at=now)
        self._begun_at = now

    def _next_run(self) -> HeldRun | None:
        """Return the run that is to be carried out here and now, if there is one."""
        run = RecoveryRun.objects.open().first()
        if run is not None and is_dead(run):
            end_dead(run)
            # Of a look only nobody waits for the answer any more.
            run = None if run.dry_run else ask_for_run(request_of(run))
        elif run is None and self._must_start:
            run = ask_for_run(Request(trigger=Trigger.STARTUP))
        elif run is None and self._is_sync_due():
            run = ask_for_run(Request(trigger=Trigger.SYNC))
        if run is None or run.current_status is not RunStatus.NOT_STARTED:
            return None
        held = take(run)
        if held is not None and held.request == Request(trigger=Trigger.STARTUP):
            self._must_start = False
        return held

    def _is_sync_due(self) -> bool:
        """Tell whether the last whole run began long enough ago.

        The database is asked only where it may be: any run that is not known of yet began
        after the one that is, and puts the next one off.
        """
        interval = recovery_settings().period("sync_interval")
        if not interval or time.monotonic() - self._ran_at < interval.total_seconds():
            return False
        last = RecoveryRun.objects.whole().exclude(started_at=None).first()
        if last is None or last.started_at is None:
            return True
        age = database_now() - last.started_at
        self._ran_at = time.monotonic() - age.total_seconds()
        return age >= interval

    def _show_life(self) -> None:
        """Say now and then that this process lives."""
        if self._begun_at is None or time.monotonic() - self._seen_at < SEEN_SECONDS:
            return
        self._write_state(now=database_now(), begun_at=self._begun_at)

    def _write_state(self, *, now: datetime, begun_at: datetime) -> None:
        """Write this process's row."""
        ProcessState.tell(
            **_key(),
            started_at=begun_at,
            now=now,
            figures={"owner": str(Owner.current())},
        )
        self._seen_at = time.monotonic()

    def _leave(self) -> None:
        """Take this process's row away: it ends in order."""
        try:
            ProcessState.objects.filter(**_key()).delete()
        except DatabaseError as error:
            logger.debug("the caretaker's row stays: %s", error)

    def _wait_for_database(self, error: DatabaseError) -> None:
        """Wait, longer each time, and begin afresh with a new connection."""
        if not self._failures:
            logger.warning("recovery waits for the database: %s", str(error).strip())
        self._failures += 1
        connection.close()
        self._stop.wait(min(LOOK_SECONDS * self._failures, LONGEST_DATABASE_WAIT_SECONDS))


def _key() -> dict[str, Any]:
    """Return what identifies this process's row."""
    return {"kind": KIND, "host": socket.gethostname()[:255], "pid": os.getpid()}


def _lives(state: ProcessState, *, now: datetime) -> bool:
    """Tell whether another caretaker is at work."""
    owner = state.figures.get("owner")
    if now - state.seen_at > GONE_AFTER or not owner:
        return False
    return not Owner.parse(owner).is_dead(claimed_at=state.seen_at)
