"""The embedded broker keeps what it takes, stays where it is, and breaks on request."""

import socket
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from scheduling.adapters.embedded_kafka import DISCONNECT, ApiKey, EmbeddedKafka
from scheduling.adapters.librdkafka import LibrdkafkaError

TOPIC = "events"
QUICK = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "retry.backoff.ms": 20,
    # One request that would take the only place in flight away from a record.
    "enable.metrics.push": False,
    "log_level": 0,
}


@pytest.fixture
def kafka() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(topics={TOPIC: 1}) as broker:
        yield broker


def producer(kafka: EmbeddedKafka, **settings: str | int | bool) -> Producer:
    return Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            # What a real broker notices by sequence numbers the embedded one can't.
            "max.in.flight.requests.per.connection": 1,
            "linger.ms": 0,
            **QUICK,
            **settings,
        }
    )


def send(client: Producer, *values: str, flush_seconds: float = 8) -> list[str | None]:
    """Produce in order; the name of each record's error, None where acknowledged."""
    outcomes: list[str | None] = []
    for value in values:
        client.produce(
            TOPIC,
            value,
            partition=0,
            on_delivery=lambda error, _: outcomes.append(error and error.name()),
        )
    client.flush(flush_seconds)
    return outcomes


def read(kafka: EmbeddedKafka, count: int, *, offset: int = 0) -> list[Message]:
    """Read `count` records of the partition, fewer where no more come in time."""
    client = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "reader",
            "fetch.wait.max.ms": 20,
            **QUICK,
        }
    )
    client.assign([TopicPartition(TOPIC, 0, offset)])
    messages: list[Message] = []
    deadline = time.monotonic() + 5
    while len(messages) < count and time.monotonic() < deadline:
        message = client.poll(0.1)
        if message is not None and message.error() is None:
            messages.append(message)
    client.close()
    return messages


def read_in_group(kafka: EmbeddedKafka) -> str:
    """Join the group, take and commit one record, leave."""
    client = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "g",
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
            **QUICK,
        }
    )
    client.subscribe([TOPIC])
    message = client.poll(5)
    assert message is not None
    client.commit(message, asynchronous=False)
    client.close()
    return values([message])[0]


def values(messages: list[Message]) -> list[str]:
    return [(message.value() or b"").decode() for message in messages]


def port_of(kafka: EmbeddedKafka) -> int:
    return int(kafka.bootstrap.rpartition(":")[2])


class TestEmbeddedKafka:
    def test_hands_out_a_record_as_it_came(self, kafka):
        client = producer(kafka)
        headers = [("event-id", b"e-1"), ("empty", None), ("event-id", b"e-2")]

        client.produce(TOPIC, b"\x00value", key="k", headers=headers, timestamp=1234)
        client.flush(5)

        (message,) = read(kafka, 1)
        assert message.value() == b"\x00value"
        assert message.key() == b"k"
        assert message.headers() == headers
        assert message.timestamp()[1] == 1234

    def test_resumes_a_group_behind_its_last_commit(self, kafka):
        send(producer(kafka), "one", "two")

        first = read_in_group(kafka)
        second = read_in_group(kafka)

        assert (first, second) == ("one", "two")

    def test_takes_the_port_it_is_given_and_tells_it_to_clients(self, kafka):
        port = port_of(kafka)
        kafka.close()

        with EmbeddedKafka(port=port) as again:
            metadata = AdminClient({"bootstrap.servers": again.bootstrap}).list_topics(
                timeout=5
            )

        assert again.bootstrap == f"127.0.0.1:{port}"
        assert [broker.port for broker in metadata.brokers.values()] == [port]

    def test_refuses_a_port_that_is_taken(self, kafka):
        with pytest.raises(OSError, match="in use"):
            EmbeddedKafka(port=port_of(kafka))

    def test_creates_topics_with_the_partitions_asked_for(self, kafka):
        kafka.create_topic("five", partitions=5)

        topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=5)

        assert {name: len(t.partitions) for name, t in topics.topics.items()} == {
            TOPIC: 1,
            "five": 5,
        }

    def test_refuses_a_topic_that_exists(self, kafka):
        with pytest.raises(LibrdkafkaError, match="TOPIC_ALREADY_EXISTS"):
            kafka.create_topic(TOPIC)

    def test_has_another_cluster_id_each_time(self):
        ids: set[str | None] = set()
        for _ in range(3):
            with EmbeddedKafka() as broker:
                client = AdminClient({"bootstrap.servers": broker.bootstrap})
                ids.add(client.list_topics(timeout=5).cluster_id)

        assert len(ids) == 3

    def test_does_nothing_after_its_end(self, kafka):
        kafka.close()
        kafka.close()

        with pytest.raises(LibrdkafkaError, match="closed"):
            kafka.set_rtt(1)


