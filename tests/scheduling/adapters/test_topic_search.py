"""A search of the topic, where brokers have only just come back."""

import uuid
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from scheduling.adapters import topic_search
from scheduling.adapters.topic_search import find_events
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.topics import PHASE_TRANSITION


class SettlingBroker:
    """A consumer whose broker answers the first questions with an error."""

    def __init__(self, errors):
        self.errors = errors
        self.asked = 0

    def list_topics(self, topic, timeout):
        topics = {topic: SimpleNamespace(error=None, partitions={0: None})}
        return SimpleNamespace(topics=topics)

    def offsets_for_times(self, places, timeout):
        self.asked += 1
        if self.errors:
            raise KafkaException(KafkaError(self.errors.pop(0)))
        return [TopicPartition(PHASE_TRANSITION, 0, 0)]

    def get_watermark_offsets(self, place, timeout):
        return 0, 0

    def assign(self, places):
        pass

    def close(self):
        pass


@pytest.fixture
def settling(monkeypatch):
    """Return a maker of brokers that say such errors first."""
    monkeypatch.setattr(topic_search, "SETTLING_PAUSE_SECONDS", 0.0)

    def make(*errors):
        broker = SettlingBroker(list(errors))
        monkeypatch.setattr(topic_search, "Consumer", lambda config: broker)
        return broker

    return make


class TestSearch:
    def test_asks_again_while_leaders_are_found(self, settling, now):
        broker = settling(
            KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION
        )

        assert find_events({uuid.uuid4(): now}) == {}
        assert broker.asked == 3

    def test_gives_up_when_its_time_is_over(self, settling, now):
        broker = settling(*[KafkaError.UNKNOWN_LEADER_EPOCH] * 3)

        with pytest.raises(ServiceUnavailableError, match="can't be searched now"):
            find_events({uuid.uuid4(): now}, timeout_seconds=0)

        assert broker.asked == 1

    def test_asks_once_where_no_broker_answers(self, settling, now):
        broker = settling(KafkaError._TRANSPORT)

        with pytest.raises(ServiceUnavailableError, match="can't be searched now"):
            find_events({uuid.uuid4(): now})

        assert broker.asked == 1
