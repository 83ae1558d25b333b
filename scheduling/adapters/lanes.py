"""What the due-broker and the publishing workers of one cluster tell each other.

A lane is a worker busy publishing. It claims for itself, batch after batch, so that a
burst needs no hand-over between claims; the due-broker only opens lanes. Their memory
is shared by fork: the cluster makes the board before it forks anything, and a restarted
cluster gets a new one. It holds hints only: whoever is woken reads the tables again.
"""

import multiprocessing
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

_FORK = multiprocessing.get_context("fork")


class LaneBoard:
    """Counts open lanes, wakes the due-broker, and passes the stop on."""

    def __init__(self, *, lanes: int) -> None:
        self.lanes = lanes
        self._open = _FORK.Value("i", 0)
        self._barren = _FORK.Value("i", 0)
        self._trouble = _FORK.Value("i", 0)
        self._stop = _FORK.RawValue("b", 0)
        self.wake_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def open_lanes(self) -> int:
        """How many lanes are open, or handed out and about to open."""
        return int(self._open.value)

    @property
    def barren_lanes(self) -> int:
        """How many lanes in a row closed without having found anything to claim."""
        return int(self._barren.value)

    @property
    def is_stopping(self) -> bool:
        """Whether the cluster was asked to stop."""
        return bool(self._stop.value)

    def note_yield(self, jobs: int) -> None:
        """Note how many jobs a lane that closes has published."""
        with self._barren.get_lock():
            self._barren.value = 0 if jobs else self._barren.value + 1

    @property
    def trouble(self) -> int:
        """How often in a row the lanes had to give jobs back."""
        return int(self._trouble.value)

    def count_trouble(self) -> None:
        """Note that a lane had to give jobs back."""
        with self._trouble.get_lock():
            self._trouble.value += 1

    def forget_trouble(self) -> None:
        """Note that the broker took a whole batch."""
        self._trouble.value = 0

    def close(self) -> None:
        """Give the descriptor back; the board is not used any more."""
        os.close(self.wake_descriptor)

    def open_one(self) -> None:
        """Note that a lane is handed out."""
        with self._open.get_lock():
            self._open.value += 1

    @contextmanager
    def running_lane(self) -> Iterator[None]:
        """Keep a lane that was handed out counted until its work ends."""
        try:
            yield
        finally:
            with self._open.get_lock():
                self._open.value = max(0, self._open.value - 1)
            self.wake()

    def wake(self) -> None:
        """Let the due-broker look again."""
        os.eventfd_write(self.wake_descriptor, 1)

    def stop(self) -> None:
        """Let the lanes finish what they hold."""
        self._stop.value = 1
        self.wake()

    def wait(self, descriptors: list[int], *, timeout_seconds: float) -> None:
        """Sleep until woken, until a descriptor has input, or for so long."""
        readable, _, _ = select.select(
            [self.wake_descriptor, *descriptors], [], [], max(0.0, timeout_seconds)
        )
        if self.wake_descriptor in readable:
            try:
                os.eventfd_read(self.wake_descriptor)
            except BlockingIOError:
                return


board: LaneBoard | None = None


def set_board(new: LaneBoard) -> None:
    """Take the board of the cluster that is about to fork."""
    global board  # noqa: PLW0603 -- inherited by fork, which is the point
    if board is not None:
        board.close()
    board = new


def current_board() -> LaneBoard:
    """Return the cluster's board; outside a cluster one that nobody shares."""
    if board is None:
        set_board(LaneBoard(lanes=1))
    assert board is not None  # noqa: S101 -- for the type checker
    return board
