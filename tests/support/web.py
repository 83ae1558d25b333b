"""The web process, as the Procfile starts it, on a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

START_SECONDS = 30
STOP_SECONDS = 15


@contextmanager
def web_process(environment, *, log_path):
    """Run a web process; give it and its port. It has to stop at one SIGTERM."""
    port = _free_port()
    environment = {**environment, "PORT": str(port)}
    environment.pop("DEBUG", None)
    with log_path.open("w+") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "-k", "asgi", "--no-control-socket"),
                *("--bind", f"127.0.0.1:{port}", "autopilot_site.asgi:application"),
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_it_answers(port, process, log)
            yield process, port
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_SECONDS) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_it_answers(port, process, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.seek(0) or log.read()
            time.sleep(0.1)
    raise AssertionError(log.seek(0) or log.read())
