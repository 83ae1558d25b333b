"""django-q2's cluster made fail-stop.

Children die with their parent, and any abnormal death ends the whole, so that the command
can start it afresh. Stock, a worker killed while idle hangs the cluster for ever, and a
killed sentinel leaves orphans that go on working without a guard.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import time
import uuid
from multiprocessing.context import ForkProcess
from typing import Any, Never

import django_q.cluster
from django import db
from django.conf import settings
from typing_extensions import override

from scheduling.adapters.lanes import LaneBoard, current_board, set_board

logger = logging.getLogger("autopilot.cluster")

PR_SET_PDEATHSIG = 1
ABNORMAL_EXIT = 70
# A worker whose task was ended by its timeout leaves by itself within this.
LEAVE_SECONDS = 3.0
# A round of the guard takes half a second, and three more where a worker leaves.
STUCK_SECONDS = 10
REAPED_SECONDS = 1.0


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent is gone (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(ABNORMAL_EXIT)


class BoundProcess(ForkProcess):
    """A process of the cluster: dies with its parent, and leaves signals to the command.

    A SIGTERM or SIGINT that reaches the whole group would kill a worker in the middle
    of a batch; the command alone takes it and stops the others in order.
    """

    @override
    def run(self) -> None:
        parent = multiprocessing.parent_process()
        die_with_parent(int(parent.pid or 0) if parent else os.getppid())
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        super().run()

    def reap(self) -> int | None:
        """Return the exit code of one whose sentinel has told of its end.

        It can be waited for a moment after that.
        """
        self.join(REAPED_SECONDS)
        return self.exitcode


class _BoundContext:
    """What django-q2 asks for processes."""

    Process = BoundProcess


class FailStopSentinel(django_q.cluster.Sentinel):  # type: ignore[misc]
    """Guards the cluster by ending it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, start=False)
        # django-q2's constructor sets handlers of its own.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(
            signal.SIGALRM, lambda *_: _fail_stop("the sentinel got stuck on a dead child")
        )
        self.start()

    @override
    def status(self) -> Any:
        """Return the status, which every round of the guard asks for: it still turns.

        A worker killed while it hands in a result leaves a lock taken, on which the guard
        would wait for ever.
        """
        signal.alarm(STUCK_SECONDS)
        return super().status()

    @override
    def reincarnate(self, process: Any) -> None:
        """Replace a worker that left in order; end the cluster for any other death."""
        timer = getattr(process, "timer", None)
        if timer is None or timer.value not in (0, -2):
            _fail_stop(f"{process.name} died (exit code {process.exitcode})")
        process.join(LEAVE_SECONDS)
        if process.is_alive():
            _fail_stop(f"{process.name} did not leave after its timeout")
        super().reincarnate(process)


def _fail_stop(reason: str) -> Never:
    """End this process at once; its children follow by the kernel's hand."""
    logger.critical("the cluster ends: %s", reason)
    logging.shutdown()
    os._exit(ABNORMAL_EXIT)


class RunningCluster:
    """One life of the cluster: its sentinel process, forked from here."""

    def __init__(self) -> None:
        django_q.cluster.get_mp_context = lambda: _BoundContext
        set_board(LaneBoard(lanes=settings.SITE.cluster_workers))
        # No connection may pass through a fork.
        db.connections.close_all()
        self._stop_event = multiprocessing.get_context("fork").Event()
        start_event = multiprocessing.get_context("fork").Event()
        self._sentinel = BoundProcess(
            target=FailStopSentinel,
            args=(self._stop_event, start_event, uuid.uuid4(), None, None),
            name="sentinel",
        )
        self.started_at = time.monotonic()
        self._sentinel.start()

    @property
    def descriptor(self) -> int:
        """Readable once the cluster has ended."""
        return int(self._sentinel.sentinel)

    @property
    def exit_code(self) -> int | None:
        """The sentinel's exit code after its end."""
        return self._sentinel.reap()

    def stop(self) -> None:
        """Ask it to finish what it holds and end."""
        current_board().stop()
        self._stop_event.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for its end; False when the time ran out."""
        self._sentinel.join(timeout_seconds)
        return self._sentinel.exitcode is not None

    def kill(self) -> None:
        """End it at once; the kernel ends its children."""
        self._sentinel.kill()
        self._sentinel.join()
