"""Processes beside the cluster that do what must never keep a publishing worker.

Each is forked from the command, dies with it, and is started again by itself when it
dies: the cluster fires on without it.
"""

import logging
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from django import db
from django.utils.module_loading import import_string

from scheduling.adapters.cluster import BoundProcess

logger = logging.getLogger("autopilot.cluster")

FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 30.0
# A life at least this long was a good one: the next start is soon again.
GOOD_LIFE_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0


class StopSignal:
    """Says once to all processes that have it that they are to stop.

    multiprocessing's own event waits for each of its waiters when it is set, for ever
    where one of them was killed.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)

    def set(self) -> None:
        """Say it; nobody ever reads it away."""
        os.write(self._writer, b".")

    def is_set(self) -> bool:
        """Tell whether it was said."""
        return self.wait(0.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it, at the most so many seconds; tell whether it was said."""
        return bool(select.select([self._reader], [], [], timeout)[0])


@dataclass
class Companion:
    """One of them: a function that works until it is told to stop, by dotted path."""

    path: str
    stop: StopSignal = field(default_factory=StopSignal)
    process: BoundProcess | None = None
    started_at: float = 0.0
    wait: float = FIRST_WAIT_SECONDS
    starts_at: float = 0.0

    def start(self) -> None:
        """Fork it."""
        work: Callable[[StopSignal], None] = import_string(self.path)
        # No connection may pass through a fork.
        db.connections.close_all()
        self.process = BoundProcess(
            target=work, args=(self.stop,), name=self.path.rpartition(".")[2]
        )
        self.started_at = time.monotonic()
        self.process.start()

    def note_death(self) -> None:
        """Note that it has died, and when it is to be started again."""
        if self.process is None:
            return
        if time.monotonic() - self.started_at > GOOD_LIFE_SECONDS:
            self.wait = FIRST_WAIT_SECONDS
        logger.error(
            "%s ended with %s: starting afresh in %.1f s",
            self.path,
            self.process.reap(),
            self.wait,
        )
        self.process = None
        self.starts_at = time.monotonic() + self.wait
        self.wait = min(self.wait * 2, LONGEST_WAIT_SECONDS)


class Companions:
    """All of them."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._all = [Companion(path) for path in paths]
        self._gives_up_at = 0.0

    def start(self) -> None:
        """Start those that do not run and whose wait is over."""
        for one in self._all:
            if one.process is None and time.monotonic() >= one.starts_at:
                one.start()

    @property
    def descriptors(self) -> list[int]:
        """Each readable once its process has ended."""
        return [int(one.process.sentinel) for one in self._all if one.process]

    @property
    def wait_seconds(self) -> float | None:
        """How long until one is to be started; None where all run."""
        waits = [one.starts_at for one in self._all if one.process is None]
        return max(0.0, min(waits) - time.monotonic()) if waits else None

    def note_deaths(self, descriptors: Sequence[int]) -> None:
        """Note which have ended, by their descriptors."""
        for one in self._all:
            if one.process and int(one.process.sentinel) in descriptors:
                one.note_death()

    def stop(self) -> None:
        """Ask them to end."""
        self._gives_up_at = time.monotonic() + STOP_SECONDS
        for one in self._all:
            one.stop.set()

    def join(self) -> None:
        """Wait for their ends after `stop`; end by force those that take too long."""
        for one in self._all:
            if one.process is None:
                continue
            one.process.join(max(0.0, self._gives_up_at - time.monotonic()))
            if one.process.exitcode is None:
                logger.warning("%s did not stop in time and is killed", one.path)
                one.process.kill()
