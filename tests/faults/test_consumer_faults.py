"""The consumer may die at any moment, and its neighbours may go away and come back."""

import contextlib
import json
import os
import random
import time
import uuid
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import count

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from django.core.management import call_command
from django.db import connection, transaction

from scheduling.adapters.tcp_forwarder import TcpForwarder
from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, OutgoingRecord, ScheduledTransition
from scheduling.topics import (
    CHALLENGE_UPDATE,
    COMMAND,
    COMMAND_RESULT,
    CONSUMED_TOPICS,
    PHASE_TRANSITION,
    dead_letter_topic,
)
from tests.support.consumer import (
    ROOT,
    ConsumerProcess,
    Sender,
    Watcher,
    dead_letters,
    go_to_the_end,
    inbox_rows,
    original_bytes,
    original_place,
    wait_until,
)
from tests.support.crashing_consumer import EXIT_CODE
from tests.support.servers import KafkaNode

pytestmark = [pytest.mark.processes, pytest.mark.alone, pytest.mark.timeout(180)]
SCRIPT = ROOT / "tests" / "support" / "crashing_consumer.py"
# By hand more: CONSUMER_KILLS=50 CONSUMER_RECORDS=5000.
IS_REAL = bool(os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))
KILLS = int(os.environ.get("CONSUMER_KILLS", "8" if IS_REAL else "3"))
RECORDS = int(os.environ.get("CONSUMER_RECORDS", "400"))
# By hand 60: far longer than a record is suspected of being the cause.
LOCKED_SECONDS = float(os.environ.get("CONSUMER_LOCKED_SECONDS", "12"))
# A real cluster notices that a member was killed by its silence.
BACK_SECONDS = 60
# With a name in the group it need not be waited for that the one before is given up.
NAME = {"KAFKA_GROUP_INSTANCE_ID": "one"}
_numbers = count(int(time.time() * 1000) * 1000)


# The steps from a record's arrival to its offset, see `crashing_consumer`.
CRASH_POINTS = {
    "of an update": (
        "before-handling",
        "effect-before-inbox",
        "inbox-before-commit",
        "commit",
        "before-offset",
        "offset",
    ),
    "of an answer": (
        "command-before-answer",
        "answer-before-commit",
        "before-dead-letter",
        "dead-letter-before-commit",
        "dead-letter-commit",
    ),
    "of the sending": ("taken-before-sending", "sent-before-marking", "marked"),
}


