"""Answers and dead letters are sent until a broker has them, and not more often."""

import json
import os
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from django.conf import settings as django_settings

from scheduling.adapters.event_publisher import EventPublisher, Outcome, Verdict
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.models import DeadLetter, OutgoingRecord
from scheduling.services import outgoing
from scheduling.services.outgoing import forget_sent, send_left_over, send_outgoing
from scheduling.topics import COMMAND, COMMAND_RESULT, dead_letter_topic
from tests.support.consumer import Sender, Watcher, wait_until
from tests.support.publisher import ScriptedPublisher
from tests.support.threads import run_together

DLQ = dead_letter_topic(COMMAND)
TOO_LARGE = Outcome(verdict=Verdict.REFUSED, error="too large", is_too_large=True)


@pytest.fixture
def owe(now):
    """Return a maker of answers that are owed."""

    def make(value=b'{"payload": {}}', **fields):
        values = {"topic": COMMAND_RESULT, "key": b"1", "created_at": now}
        return OutgoingRecord.objects.create(value=value, **{**values, **fields})

    return make


@pytest.fixture
def owe_letter(now, owe):
    """Return a maker of dead letters that are owed."""

    def make(value=b"garbage", *, key=b"1", **fields):
        letter = DeadLetter.objects.create(
            cluster_id="cluster",
            topic=COMMAND,
            partition=0,
            offset=5,
            key=key,
            value=value,
            code="invalid_request",
            category="validation",
            message="the record: is not JSON",
            set_aside_at=now,
        )
        return owe(None, topic=DLQ, key=key, dead_letter=letter, **fields)

    return make


@pytest.fixture
def searches(monkeypatch):
    """Return the searches that are made, of which each finds what is put into `found`."""

    class Searches(list):
        found = ()
        error = None

        def __call__(self, wanted, *, topic, timeout_seconds):
            self.append((topic, set(wanted), timeout_seconds))
            if self.error:
                raise self.error
            return {event_id: None for event_id in wanted if event_id in self.found}

    made = Searches()
    monkeypatch.setattr(outgoing, "find_events", made)
    return made


@pytest.fixture
def publisher(kafka):
    """Return a publisher for the test's cluster."""
    made = EventPublisher(django_settings.KAFKA_CLIENT, message_timeout_ms=10_000)
    yield made
    made.close()


@pytest.fixture
def watcher(kafka):
    """Return a reader of what is sent from now on."""
    made = Watcher([COMMAND_RESULT, DLQ])
    yield made
    made.close()


def stored(row):
    return OutgoingRecord.objects.get(pk=row.pk)


def sent(watcher, *rows, seconds=1.0):
    """Return how often each of the rows stands on its topic, given some time to come."""
    ids = {str(row.event_id) for row in rows}
    deadline = time.monotonic() + seconds
    while True:
        found = Counter(one.headers.get("event-id") for one in watcher.read())
        mine = {event_id: found[event_id] for event_id in ids}
        if time.monotonic() > deadline:
            return sorted(mine.values())


