"""django-q2's broker for us: sleeps until something is due, then opens a lane.

The pusher process calls `dequeue` in a loop. Ours looks at the rows, waits until the
earlier of the next instant and a wake-up, and hands the task `publish_due` to a worker a
little ahead of the instant; the worker claims at the instant itself. Between that it
frees the jobs of dead owners, starts the periodic chores, and passes ordinary django-q2
tasks on.
"""

import logging
import time
import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.dispatch import receiver
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.signals import post_spawn
from django_q.signing import SignedPackage
from typing_extensions import override

from scheduling.adapters.claim_ends import rescue_abandoned
from scheduling.adapters.clock import database_now, process_guard
from scheduling.adapters.event_publisher import process_publisher
from scheduling.adapters.lanes import current_board
from scheduling.adapters.look import Look, look
from scheduling.adapters.task_packages import PUBLISH_TASK, install
from scheduling.adapters.vitals import process_vitals
from scheduling.adapters.wake import CHANNEL
from scheduling.conf import age_limit, scheduler_settings
from scheduling.models import Housekeeping

logger = logging.getLogger("autopilot.due_broker")

# Whoever puts a task into the queue, or takes one out, does it by this broker.
install()

# A lane is opened this much ahead of the instant: the hand-over takes about 1 ms, a
# busy machine several.
LEAD_SECONDS = 0.025
# Open lanes that leave something due for longer than this need another one beside them.
BEHIND_SECONDS = 0.010
# The slow look for lost wake-ups; on SQLite nobody else can wake this process.
SAFETY_SECONDS = {"postgresql": 1.0, "sqlite": 0.2}
RESCUE_EVERY_SECONDS = 0.5
FIRST_BARREN_WAIT_SECONDS = 0.02
LONGEST_BARREN_WAIT_SECONDS = 0.5
DATABASE_DOWN_WAIT_SECONDS = (0.2, 0.5, 1.0, 2.0)
# Its interval may change while the cluster runs.
CLEAN_UP_TASK = "scheduling.tasks.clean_up"
# How often the chores' table is asked, at the most.
CHORES_EVERY_SECONDS = 5.0
# After one that was due the next one gets its turn so soon.
CHORE_PAUSE_SECONDS = 0.5
Task = tuple[int | None, str]


