"""What becomes of records that are handed to Kafka, beside what publishing tests."""

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from scheduling.adapters import event_publisher
from scheduling.adapters.embedded_kafka import ApiKey
from scheduling.adapters.event_publisher import (
    EventPublisher,
    OutgoingRecord,
    Verdict,
    process_publisher,
    publisher_class,
)
from scheduling.topics import COMMAND_RESULT, PHASE_TRANSITION


class OwnPublisher(EventPublisher):
    """What somebody may plug in."""


class NoPublisher:
    """Lacks nearly all."""

    def publish(self):
        """Do nothing."""


def a_record(value=b"small", *, topic=COMMAND_RESULT, key=b"k"):
    return OutgoingRecord(topic=topic, key=key, value=value, headers={}, timestamp_ms=0)


@pytest.fixture
def publish(kafka):
    """Return a publisher's `publish`; it may send records of 2,000 bytes."""
    client = {**django_settings.KAFKA_CLIENT, "message.max.bytes": 2_000}
    publisher = EventPublisher(client, message_timeout_ms=10_000)
    yield lambda *records: publisher.publish(
        records, deadline_seconds=15, while_waiting=lambda: True
    )
    publisher.close()


@pytest.fixture
def name(settings):
    """Return one who names the class in AUTOPILOT_EVENT_PUBLISHER."""

    def set_path(path):
        settings.MESSAGES = settings.MESSAGES.model_copy(update={"event_publisher": path})

    return set_path


class TestPublish:
    def test_tells_what_is_too_large_from_other_outcomes(self, publish):
        large, small = publish(a_record(b"x" * 3_000), a_record(key=b"other"))

        assert (large.verdict, large.is_too_large) == (Verdict.REFUSED, True)
        assert (small.verdict, small.is_too_large) == (Verdict.ACKNOWLEDGED, False)

    def test_holds_back_what_follows_a_refused_record_of_the_key_on_its_topic(
        self, publish
    ):
        outcomes = publish(
            a_record(b"x" * 3_000),
            a_record(),
            a_record(topic=PHASE_TRANSITION),
            a_record(key=b"other"),
            a_record(key=None),
        )

        assert [outcome.verdict for outcome in outcomes] == [
            Verdict.REFUSED,
            Verdict.NOT_SENT,
            Verdict.ACKNOWLEDGED,
            Verdict.ACKNOWLEDGED,
            Verdict.ACKNOWLEDGED,
        ]

    def test_may_be_of_records_larger_than_the_clients_default(self, kafka):
        publisher = EventPublisher(django_settings.KAFKA_CLIENT, message_timeout_ms=10_000)

        (outcome,) = publisher.publish(
            [a_record(b"x" * 1_040_000)], deadline_seconds=15, while_waiting=lambda: True
        )

        assert outcome.verdict is Verdict.ACKNOWLEDGED
        publisher.close()


class TestDeadline:
    @pytest.fixture
    def silent(self, embedded_kafka, monkeypatch):
        """Return a publisher to which librdkafka says nothing of lost brokers."""
        monkeypatch.setattr(EventPublisher, "_notice_error", lambda self, error: None)
        publisher = EventPublisher(django_settings.KAFKA_CLIENT, message_timeout_ms=20_000)
        assert self.send(publisher).verdict is Verdict.ACKNOWLEDGED
        yield publisher
        publisher.close()

    @staticmethod
    def send(publisher, *, seconds=10.0):
        (outcome,) = publisher.publish(
            [a_record()], deadline_seconds=seconds, while_waiting=lambda: True
        )
        return outcome

    def test_is_no_time_out_of_the_record_where_no_broker_is_there(
        self, silent, embedded_kafka
    ):
        embedded_kafka.down()

        assert self.send(silent, seconds=1.0).verdict is Verdict.UNKNOWN

    def test_is_one_where_a_broker_answers_others(self, silent, embedded_kafka):
        embedded_kafka.push_delays(ApiKey.PRODUCE, 4_000)

        assert self.send(silent, seconds=1.0).verdict is Verdict.TIMED_OUT


class TestReach:
    @pytest.fixture
    def publisher(self, embedded_kafka):
        publisher = EventPublisher(django_settings.KAFKA_CLIENT, message_timeout_ms=10_000)
        yield publisher
        publisher.close()

    def test_needs_a_broker_that_leads_a_partition(self, publisher, embedded_kafka):
        assert publisher.is_in_reach(timeout_seconds=5.0)

        embedded_kafka.set_leader(PHASE_TRANSITION, is_there=False)
        assert not publisher.is_in_reach(timeout_seconds=5.0)

        embedded_kafka.set_leader(PHASE_TRANSITION, is_there=True)
        assert publisher.is_in_reach(timeout_seconds=5.0)

    def test_needs_an_answer(self, publisher, embedded_kafka):
        embedded_kafka.down()

        assert not publisher.is_in_reach(timeout_seconds=0.5)


class TestPublisherClass:
    def test_is_ours_unless_told_otherwise(self):
        assert publisher_class() is EventPublisher

    def test_is_what_the_setting_names(self, name):
        name(f"{__name__}.OwnPublisher")

        assert publisher_class() is OwnPublisher

    @pytest.mark.parametrize(
        ("path", "says"),
        [
            ("no_such_module.Publisher", "No module named"),
            ("scheduling.topics.Nothing", "Nothing"),
            ("nodots", "nodots"),
            (f"{__name__}.a_record", "is no class"),
            (f"{__name__}.NoPublisher", "lacks warm_up, is_in_reach, close"),
        ],
    )
    def test_is_refused_where_it_is_none(self, name, path, says):
        name(path)

        with pytest.raises(ImproperlyConfigured) as caught:
            publisher_class()

        assert str(caught.value).startswith("AUTOPILOT_EVENT_PUBLISHER: ")
        assert says in str(caught.value)


class TestProcessPublisher:
    def test_is_one_for_the_process(self, name, monkeypatch):
        monkeypatch.setattr(event_publisher, "_publisher", None)
        name(f"{__name__}.OwnPublisher")

        first = process_publisher()

        assert type(first) is OwnPublisher
        assert process_publisher() is first
