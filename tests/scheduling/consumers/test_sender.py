"""The thread that sends what the handlers owe."""

import logging
import time

import pytest
from django.db import OperationalError, connections

from scheduling.adapters import event_publisher
from scheduling.adapters.event_publisher import EventPublisher, Verdict
from scheduling.consumers import sender as module
from scheduling.consumers.sender import Sender
from scheduling.models import OutgoingRecord
from scheduling.topics import COMMAND_RESULT
from tests.support.consumer import Watcher, wait_until
from tests.support.publisher import ScriptedPublisher

# Its thread has a database connection of its own.
pytestmark = pytest.mark.django_db(transaction=True)


class CountingPublisher(EventPublisher):
    """What somebody may plug in: it counts, and leaves the rest to ours."""

    sent = 0

    def publish(self, records, *, deadline_seconds, while_waiting):
        """Publish as ours does, and count."""
        type(self).sent += len(records)
        return super().publish(
            records, deadline_seconds=deadline_seconds, while_waiting=while_waiting
        )


@pytest.fixture
def owe(now):
    """Return a maker of answers that are owed."""

    def make():
        return OutgoingRecord.objects.create(
            topic=COMMAND_RESULT, value=b'{"payload": {}}', created_at=now
        )

    return make


@pytest.fixture
def publish_by(monkeypatch):
    """Return one who makes a publisher the process's one."""
    return lambda publisher: monkeypatch.setattr(event_publisher, "_publisher", publisher)


@pytest.fixture
def start():
    """Return a starter of senders, each stopped at the end."""
    senders = []

    def begin():
        sender = Sender()
        senders.append(sender)
        sender.start()
        return sender

    yield begin
    for sender in senders:
        sender.stop()


def is_sent(row):
    return OutgoingRecord.objects.filter(pk=row.pk).exclude(acknowledged_at=None).exists()


class TestSender:
    def test_sends_at_once_when_woken(self, owe, publish_by, start, monkeypatch):
        monkeypatch.setattr(module, "LOOK_EVERY_SECONDS", 60)
        publish_by(ScriptedPublisher())
        sender = start()
        time.sleep(0.1)
        row = owe()
        time.sleep(0.2)
        assert not is_sent(row)

        sender.wake()

        wait_until(lambda: is_sent(row), seconds=5, what="the answer")

    def test_finds_by_itself_what_others_left(self, owe, publish_by, start):
        publish_by(ScriptedPublisher())
        row = owe()

        start()

        wait_until(lambda: is_sent(row), seconds=5, what="the answer")

    def test_sends_until_nothing_is_left(self, owe, publish_by, start, monkeypatch):
        monkeypatch.setattr("scheduling.services.outgoing.LARGEST_BATCH", 2)
        publisher = ScriptedPublisher()
        publish_by(publisher)
        rows = [owe() for _ in range(5)]

        start().wake()

        wait_until(lambda: all(map(is_sent, rows)), seconds=5, what="the answers")
        assert len(publisher.records) == 5

    def test_puts_records_on_kafka_by_what_is_plugged_in(
        self, owe, kafka, settings, publish_by, start, monkeypatch
    ):
        monkeypatch.setattr(CountingPublisher, "sent", 0)
        publish_by(None)
        settings.MESSAGES = settings.MESSAGES.model_copy(
            update={"event_publisher": f"{__name__}.CountingPublisher"}
        )
        watcher = Watcher([COMMAND_RESULT])
        row = owe()

        start().wake()

        watcher.wait_for(lambda one: one.headers["event-id"] == str(row.event_id))
        wait_until(lambda: is_sent(row), seconds=5, what="the note")
        assert CountingPublisher.sent == 1
        watcher.close()


