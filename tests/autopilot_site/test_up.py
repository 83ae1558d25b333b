"""`manage.py up` as people start it: ready, at work, and gone without a trace."""

import contextlib
import json
import os
import re
import signal
import socket
import urllib.request

import psutil
import pytest
from django.conf import settings

from tests.support.up import READY_SECONDS, Up, embedded

STOP_SECONDS = 15
FIRST_FIRING_SECONDS = 15

pytestmark = [pytest.mark.processes, pytest.mark.timeout(150)]


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
        (consumer,) = [
            one
            for one in psutil.Process(up.process.pid).children(recursive=True)
            if "consume_events" in one.cmdline()[-1]
        ]
        name = consumer.environ()["KAFKA_GROUP_INSTANCE_ID"]

        up.process.terminate()

        assert name.endswith(f"-{up.port}")
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
