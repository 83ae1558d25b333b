"""Ctrl-C and SIGTERM, which end a benchmark in order and are never lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

# Until it has arrived it comes again so often.
AGAIN_SECONDS: Final = 1.0


@contextmanager
def stop_is_an_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does.

    What is raised while a library calls back, or an object is thrown away, is swallowed
    there: until `heard` is called, it is raised again.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        raise KeyboardInterrupt

    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.signal(number, interrupt) for number in watched}
    try:
        yield
    finally:
        heard()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def closing_interrupts() -> Iterator[None]:
    """Raise it no more behind the block."""
    try:
        yield
    finally:
        heard()


def heard() -> None:
    """Raise it no more: what is put in order now is left in peace."""
    signal.setitimer(signal.ITIMER_REAL, 0.0)