class TestSenderWithoutNeighbours:
    def test_asks_for_a_broker_before_it_takes_anything_up(self, owe, publish_by, start):
        publisher = ScriptedPublisher()
        publisher.seems_out_of_reach = True
        publish_by(publisher)
        row = owe()
        sender = start()
        sender.wake()
        time.sleep(0.5)
        assert publisher.batches == []
        assert OutgoingRecord.objects.get().attempts == 0

        publisher.is_back = True
        sender.wake()

        wait_until(lambda: is_sent(row), seconds=5, what="the answer")

    def test_goes_on_when_the_database_is_back_and_says_so_once(
        self, owe, publish_by, start, monkeypatch, caplog
    ):
        monkeypatch.setattr(module, "AFTER_ERROR_SECONDS", 0.05)
        publish_by(ScriptedPublisher())
        is_down = [True]
        real = module.send_outgoing

        def send_outgoing(*arguments, **options):
            if is_down[0]:
                raise OperationalError("the server is gone\n")
            return real(*arguments, **options)

        monkeypatch.setattr(module, "send_outgoing", send_outgoing)
        row = owe()
        sender = start()
        for _ in range(5):
            sender.wake()
            time.sleep(0.1)

        is_down[0] = False
        sender.wake()

        wait_until(lambda: is_sent(row), seconds=5, what="the answer")
        waits = [line for line in caplog.messages if "wait for the database" in line]
        assert waits == ["answers wait for the database: the server is gone"]

    def test_survives_what_nobody_foresaw_and_quotes_nothing(
        self, owe, publish_by, start, monkeypatch, caplog
    ):
        monkeypatch.setattr(module, "AFTER_ERROR_SECONDS", 0.05)
        word = "hunter2"

        def judge(_):
            if len(publisher.batches) == 1:
                raise RuntimeError(f"the record said {word}")
            return Verdict.ACKNOWLEDGED

        publisher = ScriptedPublisher(judge)
        publish_by(publisher)
        row = owe()
        monkeypatch.setattr("scheduling.services.outgoing.find_events", lambda *_, **__: {})

        with caplog.at_level(logging.ERROR, "autopilot.outgoing"):
            sender = start()
            wait_until(lambda: caplog.messages, seconds=5, what="the line")
        # Its lease would end by itself, half a minute later.
        OutgoingRecord.objects.update(lease_until=None)
        sender.wake()

        wait_until(lambda: is_sent(row), seconds=5, what="the answer")
        assert "RuntimeError" in caplog.text
        assert f"said {word}" not in caplog.text


class TestStop:
    def test_lets_it_send_what_is_there(self, owe, publish_by, monkeypatch):
        monkeypatch.setattr(module, "LOOK_EVERY_SECONDS", 60)
        publish_by(ScriptedPublisher())
        sender = Sender()
        sender.start()
        time.sleep(0.1)
        row = owe()

        sender.stop()

        assert is_sent(row)
        assert not sender.is_alive()

    @pytest.mark.timeout(20)
    def test_does_not_wait_for_a_broker_that_does_not_answer(
        self, owe, publish_by, monkeypatch
    ):
        monkeypatch.setattr(module, "GRACE_SECONDS", 0.5)
        row = owe()

        class Silent(ScriptedPublisher):
            def publish(self, records, *, deadline_seconds, while_waiting):
                while while_waiting():
                    time.sleep(0.05)
                return super().publish(
                    records, deadline_seconds=deadline_seconds, while_waiting=while_waiting
                )

        publish_by(Silent(lambda _: Verdict.UNKNOWN))
        sender = Sender()
        sender.start()
        time.sleep(0.2)
        started = time.monotonic()

        sender.stop()

        assert time.monotonic() - started < 2
        assert not sender.is_alive()
        left = OutgoingRecord.objects.get(pk=row.pk)
        assert (left.acknowledged_at, left.lease_until) == (None, None)
        assert left.unproven_since is not None

    def test_leaves_no_connection_behind(self, publish_by, monkeypatch):
        publish_by(ScriptedPublisher())
        closed = []
        kind = type(connections["default"])
        real = kind.close

        def close(wrapper):
            closed.append(wrapper)
            real(wrapper)

        monkeypatch.setattr(kind, "close", close)
        sender = Sender()
        sender.start()
        time.sleep(0.1)

        sender.stop()

        assert closed