class Traffic:
    """Records of every kind, and what must have become of each in the end."""

    def __init__(self):
        self.sender = Sender()
        self.watcher = Watcher([COMMAND_RESULT, *map(dead_letter_topic, CONSUMED_TOPICS)])
        self.kinds = {}
        self._makers = {
            "update": self._update,
            "command": self._command,
            "garbage": self._garbage,
        }

    def send(self, kinds):
        """Send a record of each kind; return their places."""
        made = [(kind, *self._makers[kind]()) for kind in kinds]
        places = self.sender.send_all(
            [(topic, value, key, {}) for _, topic, value, key, _ in made]
        )
        for place, (kind, _, value, _, about) in zip(places, made, strict=True):
            self.kinds[place] = (kind, about, value)
        return places

    def send_mix(self, number):
        """Send so many records, of which most are updates."""
        mix = ["update"] * 6 + ["command"] * 2 + ["garbage"] * 2
        return self.send([mix[at % len(mix)] for at in range(number)])

    def _update(self):
        project = next(_numbers)
        phases = [
            {"phaseId": phase, "phaseTypeName": "Review", "endTime": _ahead(hours=5)}
            for phase in (1, 2)
        ]
        payload = {
            "projectId": project,
            "challengeId": project,
            "status": "ACTIVE",
            "operator": "admin",
            "phases": phases,
        }
        return (
            CHALLENGE_UPDATE,
            _record(CHALLENGE_UPDATE, payload),
            str(project),
            str(project),
        )

    def _command(self):
        project = next(_numbers)
        payload = {
            "command": "schedule_phase_transition",
            "operator": "admin",
            "correlationId": f"c-{project}",
            "projectId": project,
            "phaseId": 1,
            "phaseTypeName": "Review",
            "state": "END",
            "endTime": _ahead(hours=5),
            "projectStatus": "ACTIVE",
        }
        return COMMAND, _record(COMMAND, payload), str(project), str(project)

    def _garbage(self):
        return PHASE_TRANSITION, b"\xff\x00 garbage " + os.urandom(9), None, None

    def places(self, kind):
        """Return where the records of a kind stand."""
        return {place for place, (one, _, _) in self.kinds.items() if one == kind}

    def handled(self):
        """Return how many have their inbox row."""
        return len(inbox_rows(set(self.kinds)))

    def wait_handled(self, *, seconds=BACK_SECONDS):
        """Wait until all are handled, and all that was owed for them is acknowledged."""

        def all_of_them():
            with contextlib.suppress(Exception):
                owed = OutgoingRecord.objects.filter(acknowledged_at=None)
                return self.handled() == len(self.kinds) and not owed.exists()
            connection.close()
            return False

        wait_until(all_of_them, seconds=seconds, what="the handling of all")

    def check(self):
        """Each effect is there once; each command is answered, each garbage set aside."""
        expected = Counter(
            {
                about: {"update": 2, "command": 1}[kind]
                for kind, about, _ in self.kinds.values()
                if about
            }
        )
        assert _made(expected) == expected
        live = ScheduledTransition.objects.live().filter(project_id__in=expected)
        assert Counter(live.values_list("project_id", flat=True)) == expected
        self._check_answers()
        self._check_dead_letters()
        output = StringIO()
        call_command("verify", "--json", stdout=output)
        assert json.loads(output.getvalue())["ok"] is True

    def _check_answers(self):
        """After de-duplication by event id each command has one answer."""
        wanted = {f"c-{self.kinds[place][1]}" for place in self.places("command")}
        answers = defaultdict(set)
        for found in self._read(COMMAND_RESULT, len(wanted)):
            if found.payload["correlationId"] in wanted:
                assert found.payload["success"] is True
                answers[found.payload["correlationId"]].add(found.headers["event-id"])
        assert answers.keys() == wanted
        assert {len(ids) for ids in answers.values()} <= {1}

    def _check_dead_letters(self):
        """The table has each garbage record once, its topic too, with its bytes."""
        wanted = self.places("garbage")
        letters = dead_letters(set(self.kinds))
        assert letters.keys() == wanted
        on_topic = defaultdict(set)
        for found in self._read(dead_letter_topic(PHASE_TRANSITION), len(wanted)):
            place = original_place(found)
            if place in wanted:
                assert original_bytes(found) == self.kinds[place][2]
                on_topic[place].add(found.headers["event-id"])
        assert on_topic.keys() == wanted
        assert {len(ids) for ids in on_topic.values()} <= {1}
        for place, letter in letters.items():
            assert bytes(letter.value) == self.kinds[place][2]

    def _read(self, topic, number):
        if not number:
            return []
        return self.watcher.wait_for(
            lambda one: one.topic == topic, number=number, what=f"{number} on {topic}"
        )


def _ahead(*, hours):
    return format_instant(datetime.now(UTC) + timedelta(hours=hours))


def _record(topic, payload):
    return json.dumps(
        {
            "topic": topic,
            "originator": "tests",
            "timestamp": format_instant(datetime.now(UTC)),
            "mimeType": "application/json",
            "payload": payload,
        }
    ).encode()


def _made(projects):
    """Return how many jobs were ever made of each project."""
    entries = AuditEntry.objects.filter(
        action="transition.scheduled", project_id__in=list(projects)
    )
    return Counter(entries.values_list("project_id", flat=True))


@pytest.fixture
def traffic(kafka):
    """Return what sends records of every kind, and checks what became of them."""
    traffic = Traffic()
    yield traffic
    traffic.watcher.close()


@pytest.fixture
def start(process_environment, kafka, tmp_path):
    """Return a starter of consumers of one group; what still runs at the end is killed."""
    group = f"test-{uuid.uuid4()}"
    go_to_the_end(group)
    logs = count(1)
    with contextlib.ExitStack() as stack:

        def begin(*, script=None, **environment):
            consumer = ConsumerProcess(
                {**process_environment, "KAFKA_CONSUMER_GROUP": group, **environment},
                tmp_path / f"consumer-{next(logs)}.log",
                script=script,
            )
            stack.callback(consumer.kill)
            return consumer

        yield begin


