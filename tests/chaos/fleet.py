"""The product's processes, kept alive as a service manager keeps them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil

from tests.support.servers import ROOT

RESTART_SECONDS = 0.3
STOP_SECONDS = 40


class Fleet:
    """Processes by name, each of which is started again when it ends.

    Args:
        commands: The arguments of each process behind the Python that runs this, and
            what its environment has of its own.
        log: Where all of them write.
    """

    def __init__(self, commands, *, environment, log):
        self._commands = commands
        self._environment = environment
        self._log = log
        self._stopping = False
        self.restarts = dict.fromkeys(commands, 0)
        self._processes = {name: self._start(name) for name in commands}
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _start(self, name):
        arguments, own = self._commands[name]
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self._environment | own,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _keep(self):
        while not self._stopping:
            for name, process in self._processes.items():
                if process.poll() is not None and not self._stopping:
                    self.restarts[name] += 1
                    self._processes[name] = self._start(name)
            time.sleep(RESTART_SECONDS)

    def tree(self, name):
        """Return a process of the fleet and all below it, as `psutil` knows them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self._processes[name].pid)
            return [top, *top.children(recursive=True)]
        return []

    @property
    def names(self):
        """The names of the services."""
        return list(self._commands)

    def everything(self):
        """Return every process of the fleet with its name."""
        return [(name, one) for name in self._commands for one in self.tree(name)]

    def stop(self):
        """Ask all to end; return the names of those that did not end in order."""
        self._stopping = True
        self._keeper.join(5)
        bad = []
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        for name, process in self._processes.items():
            try:
                code = process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = None
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            if code != 0:
                bad.append(f"{name} ended with {code}")
        return bad

    def kill(self):
        """End at once what is still there."""
        self._stopping = True
        self._keeper.join(5)
        for process in self._processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