class TestDown:
    def test_refuses_connections_and_keeps_the_port(self, kafka):
        kafka.down()

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port_of(kafka)), timeout=1)

    def test_loses_no_record_before_or_during_an_outage(self, kafka):
        client = producer(kafka)
        before = send(client, "before")
        kafka.down()

        during = send(client, "during", flush_seconds=0.3)
        kafka.up()
        client.flush(8)

        assert before == during == [None]
        assert values(read(kafka, 2)) == ["before", "during"]

    def test_an_outage_beyond_the_clients_patience_is_reported(self, kafka):
        client = producer(kafka, **{"message.timeout.ms": 500})
        send(client, "before")
        kafka.down()

        assert send(client, "too long") == ["_MSG_TIMED_OUT"]

    def test_may_be_asked_for_twice(self, kafka):
        kafka.down()
        kafka.down()
        kafka.up()
        kafka.up()

        assert send(producer(kafka), "again") == [None]

    def test_a_dropped_connection_is_made_anew(self, kafka):
        client = producer(kafka)
        send(client, "one")

        kafka.drop_connections()

        assert send(client, "two") == [None]
        assert values(read(kafka, 2)) == ["one", "two"]


class TestStrayAnswers:
    def test_set_rtt_makes_every_answer_late(self, kafka):
        client = producer(kafka)
        send(client, "quick")
        kafka.set_rtt(400)

        started = time.monotonic()
        outcome = send(client, "slow")

        assert outcome == [None]
        assert time.monotonic() - started >= 0.4

    @pytest.mark.parametrize(
        "code",
        [
            KafkaError.NOT_LEADER_FOR_PARTITION,
            KafkaError.NOT_ENOUGH_REPLICAS,
            KafkaError.REQUEST_TIMED_OUT,
            DISCONNECT,
        ],
    )
    def test_push_errors_lets_requests_fail_without_effect(self, kafka, code):
        client = producer(kafka)
        send(client, "one")
        kafka.push_errors(ApiKey.PRODUCE, code, code)

        assert send(client, "two") == [None]
        assert values(read(kafka, 2)) == ["one", "two"]

    def test_push_errors_refuses_a_record_for_good(self, kafka):
        client = producer(kafka)
        kafka.push_errors(ApiKey.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)

        assert send(client, "refused") == ["MSG_SIZE_TOO_LARGE"]
        assert send(client, "taken") == [None]
        assert values(read(kafka, 1)) == ["taken"]

    def test_clear_errors_takes_back_what_was_not_met(self, kafka):
        kafka.push_errors(ApiKey.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
        kafka.clear_errors(ApiKey.PRODUCE)

        assert send(producer(kafka), "taken") == [None]

    def test_push_delays_writes_at_once_and_answers_late(self, kafka):
        client = producer(kafka)
        send(client, "one")
        kafka.push_delays(ApiKey.PRODUCE, 1500)

        outcome = send(client, "two", flush_seconds=0)
        seen_meanwhile = values(read(kafka, 2))
        unanswered = list(outcome)
        client.flush(8)

        assert seen_meanwhile == ["one", "two"]
        assert unanswered == []
        assert outcome == [None]

    def test_lose_replies_writes_but_never_answers(self, kafka):
        client = producer(kafka, **{"message.timeout.ms": 1000})
        send(client, "one")
        kafka.lose_replies()

        outcome = send(client, "two")
        kafka.return_replies()

        assert outcome == ["_MSG_TIMED_OUT"]
        assert values(read(kafka, 2)) == ["one", "two"]

    def test_set_topic_error_refuses_one_topic(self, kafka):
        kafka.create_topic("other", partitions=1)
        kafka.set_topic_error(TOPIC, KafkaError.TOPIC_AUTHORIZATION_FAILED)

        topics = (
            AdminClient({"bootstrap.servers": kafka.bootstrap, **QUICK})
            .list_topics(timeout=5)
            .topics
        )

        error = topics[TOPIC].error
        assert error is not None
        assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        assert topics["other"].error is None


class TestDeleteRecords:
    def test_forgets_what_stands_before_the_offset(self, kafka):
        send(producer(kafka), "one", "two", "three")

        kafka.delete_records(TOPIC, 0, before_offset=2)

        reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "g"})
        low, high = reader.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=5)
        reader.close()
        assert (low, high) == (2, 3)
        assert values(read(kafka, 1, offset=2)) == ["three"]