class TestKilledConsumer:
    @pytest.mark.long
    @pytest.mark.timeout(120 + 30 * KILLS)
    def test_has_each_effect_once_however_often_it_is_killed(self, start, traffic):
        for _ in range(KILLS):
            before = traffic.handled()
            traffic.send_mix(RECORDS // KILLS)
            consumer = start()
            wait_until(
                lambda: traffic.handled() > before,  # noqa: B023 -- called within the turn
                seconds=BACK_SECONDS,
                what="some progress",
            )
            time.sleep(random.uniform(0, 0.2))
            consumer.kill()

        start()

        traffic.wait_handled(seconds=BACK_SECONDS + RECORDS / 50)
        traffic.check()

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("points", CRASH_POINTS.values(), ids=CRASH_POINTS)
    def test_may_die_between_any_two_steps(self, points, start, traffic):
        """Each finds what the one before has left, and dies one step further on."""
        for point in points:
            traffic.send(["update", "command", "garbage"])
            consumer = start(script=SCRIPT, CRASH_AT=point, **NAME)
            assert consumer.process.wait(40) == EXIT_CODE, (point, consumer.log)

        start(**NAME)

        traffic.wait_handled()
        traffic.check()


class TestTwoConsumers:
    def test_share_the_work_and_one_takes_over_when_the_other_is_killed(
        self, start, traffic
    ):
        first, second = start(), start()
        for consumer in (first, second):
            consumer.wait_for_line("joining the group")
        traffic.send_mix(100)
        wait_until(lambda: traffic.handled() >= 20, seconds=40, what="a good start")

        first.kill()
        traffic.send_mix(100)

        traffic.wait_handled()
        traffic.check()
        assert second.stop() == 0

    def test_give_back_nothing_half_done_when_a_third_comes_and_one_leaves(
        self, start, traffic
    ):
        first = start()
        traffic.send_mix(150)
        wait_until(lambda: traffic.handled() >= 20, seconds=40, what="a good start")

        second = start()
        second.wait_for_line("joining the group")
        traffic.send_mix(150)
        assert first.stop() == 0

        traffic.wait_handled()
        traffic.check()
        assert second.stop() == 0


@pytest.mark.broker
@pytest.mark.skipif(not IS_REAL, reason="KAFKA_BOOTSTRAP_SERVERS is not set")
class TestNamedConsumer:
    def test_has_its_partitions_back_at_once_after_it_was_killed(self, start):
        first = start(**NAME)
        first.wait_for_line("partitions assigned")
        first.kill()

        second = start(**NAME)
        second.wait_for_line("partitions assigned")

        # A dead member without a name holds them for what is left of ten seconds.
        waited = _instant_of(second, "partitions assigned") - _instant_of(
            second, "joining the group"
        )
        assert waited < timedelta(seconds=4)
        assert second.stop() == 0

    def test_ends_with_the_cause_where_another_one_takes_its_name(self, start, traffic):
        first = start(**NAME)
        first.wait_for_line("partitions assigned")

        second = start(**NAME)

        assert first.process.wait(60) == 1
        assert "KAFKA_GROUP_INSTANCE_ID=one: another consumer has begun" in first.log
        traffic.send_mix(20)
        traffic.wait_handled()
        assert second.stop() == 0


def _instant_of(consumer, text):
    """Return when a consumer's log first says that."""
    (line, *_) = [one for one in consumer.log.splitlines() if text in one]
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC)


class TestKafkaDown:
    def test_for_some_seconds_loses_no_record_and_no_answer(
        self, start, traffic, embedded_kafka
    ):
        consumer = start()
        traffic.send_mix(200)
        wait_until(lambda: traffic.handled() >= 20, what="a good start")

        embedded_kafka.down()
        time.sleep(6)
        embedded_kafka.up()

        traffic.wait_handled(seconds=30)
        traffic.send_mix(20)
        traffic.wait_handled(seconds=20)
        traffic.check()
        assert consumer.stop() == 0

    def test_when_answers_are_acknowledged_but_nobody_hears_it_repeats_no_event(
        self, start, traffic, embedded_kafka
    ):
        consumer = start()
        traffic.send_mix(20)
        traffic.wait_handled()

        embedded_kafka.lose_replies()
        time.sleep(0.5)
        embedded_kafka.down()
        embedded_kafka.up()
        embedded_kafka.return_replies()
        traffic.send_mix(100)

        traffic.wait_handled()
        traffic.check()
        assert consumer.stop() == 0


class TestDatabaseDown:
    @pytest.fixture
    def way(self):
        """Return a way to the database that can be closed, and its address."""
        if connection.vendor != "postgresql":
            pytest.skip("a database without a server has no outage")
        port = int(connection.settings_dict["PORT"])
        with contextlib.closing(TcpForwarder(port=0, target_port=port)) as way:
            yield way

    def test_for_some_seconds_loses_nothing(self, way, traffic, start, process_environment):
        database = connection.settings_dict
        address = f"{database['HOST']}:{database['PORT']}"
        url = process_environment["DATABASE_URL"].replace(address, f"127.0.0.1:{way.port}")
        consumer = start(DATABASE_URL=url)
        traffic.send_mix(100)
        wait_until(lambda: traffic.handled() >= 20, seconds=40, what="a good start")

        way.down()
        traffic.send_mix(100)
        time.sleep(6)
        way.up()

        traffic.wait_handled(seconds=30)
        traffic.check()
        assert "Traceback" not in consumer.log
        assert consumer.stop() == 0


