"""`manage.py ensure_topics`: what it prints and how it exits."""

import functools
import io
import json
import socket

import pytest
from django.core.management import CommandError, call_command

from scheduling.adapters import topics_admin
from scheduling.adapters.embedded_kafka import EmbeddedKafka
from scheduling.management.commands import ensure_topics as command
from scheduling.topics import ALL_TOPICS


@pytest.fixture
def kafka(settings):
    with EmbeddedKafka(topics={ALL_TOPICS[0]: 1}) as broker:
        settings.KAFKA_CLIENT = {"bootstrap.servers": broker.bootstrap}
        yield broker


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command("ensure_topics", *arguments, stdout=output)
    return output.getvalue()


class TestEnsureTopicsCommand:
    def test_prints_a_line_for_each_topic(self, kafka):
        lines = run().splitlines()

        assert lines[:2] == [f"created   {ALL_TOPICS[1]}", f"created   {ALL_TOPICS[2]}"]
        assert lines[-1] == f"existing  {ALL_TOPICS[0]}"
        assert len(lines) == len(ALL_TOPICS)

    def test_prints_one_json_document(self, kafka):
        report = json.loads(run("--json"))

        assert report == {
            "created": list(ALL_TOPICS[1:]),
            "existing": [ALL_TOPICS[0]],
            "missing": [],
            "refusals": {},
        }

    def test_is_refused_where_topics_stay_missing(self, kafka, monkeypatch):
        monkeypatch.setattr(topics_admin._Cluster, "creates_on_demand", lambda *_: False)

        with pytest.raises(CommandError, match=ALL_TOPICS[1]) as refusal:
            run()

        assert refusal.value.returncode == 1

    def test_is_refused_where_no_broker_answers(self, settings, monkeypatch):
        impatient = functools.partial(topics_admin.ensure_topics, timeout_seconds=0.5)
        monkeypatch.setattr(command, "ensure_topics", impatient)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"
            settings.KAFKA_CLIENT = {"bootstrap.servers": address}

            with pytest.raises(CommandError, match=address) as refusal:
                run()

        assert refusal.value.returncode == 1

    @pytest.mark.parametrize(
        "arguments",
        [("--partitions", "0"), ("--replication-factor", "0"), ("--partitions", "x")],
    )
    def test_refuses_numbers_that_are_none(self, arguments):
        with pytest.raises(CommandError, match="no whole number above 0"):
            run(*arguments)
