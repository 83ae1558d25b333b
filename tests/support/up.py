"""A running `manage.py up`: what it has written, and the processes that it has."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from django.conf import settings

MANAGE = str(Path(settings.BASE_DIR) / "manage.py")
READY_SECONDS = 60


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


def embedded(directory):
    """Return the environment of a start of its own, with an SQLite file."""
    kept = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG"}}
    return {**kept, "DEBUG": "1", "DATABASE_URL": f"sqlite:///{directory / 'db.sqlite3'}"}


class Up:
    """A running `up`, with what it has written."""

    def __init__(self, environment, *arguments, port=None, kafka_port=None):
        self.port = port or free_port()
        self.kafka_port = kafka_port or free_port()
        ports = ["--port", str(self.port), "--kafka-port", str(self.kafka_port)]
        self.process = subprocess.Popen(
            [sys.executable, MANAGE, "up", *ports, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines = []
        self.family = {}
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()

    def matching(self, pattern):
        return [line for line in self.lines if re.search(pattern, line)]

    def wait_for(self, pattern, *, seconds, times=1):
        """Return the last line that matches, once so many do."""
        with self._news:
            came = self._news.wait_for(
                lambda: len(self.matching(pattern)) >= times, timeout=seconds
            )
        assert came, f"no {pattern!r} within {seconds} s:\n" + "\n".join(self.lines)
        self._meet_family()
        return self.matching(pattern)[-1]

    def _meet_family(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self.family[process.pid] = process

    def child(self, words):
        """Return the process whose command line has the words."""
        self._meet_family()
        for process in self.family.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                if words in " ".join(process.cmdline()):
                    return process
        raise AssertionError(f"no process {words!r}")

    def survivors(self, *, seconds):
        """Return who of the family still lives after so long, as text."""
        deadline = time.monotonic() + seconds
        while True:
            living = [str(p) for p in self.family.values() if p.is_running()]
            if not living or time.monotonic() > deadline:
                return living
            time.sleep(0.1)

    def wait(self, *, seconds):
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def end(self):
        """Leave nothing behind, whatever the test did."""
        self._meet_family()
        for process in [self.process, *self.family.values()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)
        self._reader.join(5)
        self.process.stdout.close()
