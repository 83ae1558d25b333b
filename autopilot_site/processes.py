"""Runs several processes as one: shows their lines, restarts the dead, stops them all.

It knows nothing of what the processes do; `up` tells it. One thread owns all of it,
since the kernel ends a bound process when the thread that started it ends.
"""

import os
import queue
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 10.0
# A life at least this long was a good one: the next restart is immediate again.
GOOD_LIFE_SECONDS: Final = 30.0
# Together below the 15 s that a stop may last: what the others need stops after them.
STOP_SECONDS: Final = 11.0
STOP_LAST_SECONDS: Final = 2.0
# What a reader that has gone, or a stopped terminal, may leave unwritten.
MOST_UNWRITTEN_LINES: Final = 10_000
LAST_WRITE_SECONDS: Final = 1.0
LONGEST_LINE_BYTES: Final = 65_536
_TICK_SECONDS: Final = 0.2

# The kernel kills the process when its parent is gone (PR_SET_PDEATHSIG outlives exec).
# As a program of its own, since code between fork and exec must not run where threads
# do; it ends with 70 where the parent was gone before it could ask.
_BOUND_TO_PARENT: Final = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(70)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)


class Printer:
    """Writes lines to stdout without ever making the caller wait.

    A terminal that is stopped must not hold up the processes behind it, whose own
    writes would wait in turn. Lines beyond `MOST_UNWRITTEN_LINES` are dropped.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes | None] = queue.Queue(MOST_UNWRITTEN_LINES)
        self._dropped = 0
        # Set once nobody can read what is written any more.
        self.is_closed = False
        self._writer = threading.Thread(target=self._write, daemon=True, name="printer")
        self._writer.start()

    def say(self, line: str) -> None:
        """Write a line as soon as may be."""
        try:
            self._lines.put_nowait(f"{line}\n".encode(errors="replace"))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, for at most a second."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._writer.join(LAST_WRITE_SECONDS)

    def _write(self) -> None:
        """Write until told to end, or until the reader is gone."""
        while (line := self._lines.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                line = f"({dropped} lines were not written)\n".encode() + line
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self.is_closed = True
                return


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process to be kept running.

    may_start: asked before its first start.
    is_ready: asked while it runs, until it says yes.
    stops_last: whether the others need it until their end.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    is_ready: Callable[["Process"], bool]
    may_start: Callable[[], bool] = lambda: True
    stops_last: bool = False


class Process:
    """The life, or the lives one after the other, of one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.is_ready = False
        self.deaths = 0
        # What it has written in its present life, until it is ready.
        self.said: deque[str] = deque(maxlen=1_000)
        self._running: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._started_at = 0.0
        self._starts_at = 0.0
        self._wait = FIRST_WAIT_SECONDS

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return self._running.pid if self._running else None

    @property
    def is_due(self) -> bool:
        """Whether it shall be started now."""
        has_time = time.monotonic() >= self._starts_at
        return self._running is None and has_time and self.service.may_start()

    @property
    def age_seconds(self) -> float:
        """How long its present life has lasted."""
        return time.monotonic() - self._started_at

    def has_said(self, pattern: str) -> bool:
        """Tell whether a line of its present life matches."""
        return any(re.search(pattern, line) for line in self.said)

    def start(self) -> int:
        """Start it in a session of its own; return the descriptor of its output.

        A session of its own keeps a Ctrl-C at the terminal from it: the order in which
        the processes stop is decided here.
        """
        self.said.clear()
        self._rest = b""
        self._started_at = time.monotonic()
        launcher = [sys.executable, "-I", "-S", "-c", _BOUND_TO_PARENT, str(os.getpid())]
        self._running = subprocess.Popen(  # noqa: S603 -- our own programs
            [*launcher, *self.service.command],
            env=dict(self.service.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._running.stdout is not None  # noqa: S101 -- for the type checker
        descriptor = self._running.stdout.fileno()
        os.set_blocking(descriptor, False)
        return descriptor

    def read(self, descriptor: int) -> list[str] | None:
        """Return the whole lines that have come; None once there can be no more."""
        try:
            chunk = os.read(descriptor, LONGEST_LINE_BYTES)
        except BlockingIOError:
            return []
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        texts = [line.decode(errors="replace").rstrip("\r") for line in lines]
        if not self.is_ready:
            self.said.extend(texts)
        return texts

    def rest(self) -> list[str]:
        """Return the line that its last words did not end, if there is one."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []

    def has_ended(self) -> bool:
        """Tell whether it started and has ended since."""
        return self._running is not None and self._running.poll() is not None

    def bury(self) -> str:
        """Clear an ended life away, set the wait for the next; return how it ended."""
        assert self._running is not None  # noqa: S101 -- for the type checker
        code = self._running.wait()
        if self._running.stdout is not None:
            self._running.stdout.close()
        self._running = None
        self.is_ready = False
        self.deaths += 1
        if self.age_seconds > GOOD_LIFE_SECONDS:
            self._wait = FIRST_WAIT_SECONDS
        self._starts_at = time.monotonic() + self._wait
        self._wait = min(self._wait * 2, LONGEST_WAIT_SECONDS)
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def ask_to_stop(self) -> None:
        """Ask for an orderly end."""
        if self._running is not None and self._running.poll() is None:
            self._running.terminate()

    def kill(self) -> None:
        """End it, and all that it started, at once."""
        if self._running is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._running.pid, signal.SIGKILL)


class Supervisor:
    """Keeps services running, from the first `step` until `stop`."""

    def __init__(
        self, services: Iterable[Service], *, printer: Printer, stop_descriptor: int
    ) -> None:
        """Start nothing yet.

        Args:
            stop_descriptor: Readable once all shall stop; `is_asked_to_stop` then tells.
        """
        self.processes = [Process(service) for service in services]
        self._printer = printer
        self._selector = selectors.DefaultSelector()
        self._selector.register(stop_descriptor, selectors.EVENT_READ)
        self.is_asked_to_stop = False
        names = [process.service.name for process in self.processes]
        self._width = max(len(name) for name in (*names, "up"))

    def say(self, line: str, *, name: str = "up") -> None:
        """Write a line with the name of who says it."""
        self._printer.say(f"{name:<{self._width}} | {line}")

    @property
    def waiting_for(self) -> list[str]:
        """The names of what is not ready."""
        return [p.service.name for p in self.processes if not p.is_ready]

    def is_ready(self, name: str) -> bool:
        """Tell whether the service of that name is ready."""
        return any(p.service.name == name and p.is_ready for p in self.processes)

    def step(self) -> None:
        """Start what is due, pass on what is said, and note who died or became ready."""
        for process in self.processes:
            if process.is_due:
                descriptor = process.start()
                self._selector.register(descriptor, selectors.EVENT_READ, process)
        self._pass_on(_TICK_SECONDS)
        for process in self.processes:
            if process.has_ended():
                how = self._bury(process)
                self.say(f"{process.service.name} ended ({how}) and is started again")
            elif process.pid and not process.is_ready:
                process.is_ready = process.service.is_ready(process)

    def stop(self) -> None:
        """Stop everything in order; by force what does not stop in time."""
        first = [p for p in self.processes if not p.service.stops_last]
        last = [p for p in self.processes if p.service.stops_last]
        self._stop(first, within_seconds=STOP_SECONDS)
        self._stop(last, within_seconds=STOP_LAST_SECONDS)

    def _stop(self, processes: Sequence[Process], *, within_seconds: float) -> None:
        """Stop some of them."""
        deadline = time.monotonic() + within_seconds
        killed: set[str] = set()
        for process in processes:
            process.ask_to_stop()
        while any(process.pid for process in processes):
            self._pass_on(_TICK_SECONDS / 4)
            if time.monotonic() > deadline:
                for process in processes:
                    name = process.service.name
                    if process.pid and name not in killed and not process.has_ended():
                        killed.add(name)
                        self.say(f"{name} did not stop in time and is killed")
                        process.kill()
            for process in processes:
                if process.has_ended():
                    self._bury(process)

    def _pass_on(self, seconds: float) -> None:
        """Write what the processes say within so long."""
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, Process):
                if self._pass_on_lines(key.data, key.fd) is None:
                    self._selector.unregister(key.fd)
            else:
                self.is_asked_to_stop = True
                self._selector.unregister(key.fd)

    def _pass_on_lines(self, process: Process, descriptor: int) -> int | None:
        """Write what one process has said; None once it can say no more."""
        lines = process.read(descriptor)
        for line in lines or ():
            self.say(line, name=process.service.name)
        return None if lines is None else len(lines)

    def _bury(self, process: Process) -> str:
        """Write a dead process's last words and clear it away; return how it ended."""
        # Whatever it started and left behind would hold ports and work unguarded.
        process.kill()
        mine = [k.fd for k in self._selector.get_map().values() if k.data is process]
        for descriptor in mine:
            while self._pass_on_lines(process, descriptor):
                pass
            self._selector.unregister(descriptor)
        for line in process.rest():
            self.say(line, name=process.service.name)
        return process.bury()


def listen_for_stop(*, may_interrupt: Callable[[], bool]) -> int:
    """Return a descriptor that is readable once SIGTERM, SIGINT or SIGHUP came.

    Args:
        may_interrupt: Asked at the first signal; where it says yes, `StopRequestedError`
            is also raised, wherever the main thread is.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        numbers.append(signal.SIGHUP)

    def note(number: int, frame: FrameType | None) -> None:
        # One Ctrl-C may come twice, from the terminal and passed on by a parent: the
        # first begins the stop, the rest change nothing. They are caught and not ignored:
        # a process that is being started would inherit that, and be deaf to its stop.
        for one in numbers:
            signal.signal(one, lambda *_: None)
        os.write(writer, b".")
        if may_interrupt():
            raise StopRequestedError

    for number in numbers:
        signal.signal(number, note)
    return reader


class StopRequestedError(BaseException):
    """A stop was asked for where nothing runs yet that would have to be stopped.

    Like KeyboardInterrupt no `Exception`: nobody on the way shall take it for a failure.
    """
