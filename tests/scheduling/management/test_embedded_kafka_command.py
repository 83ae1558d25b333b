"""`manage.py embedded_kafka` as a process: ready line, faults, end."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from django.conf import settings

from scheduling.topics import ALL_TOPICS

MANAGE = [sys.executable, str(Path(settings.BASE_DIR) / "manage.py")]
END_SECONDS = 30


@contextmanager
def embedded_kafka(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*MANAGE, "embedded_kafka", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str], word: str) -> str:
    """The rest of the next line, which must begin with `word`."""
    line = process.stdout.readline().split()
    assert line[:1] == [word], process.stderr.read()
    return line[1]


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


@pytest.mark.processes
class TestEmbeddedKafkaCommand:
    def test_serves_the_products_topics_at_the_address_it_prints(self):
        with embedded_kafka("--port", "0") as process:
            bootstrap = told(process, "bootstrap")
            client = AdminClient({"bootstrap.servers": bootstrap})
            topics = client.list_topics(timeout=5).topics

        assert set(topics) == set(ALL_TOPICS)
        assert {len(topic.partitions) for topic in topics.values()} == {3}

    def test_serves_the_topics_of_handlers_of_ones_own(self, monkeypatch):
        monkeypatch.setenv(
            "AUTOPILOT_EVENT_HANDLERS", "billing=scheduling.messages.show_key"
        )
        with embedded_kafka("--port", "0") as process:
            client = AdminClient({"bootstrap.servers": told(process, "bootstrap")})
            topics = client.list_topics(timeout=5).topics

        assert set(topics) == {*ALL_TOPICS, "billing", "billing.dlq"}

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_well_when_asked_to(self, number):
        with embedded_kafka("--port", "0") as process:
            told(process, "bootstrap")

            process.send_signal(number)
            _, errors = process.communicate(timeout=END_SECONDS)

        assert (process.returncode, errors) == (0, "")

    def test_says_in_one_line_that_the_port_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            with embedded_kafka("--port", port) as process:
                output, errors = process.communicate(timeout=END_SECONDS)

        assert process.returncode == 1
        assert output == ""
        assert errors == (
            f"CommandError: port {port} on 127.0.0.1 is taken by another process\n"
        )

    def test_refuses_a_port_that_is_none(self):
        with embedded_kafka("--port", "65536") as process:
            _, errors = process.communicate(timeout=END_SECONDS)

        assert process.returncode == 2
        assert "65536" in errors

    def test_ends_with_its_parent_when_told_so(self):
        # A shell in between is the parent; it is killed, and cannot tell its child.
        command = [*MANAGE, "embedded_kafka", "--port", "0", "--exit-with-parent"]
        script = 'trap "" TERM; "$@" & wait'
        with subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as parent:
            told(parent, "bootstrap")

            parent.kill()
            # Both pipes end only when the last process that holds them has ended.
            rest, errors = parent.communicate(timeout=END_SECONDS)

        assert (rest, errors) == ("", "")

    def test_carries_out_faults_that_come_over_the_control_port(self):
        with embedded_kafka("--port", "0", "--control-port", "0") as process:
            control = told(process, "control")
            bootstrap = told(process, "bootstrap")
            answers = []
            with (
                socket.create_connection(("127.0.0.1", int(port_of(control)))) as line,
                line.makefile("rw") as talk,
            ):
                for request in (
                    {"do": "push_errors", "args": ["PRODUCE", 7, 7]},
                    {"do": "set_rtt", "args": [0]},
                    {"do": "down"},
                    {"do": "close"},
                ):
                    talk.write(json.dumps(request) + "\n")
                    talk.flush()
                    answers.append(json.loads(talk.readline())["ok"])
                hung_up = talk.readline()

            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(port_of(bootstrap))))

        assert answers == [True, True, True, False]
        assert hung_up == ""