class DueBroker(ORM):  # type: ignore[misc]  # django-q2 has no types
    """Hands out lanes at their instants, and what else waits in django-q2's queue."""

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key)
        self._reset()

    def _reset(self) -> None:
        """Forget what belongs to one process."""
        self._listening_on: Any = None
        self._rescued_at = 0.0
        self._chores_at = 0.0
        self._opened_at = 0.0
        self._searched_at: datetime | None = None
        self._failures = 0
        self._was_trusted = True

    @override
    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._reset()

    @override
    def dequeue(self) -> list[Task] | None:
        """Return the tasks to run now, after at most about a second."""
        try:
            tasks = self._next_tasks()
        except DatabaseError as error:
            self._wait_for_database(error)
            return None
        self._failures = 0
        return tasks

    def _next_tasks(self) -> list[Task] | None:
        """Look once; return tasks, or wait as long as nothing can be due."""
        self._listen()
        seen = look(queue=self.list_key, age_limit=age_limit())
        process_vitals.note_look()
        self._rescue(seen)
        if seen.has_task:
            return list(super().dequeue() or [])
        chores = self._due_chores()
        if chores:
            return chores
        if not self._may_fire():
            self._wait(SAFETY_SECONDS[connection.vendor])
            return None
        return self._open_lane_or_wait(seen)

    def _open_lane_or_wait(self, seen: Look) -> list[Task] | None:
        """Open a lane for what is due within the lead, or sleep until then."""
        lanes = current_board()
        safety = SAFETY_SECONDS[connection.vendor]
        if seen.next_ready_at is None or lanes.is_stopping:
            self._wait(safety)
            return None
        pause = self._pause_left()
        if pause > 0:
            # Only what became ready since is worth a lane before the pause is over.
            seen = look(queue=self.list_key, age_limit=age_limit(), after=self._searched_at)
        lead = -BEHIND_SECONDS if lanes.open_lanes else LEAD_SECONDS
        next_ready_at = seen.next_ready_at or seen.now + timedelta(seconds=safety + lead)
        ahead = (next_ready_at - seen.now).total_seconds() - lead
        if ahead > 0 or lanes.open_lanes >= lanes.lanes:
            waits = [safety, *([ahead] if ahead > 0 else []), *([pause] if pause else [])]
            self._wait(min(waits))
            return None
        self._searched_at, self._opened_at = seen.now, time.monotonic()
        lanes.open_one()
        logger.debug("a lane opens %.1f ms ahead", (ahead + lead) * 1000)
        return [_task(PUBLISH_TASK, next_ready_at.timestamp())]

    def _pause_left(self) -> float:
        """Return the seconds for which to leave what was ready alone; 0 for none.

        What is ready may be held back by the order of its key or by the limit of running
        jobs; then lanes close without a claim. Doubling pauses keep that from spinning,
        and from holding up the claims of the lane that has work.
        """
        barren = current_board().barren_lanes
        if barren == 0:
            return 0.0
        pause: float = FIRST_BARREN_WAIT_SECONDS * 2 ** min(barren - 1, 10)
        end = self._opened_at + min(pause, LONGEST_BARREN_WAIT_SECONDS)
        return max(0.0, end - time.monotonic())

    def _rescue(self, seen: Look) -> None:
        """Free the jobs of dead owners, now and then."""
        if seen.running and time.monotonic() - self._rescued_at > RESCUE_EVERY_SECONDS:
            self._rescued_at = time.monotonic()
            rescued = rescue_abandoned()
            if rescued:
                logger.warning("rescued %d jobs from dead workers", rescued)

    def _due_chores(self) -> list[Task]:
        """Return the periodic chores whose time has come; one host gets each."""
        chores: dict[str, timedelta] = dict(settings.CHORES)
        if CLEAN_UP_TASK in chores:
            chores[CLEAN_UP_TASK] = scheduler_settings().period("cleanup_interval")
        often = min(interval.total_seconds() for interval in chores.values())
        every = min(often, CHORES_EVERY_SECONDS)
        if time.monotonic() < self._chores_at:
            return []
        self._chores_at = time.monotonic() + every
        now = database_now()
        # One at a time: the workers are there for firing. The rare ones first: one that
        # is due at each look would leave them no turn.
        for path in Housekeeping.list_due(chores, now=now):
            if Housekeeping.take(path, interval=chores[path], now=now):
                self._chores_at = time.monotonic() + min(every, CHORE_PAUSE_SECONDS)
                return [_task(path)]
        return []

    def _may_fire(self) -> bool:
        """Tell whether the clock can be trusted; PostgreSQL's always is."""
        if connection.vendor == "postgresql":
            return True
        process_guard.tick()
        if process_guard.may_fire != self._was_trusted:
            self._was_trusted = process_guard.may_fire
            process_vitals.note_clock(
                step_seconds=0.0 if self._was_trusted else process_guard.step_seconds
            )
            if self._was_trusted:
                logger.warning("the clock is right again: firing goes on")
            else:
                logger.critical(
                    "the clock was stepped by %+.1f s: nothing fires until it is set "
                    "right, or until the cluster is restarted",
                    process_guard.step_seconds,
                )
        return self._was_trusted

    def _listen(self) -> None:
        """Listen for wake-ups on this process's PostgreSQL session."""
        if connection.vendor != "postgresql":
            return
        connection.ensure_connection()
        session = connection.connection
        if session is not self._listening_on:
            # One that arrives while a query is answered would else wait unseen.
            session.add_notify_handler(lambda _: current_board().wake())
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            self._listening_on = session

    def _wait(self, seconds: float) -> None:
        """Sleep until woken by a commit elsewhere or a lane's end, or for so long."""
        if connection.vendor != "postgresql":
            current_board().wait([], timeout_seconds=seconds)
            return
        session = connection.connection
        current_board().wait([session.fileno()], timeout_seconds=seconds)
        with connection.wrap_database_errors:
            session.pgconn.consume_input()
            # Whatever a notification says: the next look reads the rows.
            while session.pgconn.notifies():
                pass

    def _wait_for_database(self, error: Exception) -> None:
        """Note that the database is away, and give it a little longer each time."""
        waits = DATABASE_DOWN_WAIT_SECONDS
        if not self._failures:
            logger.error("the database can't be used: %s", str(error).strip())
        seconds = waits[min(self._failures, len(waits) - 1)]
        self._failures += 1
        connection.close()
        current_board().wait([], timeout_seconds=seconds)


def _task(path: str, *arguments: object) -> Task:
    """Return a signed django-q2 task that nobody acknowledges or stores."""
    name = uuid.uuid4().hex
    task = {
        "id": name,
        "name": path.rpartition(".")[2],
        "func": path,
        "args": arguments,
        "kwargs": {},
        "started": timezone.now(),
        "save": False,
    }
    return None, SignedPackage.dumps(task)


@receiver(post_spawn, dispatch_uid="scheduling.warm_up")
def warm_up(**kwargs: object) -> None:
    """Let a new worker connect before its first job is due.

    The first record of a new producer waits 0.5 to 1 s for its producer id.
    """
    process_publisher().warm_up()
