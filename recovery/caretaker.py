"""The process beside each cluster that carries runs out, one over all hosts at a time.

A run takes seconds to minutes and is mostly Python's own work. In a publishing worker it
would keep a lane closed meanwhile, and in a thread beside one it would take turns with
what fires. Here it has a process, and gives way to all others.
"""

import time
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction

from recovery.models import RecoveryRun
from recovery.results import RunStatus, Trigger
from recovery.services.conduct import conduct
from recovery.services.runs import (
    HeldRun,
    Request,
    ask_for_run,
    end_dead,
    is_any_open,
    is_dead,
    request_of,
    take,
)
from scheduling.adapters.attendance import GONE_AFTER, Attendance, Stop
from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner
from scheduling.conf import recovery_settings
from scheduling.models import Housekeeping, ProcessState

KIND: Final = "recovery"
# The row that those who begin at the same time wait for.
TURN: Final = "recovery.begin"
LOOK_SECONDS: Final = 1.0


def attend(stop: Stop) -> None:
    """Carry out runs until the cluster stops.

    What is asked for by hand, the one at the clusters' start, the periodic ones, and
    those whose process died.
    """
    Caretaker(stop).attend()


class Caretaker:
    """Looks every second for what there is to do."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._attendance = Attendance(
            kind=KIND, stop=stop, every_seconds=LOOK_SECONDS, begin=self._begin
        )
        self._must_start = False
        # When the newest whole run that is known of began, in monotonic seconds.
        self._ran_at = float("-inf")

    def attend(self) -> None:
        """Work until the cluster stops; wait where the database is away."""
        self._attendance.attend(self._carry_out)

    def look(self) -> None:
        """Do what there is to do now.

        Raises:
            DatabaseError: The database is out of reach.
        """
        self._attendance.turn(self._carry_out)

    def _carry_out(self) -> None:
        """Carry out the run whose turn it is, if there is one."""
        held = self._next_run()
        if held is not None:
            conduct(
                held,
                is_stopping=self._stop.is_set,
                while_working=self._attendance.show_life,
            )

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
            caretakers = ProcessState.objects.filter(kind=KIND)
            self._must_start = not any(
                _lives(state, now=now)
                for state in caretakers.exclude(**self._attendance.key())
            )
            caretakers.filter(seen_at__lt=now - timedelta(days=1)).delete()
            self._attendance.show_life()

    def _next_run(self) -> HeldRun | None:
        """Return the run that is to be carried out here and now, if there is one."""
        run = RecoveryRun.objects.open().first() if is_any_open() else None
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


def _lives(state: ProcessState, *, now: datetime) -> bool:
    """Tell whether another caretaker is at work."""
    owner = state.figures.get("owner")
    if now - state.seen_at > GONE_AFTER or not owner:
        return False
    return not Owner.parse(owner).is_dead(claimed_at=state.seen_at)