@pytest.mark.django_db
class TestSendOutgoing:
    def test_puts_an_answer_on_its_topic_once(self, owe, publisher, watcher, now):
        row = owe(
            json.dumps({"payload": {"answer": 42}}).encode(),
            key=b"12345",
            headers={"correlation-id": "c-1", "content-type": "application/json"},
        )

        assert send_outgoing(publisher, now=now) == 1
        assert send_outgoing(publisher, now=now) == 0

        (found,) = watcher.wait_for(
            lambda one: one.headers["event-id"] == str(row.event_id)
        )
        assert (found.topic, found.key) == (COMMAND_RESULT, b"12345")
        assert found.payload == {"answer": 42}
        assert found.headers == {
            "event-id": str(row.event_id),
            "correlation-id": "c-1",
            "content-type": "application/json",
        }
        assert sent(watcher, row) == [1]
        row = stored(row)
        assert row.acknowledged_at >= now
        assert (row.attempts, row.lease_token, row.unproven_since) == (1, None, None)

    def test_makes_a_dead_letters_record_of_its_row(
        self, owe_letter, publisher, watcher, now
    ):
        row = owe_letter(b"\xff", headers={"correlation-id": ""})

        send_outgoing(publisher, now=now)

        (found,) = watcher.wait_for(
            lambda one: one.headers["event-id"] == str(row.event_id)
        )
        assert (found.topic, found.envelope["topic"]) == (DLQ, DLQ)
        assert found.payload["originalMessage"] == "/w=="
        assert "correlation-id" not in found.headers

    def test_asks_nobody_where_nothing_is_owed(self, owe, now):
        owe(acknowledged_at=now)
        publisher = ScriptedPublisher()

        assert send_outgoing(publisher, now=now) == 0
        assert publisher.batches == []

    def test_sends_in_the_order_of_writing(self, owe, owe_letter, now):
        rows = [owe(), owe_letter(), owe(), owe()]
        publisher = ScriptedPublisher()

        send_outgoing(publisher, now=now)

        assert [record.headers["event-id"] for record in publisher.records] == [
            str(row.event_id) for row in rows
        ]

    def test_sends_what_a_host_with_a_fast_clock_wrote(self, owe, now):
        row = owe(created_at=now + timedelta(hours=1))

        assert send_outgoing(ScriptedPublisher(), now=now) == 1
        assert stored(row).acknowledged_at

    def test_takes_no_more_at_once_than_it_can_hold(self, owe_letter, now, monkeypatch):
        monkeypatch.setattr(outgoing, "LARGEST_BATCH_BYTES", 1_000)
        rows = [owe_letter(b"x" * 300) for _ in range(3)] + [owe_letter(b"x" * 5_000)]
        publisher = ScriptedPublisher()

        taken = [send_outgoing(publisher, now=now) for _ in range(4)]

        assert taken == [1, 1, 1, 1]
        assert all(stored(row).acknowledged_at for row in rows)

    def test_reads_no_bytes_of_what_it_does_not_take(
        self, owe_letter, now, monkeypatch, django_assert_num_queries
    ):
        monkeypatch.setattr(outgoing, "LARGEST_BATCH_BYTES", 100)
        for _ in range(5):
            owe_letter(b"x" * 100)
        loaded = []
        from_db = DeadLetter.from_db.__func__

        def note(kind, *arguments):
            loaded.append(kind)
            return from_db(kind, *arguments)

        monkeypatch.setattr(DeadLetter, "from_db", classmethod(note))

        send_outgoing(ScriptedPublisher(), now=now)

        assert len(loaded) == 1

    def test_names_no_more_rows_in_a_batch_than_it_may(self, owe, now, monkeypatch):
        monkeypatch.setattr(outgoing, "LARGEST_BATCH", 2)
        for _ in range(3):
            owe()

        assert [send_outgoing(ScriptedPublisher(), now=now) for _ in range(3)] == [2, 1, 0]


@pytest.mark.django_db
class TestLeases:
    def test_keep_others_away(self, owe, now):
        owe()
        others = []

        def judge(_):
            others.append(send_outgoing(ScriptedPublisher(), now=now))
            return Verdict.ACKNOWLEDGED

        assert send_outgoing(ScriptedPublisher(judge), now=now) == 1
        assert others == [0]

    @pytest.mark.parametrize(("seconds", "taken"), [(-1, 1), (0, 1), (1, 0)])
    def test_of_the_dead_end_by_themselves(self, owe, now, searches, seconds, taken):
        owe(
            lease_token=uuid.uuid4(),
            lease_until=now + timedelta(seconds=seconds),
            unproven_since=now,
        )

        assert send_outgoing(ScriptedPublisher(), now=now) == taken

    def test_that_were_lost_leave_the_row_to_who_has_it(self, owe, now):
        row = owe()

        def judge(_):
            OutgoingRecord.objects.update(lease_token=uuid.uuid4())
            return Verdict.ACKNOWLEDGED

        send_outgoing(ScriptedPublisher(judge), now=now)

        assert stored(row).acknowledged_at is None

    def test_last_longer_than_all_that_is_done_under_them(self):
        longest = (
            outgoing.SEARCH_SECONDS + outgoing.DEADLINE_SECONDS + outgoing.ALONE_SECONDS
        )

        assert outgoing.LEASE.total_seconds() > longest


