"""`ensure_topics` leaves no topic out, or says which and why."""

import os
import socket
import time
import uuid

import pytest
from confluent_kafka.admin import AdminClient
from django.core.exceptions import ImproperlyConfigured

from scheduling.adapters.embedded_kafka import EmbeddedKafka
from scheduling.adapters.topics_admin import TopicsReport, _Cluster, ensure_topics
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.topics import ALL_TOPICS

REAL_KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")


def existing_topics(servers: str) -> dict[str, int]:
    """Partitions of each topic, by name."""
    topics = AdminClient({"bootstrap.servers": servers}).list_topics(timeout=5).topics
    return {name: len(topic.partitions) for name, topic in topics.items()}


class TestEnsureTopics:
    def test_makes_the_embedded_broker_create_what_is_missing(self):
        with EmbeddedKafka(topics=dict.fromkeys(ALL_TOPICS[:2], 1)) as kafka:
            report = ensure_topics({"bootstrap.servers": kafka.bootstrap}, partitions=3)
            topics = existing_topics(kafka.bootstrap)

        assert report == TopicsReport(created=ALL_TOPICS[2:], existing=ALL_TOPICS[:2])
        assert set(topics) == set(ALL_TOPICS)

    def test_changes_nothing_the_second_time(self):
        with EmbeddedKafka() as kafka:
            settings = {"bootstrap.servers": kafka.bootstrap}
            ensure_topics(settings, partitions=3)
            before = existing_topics(kafka.bootstrap)

            report = ensure_topics(settings, partitions=7)

            assert report == TopicsReport(existing=ALL_TOPICS)
            assert existing_topics(kafka.bootstrap) == before

    def test_covers_the_topics_of_handlers_of_ones_own(self, settings):
        settings.MESSAGES = settings.MESSAGES.model_copy(
            update={"event_handlers": {"billing.payment": "a.b"}}
        )
        with EmbeddedKafka() as kafka:
            report = ensure_topics({"bootstrap.servers": kafka.bootstrap}, partitions=3)

        assert report.created == (*ALL_TOPICS, "billing.payment", "billing.payment.dlq")

    def test_names_what_the_cluster_does_not_create(self, monkeypatch):
        # The embedded broker creates whatever it is asked about; this one does not.
        monkeypatch.setattr(_Cluster, "creates_on_demand", lambda *_: False)
        with EmbeddedKafka(topics={"here": 1}) as kafka:
            report = ensure_topics(
                {"bootstrap.servers": kafka.bootstrap},
                partitions=3,
                topics=["here", "absent"],
            )

        assert (report.created, report.existing) == ((), ("here",))
        assert report.missing == ("absent",)
        assert "not supported" in report.refusals["absent"]

    def test_says_in_time_that_no_broker_answers(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"
            started = time.monotonic()

            with pytest.raises(
                ServiceUnavailableError, match=f"{address}.*Connection refused"
            ):
                ensure_topics(
                    {"bootstrap.servers": address}, partitions=3, timeout_seconds=1
                )

        assert time.monotonic() - started < 4

    def test_tells_settings_that_librdkafka_refuses(self):
        with pytest.raises(ImproperlyConfigured, match="no such setting"):
            ensure_topics({"no such setting": "x"}, partitions=3)


@pytest.mark.broker
@pytest.mark.skipif(not REAL_KAFKA, reason="KAFKA_BOOTSTRAP_SERVERS is not set")
class TestEnsureTopicsOnARealCluster:
    def test_creates_what_is_missing_as_asked(self):
        names = [f"test.{uuid.uuid4()}" for _ in range(2)]
        settings = {"bootstrap.servers": REAL_KAFKA}
        first = ensure_topics(settings, partitions=2, topics=names[:1])

        second = ensure_topics(settings, partitions=5, topics=names)

        assert first == TopicsReport(created=(names[0],))
        assert second == TopicsReport(created=(names[1],), existing=(names[0],))
        assert [existing_topics(REAL_KAFKA)[name] for name in names] == [2, 5]

    def test_names_what_the_cluster_refuses_and_why(self):
        name = f"test.{uuid.uuid4()}"

        report = ensure_topics(
            {"bootstrap.servers": REAL_KAFKA},
            partitions=1,
            replication_factor=99,
            topics=[name],
        )

        assert report.missing == (name,)
        assert "eplication" in report.refusals[name]
