"""`manage.py up` as people start it: ready, at work, and gone without a trace."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from django.conf import settings

MANAGE = str(Path(settings.BASE_DIR) / "manage.py")
READY_SECONDS = 60
STOP_SECONDS = 15
FIRST_FIRING_SECONDS = 15

pytestmark = [pytest.mark.processes, pytest.mark.timeout(150)]


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


@pytest.fixture
def start():
    """Return a maker of starts, all of which end with the test."""
    with contextlib.ExitStack() as running:

        def make(*arguments, **more):
            up = Up(*arguments, **more)
            running.callback(up.end)
            return up

        yield make


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """Return one start of an empty database, ready, for all tests of the demo."""
    up = Up(embedded(tmp_path_factory.mktemp("demo")))
    try:
        up.wait_for("^ready ", seconds=READY_SECONDS)
        yield up
    finally:
        up.end()


@pytest.mark.first_start
class TestDemo:
    def test_tells_where_it_is_ready(self, up):
        assert up.matching("^ready") == [f"ready http://127.0.0.1:{up.port}"]

    def test_answers_requests(self, up):
        for path in ("livez", "api/docs/"):
            with urllib.request.urlopen(
                f"http://127.0.0.1:{up.port}/{path}", timeout=10
            ) as answer:
                assert answer.status == 200

    def test_prints_users_who_may_sign_in(self, up):
        users = [re.fullmatch(r"user (\S+) password (\S+)", x) for x in up.lines]
        secrets = {user[1]: user[2] for user in users if user}
        request = urllib.request.Request(
            f"http://127.0.0.1:{up.port}/api/v1/auth/token/",
            json.dumps({"username": "viewer", "password": secrets["viewer"]}).encode(),
            {"Content-Type": "application/json"},
        )

        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            tokens = json.load(answer)

        assert list(secrets) == ["viewer", "operator", "admin"]
        assert set(tokens) >= {"access", "refresh"}

    def test_fires_sample_transitions_and_tells_their_lateness(self, up):
        line = up.wait_for(r"lateness=", seconds=FIRST_FIRING_SECONDS)

        assert line.startswith("cluster ")
        assert re.search(r"lateness=-?\d+\.\d ms", line)


class TestUp:
    @pytest.mark.first_start
    def test_ends_all_on_one_sigint_to_the_group(self, start, tmp_path):
        up = start(embedded(tmp_path), "--no-demo")
        up.wait_for("^ready ", seconds=READY_SECONDS)

        os.killpg(up.process.pid, signal.SIGINT)
        code = up.wait(seconds=STOP_SECONDS)

        assert code == 0, up.lines
        assert up.survivors(seconds=0) == []
        assert up.matching("killed") == []
        assert up.matching("^user ") == []

    @pytest.mark.first_start
    def test_starts_again_whatever_dies_and_ends_on_sigterm(self, start, tmp_path):
        up = start(embedded(tmp_path), "--no-demo")
        up.wait_for("^ready ", seconds=READY_SECONDS)

        for words in ("gunicorn", "qcluster", "embedded_kafka", "consume_events"):
            up.child(words).kill()
        for name in ("web", "cluster", "kafka", "consumer"):
            up.wait_for(f"^up .*{name} ended .SIGKILL.", seconds=10)
        up.wait_for("ASGI server listening", seconds=30, times=2)
        up.wait_for("kafka .*bootstrap", seconds=30, times=2)
        up.process.terminate()
        code = up.wait(seconds=STOP_SECONDS)

        assert code == 0, up.lines
        assert up.survivors(seconds=0) == []

    @pytest.mark.first_start
    def test_leaves_no_orphan_when_it_is_killed(self, start, tmp_path):
        up = start(embedded(tmp_path), "--no-demo")
        up.wait_for("^ready ", seconds=READY_SECONDS)

        up.process.kill()
        up.wait(seconds=10)

        assert up.survivors(seconds=5) == []

    @pytest.mark.first_start
    def test_stops_in_the_middle_of_the_start(self, start, tmp_path):
        up = start(embedded(tmp_path), "--no-demo")
        up.wait_for("is migrated", seconds=READY_SECONDS)

        up.process.send_signal(signal.SIGINT)

        assert up.wait(seconds=STOP_SECONDS) == 0, up.lines
        assert up.survivors(seconds=0) == []

    def test_uses_the_database_and_the_brokers_of_the_environment(
        self, start, process_environment
    ):
        up = start({**process_environment, "DEBUG": "1"}, "--no-demo")
        up.wait_for("^ready ", seconds=READY_SECONDS)

        up.process.terminate()

        assert up.wait(seconds=STOP_SECONDS) == 0, up.lines
        assert up.matching("^kafka ") == []
        assert up.matching(f"database .*{settings.DATABASES['default']['NAME']}")

    @pytest.mark.parametrize("which", ["port", "kafka_port"])
    def test_is_refused_where_a_port_is_taken(self, start, tmp_path, which):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            up = start(embedded(tmp_path), **{which: port})
            code = up.wait(seconds=30)

        assert code == 1
        assert len(up.lines) == 1
        assert f"port {port} on 127.0.0.1" in up.lines[0]
        assert not list(tmp_path.iterdir())

    def test_is_refused_where_the_database_is_out_of_reach(self, start, tmp_path):
        environment = embedded(tmp_path / "nowhere")
        up = start(environment)
        code = up.wait(seconds=30)

        assert code == 1
        assert len(up.lines) == 1
        assert "nowhere/db.sqlite3 can't be used" in up.lines[0]