@pytest.mark.django_db
class TestWhatADeadSenderLeft:
    @pytest.fixture
    def left(self, now, owe):
        """Return a maker of rows that somebody was sending when he died."""

        def make(**fields):
            return owe(
                lease_token=uuid.uuid4(),
                lease_until=now - timedelta(seconds=1),
                unproven_since=now - timedelta(seconds=31),
                attempts=1,
                **fields,
            )

        return make

    def test_is_not_sent_again_where_it_stands_on_its_topic(
        self, left, publisher, watcher, now
    ):
        there, absent = left(), left()
        Sender().send(
            COMMAND_RESULT, b'{"payload": {}}', headers={"event-id": str(there.event_id)}
        )

        assert send_outgoing(publisher, now=now) == 2

        assert sent(watcher, there, absent) == [1, 1]
        assert stored(there).acknowledged_at
        assert stored(absent).acknowledged_at

    def test_is_searched_for_on_its_own_topic(self, left, searches, now, owe_letter):
        answer = left()
        letter = owe_letter(unproven_since=now)
        fresh = owe_letter()
        searches.found = {letter.event_id}
        publisher = ScriptedPublisher()

        send_outgoing(publisher, now=now)

        assert [(topic, ids) for topic, ids, _ in searches] == [
            (COMMAND_RESULT, {answer.event_id}),
            (DLQ, {letter.event_id}),
        ]
        assert {record.headers["event-id"] for record in publisher.records} == {
            str(answer.event_id),
            str(fresh.event_id),
        }
        assert stored(letter).acknowledged_at

    def test_waits_while_its_topic_can_not_be_searched(self, left, owe, searches, now):
        searches.error = ServiceUnavailableError("no broker")
        row, fresh = left(), owe()
        publisher = ScriptedPublisher()

        send_outgoing(publisher, now=now)

        assert len(publisher.records) == 1
        assert stored(fresh).acknowledged_at
        row = stored(row)
        assert (row.acknowledged_at, row.last_error) == (None, "no broker")
        assert row.unproven_since == now - timedelta(seconds=31)
        assert row.next_attempt_at > now
        assert row.lease_until is None

    def test_of_many_topics_is_not_searched_beyond_the_time(
        self, left, searches, now, monkeypatch
    ):
        monkeypatch.setattr(outgoing, "SEARCH_SECONDS", 0.1)
        left()

        send_outgoing(ScriptedPublisher(), now=now)

        assert searches == []
        assert "took the time" in OutgoingRecord.objects.get().last_error


