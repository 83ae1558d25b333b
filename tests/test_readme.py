"""The README keeps to the code."""

import csv
import json
import os
import re
import sqlite3
import subprocess
import sys
import uuid
from datetime import timedelta

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from autopilot_site.env import read
from autopilot_site.env_table import BEGIN, README, environment_table, with_table
from scheduling.adapters import event_publisher, lanes
from scheduling.adapters.event_publisher import process_publisher
from scheduling.conf import MessageSettings
from scheduling.domain.commands import CommandName, find_command
from scheduling.domain.phases import format_instant, parse_instant
from scheduling.domain.records import Record
from scheduling.models import (
    AuditEntry,
    DeadLetter,
    InboxMessage,
    OutgoingRecord,
    ScheduledTransition,
)
from scheduling.services import handle_command
from scheduling.services.incoming import handle_records
from scheduling.services.outgoing import send_outgoing
from scheduling.services.publish import publish_due
from scheduling.services.routes import ROUTES
from scheduling.services.schedule import schedule_transition
from scheduling.topics import COMMAND_RESULT, PHASE_TRANSITION
from tests.faults.conftest import Topic
from tests.support.web import web_process

INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T[\d:.]+Z")
PASSWORD = "a-secret-for-tests"  # noqa: S105 -- opens nothing


def blocks_of(section, *, language):
    """Return the code blocks of a section, as they are printed."""
    text = README.read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)