@pytest.mark.postgres
class TestLockedTable:
    def test_keeps_records_waiting_and_sets_none_aside(
        self, traffic, start, settings, transactional_db
    ):
        """A long migration is no fault of the records that come meanwhile."""
        if connection.vendor != "postgresql":
            pytest.skip("DATABASE_URL names no PostgreSQL")
        consumer = start()
        traffic.send_mix(10)
        traffic.wait_handled()

        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE scheduling_scheduledtransition")
            traffic.send_mix(20)
            cursor.execute("SELECT pg_sleep(%s)", [LOCKED_SECONDS])

        traffic.wait_handled()
        traffic.check()
        assert consumer.stop() == 0


def _create(node, topics, **config):
    """Create topics of one partition: a node of a test's own has none by itself."""
    admin = AdminClient({"bootstrap.servers": node.address})
    made = admin.create_topics([NewTopic(topic, 1, 1, config=config) for topic in topics])
    for future in made.values():
        future.result(20)


@pytest.mark.broker
@pytest.mark.timeout(240)
class TestOwnNode:
    @pytest.fixture
    def node(self, tmp_path):
        """Return a Kafka node of this test's own."""
        if not IS_REAL:
            pytest.skip("KAFKA_BOOTSTRAP_SERVERS is not set")
        node = KafkaNode(tmp_path / "kafka", [])
        yield node
        node.kill()

    @pytest.fixture
    def kafka(self, node, settings):
        """Let all clients of the test use that node."""
        settings.KAFKA_CLIENT = settings.KAFKA_CLIENT | {"bootstrap.servers": node.address}
        _create(
            node, [*CONSUMED_TOPICS, COMMAND_RESULT], **{"max.message.bytes": "8000000"}
        )
        return node.address

    @pytest.fixture
    def traffic(self, kafka):
        """Return a sender only: the dead letters' topics are not there yet."""
        return Sender()

    def test_whose_dead_letter_topics_are_missing_keeps_them_until_they_are_there(
        self, node, traffic, start
    ):
        start()
        garbage = [traffic.send(CHALLENGE_UPDATE, b"garbage %d" % n) for n in range(5)]
        wait_until(
            lambda: dead_letters(set(garbage)).keys() == set(garbage),
            seconds=40,
            what="the rows",
        )
        valid = traffic.send(*_update())
        wait_until(lambda: inbox_rows({valid}), what="the valid record")
        assert OutgoingRecord.objects.filter(acknowledged_at=None).count() == 5

        _create(node, [dead_letter_topic(topic) for topic in CONSUMED_TOPICS])
        # They may be there before somebody looks.
        reader = Watcher([dead_letter_topic(CHALLENGE_UPDATE)], from_beginning=True)

        found = reader.wait_for_all(5, seconds=70)
        assert {original_place(one) for one in found} == set(garbage)
        reader.close()

    def test_with_large_records_keeps_their_bytes_and_says_what_was_cut(
        self, node, traffic, start
    ):
        _create(node, [dead_letter_topic(topic) for topic in CONSUMED_TOPICS])
        reader = Watcher([dead_letter_topic(CHALLENGE_UPDATE)])
        consumer = start()
        values = [b"x" * size for size in (500_000, 900_000, 1_048_000, 3_000_000)]
        places = [traffic.send(CHALLENGE_UPDATE, value) for value in values]
        tombstone = traffic.send(CHALLENGE_UPDATE, None, key=b"k")
        valid = traffic.send(*_update(padding=1_000_000))

        wait_until(lambda: inbox_rows({valid}), seconds=40, what="the valid record")
        found = {original_place(one): one for one in reader.wait_for_all(5, seconds=40)}

        letters = dead_letters({*places, tombstone})
        assert [bytes(letters[place].value) for place in places] == values
        assert letters[tombstone].value is None
        assert found.keys() == {*places, tombstone}
        assert original_bytes(found[places[0]]) == values[0]
        assert "truncated" not in found[tombstone].payload
        for place in places[1:]:
            assert found[place].payload["originalMessage"] is None
            assert found[place].payload["truncated"] is True
        assert letters[places[3]].code == "payload_too_large"
        assert len(consumer.log) < 20_000


def _update(*, padding=0):
    """Return topic and value of a valid update, with a field nobody reads."""
    project = next(_numbers)
    payload = {
        "projectId": project,
        "challengeId": project,
        "status": "ACTIVE",
        "operator": "admin",
        "padding": "x" * padding,
        "phases": [{"phaseId": 1, "phaseTypeName": "R", "endTime": _ahead(hours=5)}],
    }
    return CHALLENGE_UPDATE, _record(CHALLENGE_UPDATE, payload)