@pytest.mark.django_db
class TestRefusedRecords:
    def test_of_a_topic_that_is_missing_wait_and_others_go_on(self, owe, owe_letter, now):
        letters = [owe_letter() for _ in range(3)]
        answer = owe()
        missing = Outcome(verdict=Verdict.UNKNOWN, error="unknown topic")
        publisher = ScriptedPublisher(
            lambda record: missing if record.topic == DLQ else Verdict.ACKNOWLEDGED
        )

        send_outgoing(publisher, now=now)

        assert stored(answer).acknowledged_at
        for letter in map(stored, letters):
            assert (letter.acknowledged_at, letter.last_error) == (None, "unknown topic")
            assert letter.next_attempt_at >= now + timedelta(seconds=1)
            assert letter.unproven_since == now

    def test_are_said_once_for_all_that_wait_alike(self, owe, owe_letter, now, caplog):
        for _ in range(20):
            owe_letter()
        publisher = ScriptedPublisher(lambda _: Verdict.UNKNOWN)

        send_outgoing(publisher, now=now)

        assert [one for one in caplog.messages if "wait" in one] == [
            f"20 records for {DLQ} wait: unknown"
        ]

    def test_do_not_stand_before_what_was_not_tried_yet(
        self, owe, owe_letter, now, monkeypatch, searches
    ):
        monkeypatch.setattr(outgoing, "LARGEST_BATCH", 2)
        for _ in range(2):
            owe_letter(attempts=3, next_attempt_at=now, unproven_since=now)
        answer = owe()

        send_outgoing(ScriptedPublisher(), now=now)

        assert stored(answer).acknowledged_at

    def test_take_turns(self, owe_letter, now, monkeypatch, searches):
        monkeypatch.setattr(outgoing, "LARGEST_BATCH", 1)
        young = owe_letter(next_attempt_at=now - timedelta(seconds=1))
        old = owe_letter(next_attempt_at=now - timedelta(seconds=2))

        send_outgoing(ScriptedPublisher(), now=now)

        assert stored(old).acknowledged_at
        assert not stored(young).acknowledged_at

    @pytest.mark.parametrize(
        ("verdict", "attempts", "least", "most"),
        [
            (Verdict.UNKNOWN, 0, 1, 2),
            (Verdict.NOT_SENT, 1, 2, 3),
            (Verdict.TIMED_OUT, 40, 5, 6),
            (Verdict.REFUSED, 0, 1, 2),
            (Verdict.REFUSED, 40, 60, 61),
        ],
    )
    def test_wait_longer_each_time(
        self, owe, now, verdict, attempts, least, most, searches
    ):
        row = owe(attempts=attempts)

        send_outgoing(ScriptedPublisher(lambda _: verdict), now=now)

        waited = (stored(row).next_attempt_at - now).total_seconds()
        assert least <= waited < most
        assert stored(row).attempts == attempts + 1

    @pytest.mark.parametrize(
        ("verdict", "is_unknown"),
        [
            (Verdict.UNKNOWN, True),
            (Verdict.TIMED_OUT, True),
            (Verdict.NOT_SENT, False),
            (Verdict.REFUSED, False),
        ],
    )
    def test_are_searched_for_next_time_only_where_they_may_be_there(
        self, owe, now, verdict, is_unknown
    ):
        row = owe()

        send_outgoing(ScriptedPublisher(lambda _: verdict), now=now)

        assert (stored(row).unproven_since == now) is is_unknown

    def test_go_out_without_their_bytes_where_they_are_too_large(self, owe_letter, now):
        row = owe_letter(b"x" * 3_000, key=b"k" * 2_000)
        publisher = ScriptedPublisher(
            lambda record: TOO_LARGE if len(record.value) > 3_000 else Verdict.ACKNOWLEDGED
        )

        for seconds in (0, 5):
            send_outgoing(publisher, now=now + timedelta(seconds=seconds))

        row = stored(row)
        assert (row.is_truncated, bool(row.acknowledged_at)) == (True, True)
        record = publisher.records[-1]
        payload = json.loads(record.value)["payload"]
        assert (payload["originalMessage"], payload["truncated"]) == (None, True)
        assert payload["error"]["code"] == "invalid_request"
        assert record.key is None
        assert bytes(DeadLetter.objects.get().value) == b"x" * 3_000

    def test_keep_their_bytes_where_their_size_is_not_the_reason(self, owe_letter, now):
        row = owe_letter()

        send_outgoing(ScriptedPublisher(lambda _: Verdict.REFUSED), now=now)

        assert not stored(row).is_truncated
        assert stored(row).last_error == "refused: refused"

    def test_are_sent_alone_where_the_batch_was_too_large(self, owe, owe_letter, now):
        rows = [owe_letter(), owe_letter(), owe_letter(b"x" * 3_000)]
        publisher = ScriptedPublisher()

        def judge(record):
            together = sum(len(one.value) for one in publisher.batches[-1])
            return TOO_LARGE if together > 2_000 else Verdict.ACKNOWLEDGED

        publisher._judge = judge

        send_outgoing(publisher, now=now)

        assert [len(batch) for batch in publisher.batches] == [3, 1, 1, 1]
        assert [bool(stored(row).acknowledged_at) for row in rows] == [True, True, False]
        assert [stored(row).is_truncated for row in rows] == [False, False, True]

    def test_are_tried_alone_later_where_there_is_no_time(
        self, owe_letter, now, monkeypatch
    ):
        monkeypatch.setattr(outgoing, "ALONE_SECONDS", 0)
        rows = [owe_letter(), owe_letter()]
        publisher = ScriptedPublisher(lambda _: TOO_LARGE)

        send_outgoing(publisher, now=now)

        assert len(publisher.batches) == 1
        assert not any(stored(row).is_truncated for row in rows)

    def test_that_are_answers_wait_even_if_too_large(self, owe, now):
        row = owe()

        send_outgoing(ScriptedPublisher(lambda _: TOO_LARGE), now=now)

        assert not stored(row).is_truncated
        assert stored(row).next_attempt_at > now