@pytest.fixture
def web(process_environment, settings, tmp_path):
    """Return the address of a web process, whose operator has PASSWORD."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    user = get_user_model().objects.create_user("operator", password=PASSWORD)
    user.groups.add(Group.objects.get(name="operator"))
    log_path = tmp_path / "web.log"
    with web_process(process_environment, log_path=log_path) as (_, port):
        yield f"http://127.0.0.1:{port}"


class TestReadme:
    def test_has_the_environment_as_the_settings_have_it(self):
        text = README.read_text(encoding="utf-8")

        assert with_table(text) == text, "run `make readme`"

    def test_names_the_two_commands_on_its_first_screen(self):
        first_screen = README.read_text(encoding="utf-8").splitlines()[:24]

        assert {"make run", "make test"} <= {line[:9].strip() for line in first_screen}

    def test_names_every_consumed_topic(self):
        text = README.read_text(encoding="utf-8")

        assert [name for name in ROUTES if f"`{name}`" not in text] == []

    def test_names_only_files_that_exist(self):
        text = README.read_text(encoding="utf-8")
        paths = re.findall(r"`((?:scheduling|recovery|autopilot_site)/[\w/.]+)`", text)

        assert [path for path in paths if not (README.parent / path).exists()] == []
        assert paths


class TestEnvironmentTable:
    def test_tells_name_default_range_and_meaning(self):
        rows = environment_table().splitlines()

        assert (
            "| `SCHEDULER_MAX_RETRIES` | `3` | 0 to 100 | Attempts after the first; only "
            "a refused record or a job timeout uses one up. Changes while running. |"
        ) in rows

    def test_names_the_file_form_of_a_secret(self):
        assert "| `SECRET_KEY`, `SECRET_KEY_FILE` | empty | text |" in environment_table()


class TestWithTable:
    def test_refuses_a_document_without_marks(self):
        with pytest.raises(ValueError, match="lacks"):
            with_table(f"text {BEGIN} more text")


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
class TestFirstMinute:
    def test_does_what_it_says_as_it_is_printed(self, web, tmp_path):
        script = "".join(blocks_of("A client's first minute", language="bash"))

        ran = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", script],
            env={**os.environ, "AUTOPILOT": web},
            input=f"{PASSWORD}\n",
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert ran.returncode == 0, ran.stderr
        decoder, answers, rest = json.JSONDecoder(), [], ran.stdout
        while rest:
            answer, end = decoder.raw_decode(rest)
            answers.append(answer)
            rest = rest[end:]
        listed, cancelled, fired, audited = answers
        first, moved, again = ScheduledTransition.objects.order_by("id")
        assert [job["jobId"] for job in listed["results"]] == [first.job_id]
        assert (moved.replaces, moved.status) == (first.job_id, "cancelled")
        assert cancelled["jobId"] == moved.job_id
        assert fired["jobId"] == again.job_id
        assert again.forced_at is not None
        actions = [record["action"] for record in audited["results"]]
        assert actions[0] == "transition.run_now"
        assert actions[-1] == "transition.scheduled"
        with (tmp_path / "audit.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["action"] for row in rows] == actions[::-1]
        assert len(rows) == AuditEntry.objects.filter(project_id="12345").count()


# On a topic of its own: it looks at the records next to each other.
@pytest.mark.first_start
@pytest.mark.django_db(transaction=True)
class TestWhatWePromise:
    @pytest.fixture
    def twice(self, kafka, operator, phase_data, now, monkeypatch):
        """Fire a job, put an equal record beside its own, and return both as consumed."""
        monkeypatch.setattr(event_publisher, "_publisher", None)
        monkeypatch.setattr(lanes, "board", lanes.LaneBoard(lanes=1))
        topic = Topic(kafka)
        schedule_transition(phase_data(), actor=operator, now=now)
        due = now - timedelta(seconds=1)
        ScheduledTransition.objects.update(due_at=due, event_at=due, ready_at=due)
        assert publish_due(not_before=0.0) == 1
        (first,) = topic.records()
        producer = Producer({"bootstrap.servers": kafka})
        producer.produce(
            PHASE_TRANSITION,
            key=first.key,
            value=first.value,
            headers=first.headers,
            partition=first.partition,
        )
        assert producer.flush(10) == 0
        reader = Consumer({"bootstrap.servers": kafka, "group.id": str(uuid.uuid4())})
        reader.assign([TopicPartition(PHASE_TRANSITION, first.partition, first.offset)])
        yield reader.consume(2, 10)
        reader.close()

    def test_shows_a_consumer_that_leaves_duplicates_out(self, twice):
        (text,) = blocks_of("What we promise", language="python")
        example, acted = {}, []
        exec(text, example)  # noqa: S102 -- it is the README's own
        database = sqlite3.connect(":memory:")
        database.execute("CREATE TABLE handled_event (id text PRIMARY KEY)")
        database.execute("CREATE TABLE phase (id integer, state text)")

        def fail(connection, payload):
            act(connection, payload)
            raise ConnectionError

        def act(connection, payload):
            acted.append(payload["phaseId"])
            values = (payload["phaseId"], payload["state"])
            connection.execute("INSERT INTO phase VALUES (?, ?)", values)

        with pytest.raises(ConnectionError):
            example["handle"](database, twice[0], fail)
        for message in twice:
            example["handle"](database, message, act)

        assert len(twice) == 2
        assert acted == [67890, 67890], "once in vain, and once for good"
        assert database.execute("SELECT * FROM phase").fetchall() == [(67890, "END")]
        database.close()

    def test_shows_one_of_ten_lines(self):
        (text,) = blocks_of("What we promise", language="python")

        assert len([line for line in text.splitlines() if line]) <= 10


@pytest.mark.django_db(transaction=True)
class TestRecordsIn:
    def test_has_an_example_of_each_command_that_is_carried_out(self, now):
        commands, answers = [], []
        # What is printed would be past by now.
        shift = now + timedelta(hours=1) - parse_instant("2026-03-07T17:00:00.000Z")

        def shifted(printed):
            return format_instant(parse_instant(printed[0]) + shift)

        for text in blocks_of("Records in", language="json"):
            block = json.loads(INSTANT.sub(shifted, text))
            (answers if "success" in block else commands).append(block)

        results = [handle_command(command) for command in commands]

        assert {find_command(command["command"]) for command in commands} == set(
            CommandName
        )
        assert [result["code"] for result in results] == [None] * len(CommandName)
        (answer,) = answers
        (same,) = [one for one in results if one["correlationId"]]
        assert answer.keys() == same.keys()
        assert {**same, "jobIds": answer["jobIds"]} == answer


@pytest.mark.django_db(transaction=True)
class TestHandlersAndPublishersOfYourOwn:
    SECTION = "Handlers and publishers of your own"

    @pytest.fixture
    def example(self, tmp_path, monkeypatch, settings):
        """Write an example to the path, as it is printed, and plug it in."""
        monkeypatch.syspath_prepend(str(tmp_path))
        python = blocks_of(self.SECTION, language="python")
        (shell,) = blocks_of(self.SECTION, language="sh")

        def plug_in(number, module, **variables):
            (tmp_path / f"{module}.py").write_text(python[number], encoding="utf-8")
            monkeypatch.delitem(sys.modules, module, raising=False)
            for name, value in variables.items():
                exported = re.search(rf"export {name}=(\S+)", shell)
                monkeypatch.setenv(name, exported[1] if exported else value)
            settings.MESSAGES = read(MessageSettings)

        return plug_in

    def test_show_a_handler_that_works_as_it_is_printed(self, example, now, phase_data):
        example(0, "reviews", AUTOPILOT_EVENT_HANDLERS="")
        values = [
            {
                "topic": "reviews.opened",
                "timestamp": format_instant(now),
                "payload": payload,
            }
            for payload in (
                {"kind": "review", "phase": phase_data()},
                {"kind": "picnic", "phase": phase_data()},
            )
        ]
        records = [
            Record(
                cluster_id="cluster",
                topic="reviews.opened",
                partition=0,
                offset=offset,
                value=json.dumps(value).encode(),
            )
            for offset, value in enumerate(values)
        ]

        handle_records(records, now=now)

        job = ScheduledTransition.objects.get()
        rows = InboxMessage.objects.order_by("offset")
        assert [(row.outcome, row.detail) for row in rows] == [
            ("handled", job.job_id),
            ("refused", "payload.kind: is no review"),
        ]
        assert DeadLetter.objects.get().errors == [
            {"field": "payload.kind", "message": "is no review"}
        ]

    def test_show_a_handler_of_ten_lines(self):
        handler = blocks_of(self.SECTION, language="python")[0]

        assert len([line for line in handler.splitlines() if line]) <= 10

    def test_show_a_publisher_that_works_as_it_is_printed(
        self, example, now, kafka, monkeypatch, caplog
    ):
        example(1, "telling", AUTOPILOT_EVENT_PUBLISHER="telling.TellingPublisher")
        monkeypatch.setattr(event_publisher, "_publisher", None)
        row = OutgoingRecord.objects.create(
            topic=COMMAND_RESULT, value=b'{"payload": {}}', created_at=now
        )

        with caplog.at_level("INFO"):
            send_outgoing(process_publisher(), now=now)

        assert f"{COMMAND_RESULT}: acknowledged" in caplog.messages
        assert OutgoingRecord.objects.get(pk=row.pk).acknowledged_at
