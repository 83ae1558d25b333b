"""The processes that a benchmark starts, measures and ends: a cluster, maybe a broker."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil
from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection

from scheduling.adapters.cluster import die_with_parent

# The cluster itself takes up to 15 s to give back what it holds.
_STOP_SECONDS = 20.0
_TAIL_BYTES = 2_000


class Memory(NamedTuple):
    """What a process tree occupies, in MiB.

    pss: shared pages are divided among those who share them. uss: its own only.
    """

    processes: int
    pss: float
    uss: float
    rss: float


class Process:
    """One `manage.py` command in a process group of its own; leave it to end it.

    Ctrl-C on the terminal does not reach it, so that it is ended in order, once; if this
    process dies, the kernel ends it.
    """

    def __init__(self, command: list[str], *, environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *command]
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[str] | None = None
        self._log = Path(tempfile.mkdtemp(prefix="autopilot-benchmark-")) / "log"

    def start(self) -> None:
        """Start it; what it prints goes to a file that is shown if it fails."""
        parent = os.getpid()
        with self._log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(  # noqa: S603 -- our own command
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                # Nothing else runs in this process while it starts others.
                preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509
            )

    def stop(self) -> None:
        """End it in order, or by force when it does not end in time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self._log.unlink(missing_ok=True)
            self._log.parent.rmdir()

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._process is not None

    def check(self) -> None:
        """See that it still runs.

        Raises:
            CommandError: It has ended by itself; tells what it last printed.
        """
        if self._process is not None and self._process.poll() is not None:
            raise CommandError(
                f"{self._command[2]} ended with {self._process.returncode}:\n{self.tail()}"
            )

    def tail(self) -> str:
        """Return the end of what it printed."""
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def output(self) -> str:
        """Return all that it printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def tree(self) -> list[psutil.Process]:
        """Return the process and all below it."""
        if self._process is None:
            return []
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory(self) -> Memory:
        """Return what the whole tree occupies."""
        infos = []
        for process in self.tree():
            try:
                infos.append(process.memory_full_info())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

        def mebibytes(name: str) -> float:
            total: int = sum(getattr(info, name) for info in infos)
            return round(total / 2**20, 1)

        return Memory(len(infos), mebibytes("pss"), mebibytes("uss"), mebibytes("rss"))


CpuSeconds = dict[tuple[int, float], float]


def cpu_seconds(processes: list[psutil.Process]) -> CpuSeconds:
    """Return how much CPU each process has used, by pid and start."""
    used: CpuSeconds = {}
    for process in processes:
        try:
            times = process.cpu_times()
            used[process.pid, process.create_time()] = times.user + times.system
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return used


def cpu_between(before: CpuSeconds, after: CpuSeconds) -> float:
    """Return the CPU seconds used in between by the processes that still run."""
    return sum(used - before.get(process, 0.0) for process, used in after.items())


def database_processes() -> list[psutil.Process] | None:
    """Return the server's processes that serve this database; None where they are not here.

    Only PostgreSQL has any, and on another host they can't be seen.
    """
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        pids = [pid for (pid,) in cursor.fetchall()]
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.name().startswith("postgres"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found if len(found) == len(pids) else None


def has_other_sessions() -> bool:
    """Tell whether others use this PostgreSQL database: they may claim our jobs."""
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend')"
        )
        return bool(cursor.fetchone()[0])