@pytest.mark.django_db
class TestOnACluster:
    def test_cuts_what_the_client_may_not_send(
        self, owe_letter, kafka, watcher, settings, now
    ):
        settings.KAFKA_CLIENT = {**settings.KAFKA_CLIENT, "message.max.bytes": 2_000}
        publisher = EventPublisher(settings.KAFKA_CLIENT, message_timeout_ms=10_000)
        large, small = owe_letter(b"x" * 2_000), owe_letter(key=b"2")

        for seconds in (0, 5):
            send_outgoing(publisher, now=now + timedelta(seconds=seconds))

        found = {
            one.headers["event-id"]: one.payload
            for one in watcher.wait_for(
                lambda one: (
                    one.headers["event-id"] in {str(large.event_id), str(small.event_id)}
                ),
                number=2,
            )
        }
        assert found[str(large.event_id)]["truncated"] is True
        assert found[str(large.event_id)]["originalMessage"] is None
        assert "truncated" not in found[str(small.event_id)]
        publisher.close()

    @pytest.mark.broker
    @pytest.mark.skipif(
        not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"),
        reason="KAFKA_BOOTSTRAP_SERVERS is not set",
    )
    def test_cuts_only_what_is_by_itself_larger_than_its_topic_takes(
        self, owe_letter, kafka, publisher, now
    ):
        topic = f"test-{uuid.uuid4()}"
        client = AdminClient(django_settings.KAFKA_CLIENT)
        limit = {"max.message.bytes": "5000"}
        (made,) = client.create_topics([NewTopic(topic, 1, 1, config=limit)]).values()
        made.result(10)
        small = [owe_letter(b"x" * 1_000) for _ in range(8)]
        large = owe_letter(b"x" * 5_000)
        OutgoingRecord.objects.update(topic=topic)
        try:
            for seconds in (0, 5):
                send_outgoing(publisher, now=now + timedelta(seconds=seconds))

            assert all(stored(row).acknowledged_at for row in [*small, large])
            assert [stored(row).is_truncated for row in [*small, large]] == [
                *[False] * 8,
                True,
            ]
        finally:
            client.delete_topics([topic])

    def test_lets_a_missing_topic_wait_and_sends_once_it_is_there(
        self, owe, owe_letter, embedded_kafka, publisher, watcher, now
    ):
        embedded_kafka.set_topic_error(DLQ, KafkaError.UNKNOWN_TOPIC_OR_PART)
        letter, answer = owe_letter(), owe()

        send_outgoing(publisher, now=now)

        assert stored(answer).acknowledged_at
        assert not stored(letter).acknowledged_at
        embedded_kafka.set_topic_error(DLQ, 0)

        def is_sent():
            send_outgoing(publisher, now=datetime.now(UTC) + timedelta(seconds=10))
            return stored(letter).acknowledged_at

        wait_until(is_sent, seconds=30, what="the dead letter's record")
        assert sent(watcher, letter, answer) == [1, 1]

    def test_keeps_what_is_owed_while_the_broker_is_away(
        self, owe, embedded_kafka, publisher, watcher, now
    ):
        first = owe()
        send_outgoing(publisher, now=now)
        embedded_kafka.down()
        row = owe()

        started = time.monotonic()
        send_outgoing(publisher, now=now)

        assert time.monotonic() - started < outgoing.LEASE.total_seconds()
        assert not stored(row).acknowledged_at
        embedded_kafka.up()

        def is_sent():
            send_outgoing(publisher, now=datetime.now(UTC) + timedelta(seconds=60))
            return stored(row).acknowledged_at

        wait_until(is_sent, seconds=40, what="the answer")
        assert sent(watcher, first, row) == [1, 1]


@pytest.mark.django_db(transaction=True)
class TestTwoSenders:
    def test_at_once_send_each_record_once(self, owe, publisher, watcher, now, monkeypatch):
        monkeypatch.setattr(outgoing, "LARGEST_BATCH", 7)
        rows = [owe(key=str(number).encode()) for number in range(60)]

        def work(_):
            taken = 0
            while batch := send_outgoing(publisher, now=datetime.now(UTC)):
                taken += batch
            return taken

        results = run_together(3, work)

        assert sum(results) == 60
        assert not OutgoingRecord.objects.filter(acknowledged_at=None).exists()
        assert sent(watcher, *rows) == [1] * 60


@pytest.mark.django_db
class TestSendLeftOver:
    def test_leaves_young_ones_to_their_consumers(self, owe, now):
        young = owe(created_at=now - timedelta(seconds=4))
        old = owe(created_at=now - timedelta(seconds=6))

        assert send_left_over(ScriptedPublisher(), now=now) == 1
        assert (stored(young).attempts, stored(old).attempts) == (0, 1)

    def test_sends_all_there_is(self, owe, now, monkeypatch):
        monkeypatch.setattr(outgoing, "LARGEST_BATCH", 2)
        for _ in range(5):
            owe(created_at=now - timedelta(minutes=1))

        assert send_left_over(ScriptedPublisher(), now=now) == 5

    def test_stops_when_its_time_is_over(self, owe, now, monkeypatch):
        monkeypatch.setattr(outgoing, "LARGEST_BATCH", 1)
        monkeypatch.setattr(outgoing, "LEFT_OVER_SECONDS", -1)
        for _ in range(3):
            owe(created_at=now - timedelta(minutes=1))

        assert send_left_over(ScriptedPublisher(), now=now) == 1


@pytest.mark.django_db
class TestForgetSent:
    def test_deletes_what_was_sent_long_ago_and_keeps_the_letters(
        self, owe, owe_letter, now, settings
    ):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"max_completed_job_age": 60_000}
        )
        owe(acknowledged_at=now - timedelta(seconds=61))
        owe_letter(acknowledged_at=now - timedelta(seconds=61))
        kept = [
            owe(acknowledged_at=now - timedelta(seconds=59)),
            owe(created_at=now - timedelta(days=9)),
        ]

        assert forget_sent(now=now) == 2

        assert set(OutgoingRecord.objects.all()) == set(kept)
        assert DeadLetter.objects.count() == 1
