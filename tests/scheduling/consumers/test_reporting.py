"""What a consumer tells of itself."""

import os
import socket

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from django.db import DatabaseError, connection

from scheduling.adapters.owner import Owner
from scheduling.consumers import reporting
from scheduling.consumers.reporting import Report
from scheduling.models import ProcessState

pytestmark = pytest.mark.django_db(transaction=True)


class AssignedConsumer:
    """A consumer as `Report` sees it: positions, and ends as it last heard of them."""

    def __init__(self, *places, committed=()):
        self._places = places
        self._committed = dict(committed)
        self.asked = 0

    def assignment(self):
        return [TopicPartition(topic, number) for topic, number, _, _ in self._places]

    def position(self, partitions):
        assert len(partitions) == len(self._places)
        return [TopicPartition(topic, number, at) for topic, number, at, _ in self._places]

    def committed(self, partitions, *, timeout):
        assert timeout < 5
        self.asked += 1
        return [
            TopicPartition(
                one.topic,
                one.partition,
                self._committed.get((one.topic, one.partition), -1001),
            )
            for one in partitions
        ]

    def get_watermark_offsets(self, place, *, cached):
        assert cached
        ends = {(topic, number): end for topic, number, _, end in self._places}
        return 0, ends[place.topic, place.partition]


@pytest.fixture
def often(monkeypatch):
    """Let reports be written as often as they are asked for."""
    monkeypatch.setattr(reporting, "EVERY_SECONDS", 0)


def figures():
    return ProcessState.objects.get().figures


class TestReport:
    def test_names_the_process_and_what_it_has_done(self):
        Report().write(AssignedConsumer(), handled=7)

        state = ProcessState.objects.get()
        assert (state.kind, state.host, state.pid) == (
            "consumer",
            socket.gethostname(),
            os.getpid(),
        )
        assert state.started_at <= state.seen_at
        assert state.figures == {
            "handled": 7,
            "isPaused": False,
            "pausedSince": None,
            "pauseReason": "",
            "lag": {},
            "owner": str(Owner.of_process(os.getpid())),
        }

    @pytest.mark.usefixtures("often")
    def test_keeps_one_row_for_each_process(self):
        report = Report()

        for handled in range(3):
            report.write(AssignedConsumer(), handled=handled)

        assert figures()["handled"] == 2

    def test_is_not_written_at_each_turn(self, django_assert_num_queries):
        report = Report()
        report.write(AssignedConsumer(), handled=1)

        with django_assert_num_queries(0):
            report.write(AssignedConsumer(), handled=2)

    def test_tells_how_far_behind_each_partition_is(self):
        consumer = AssignedConsumer(
            ("a", 0, 5, 8),
            ("a", 1, 8, 8),
            ("b", 0, -1001, 4),
            ("b", 1, 9, 8),
            ("c", 0, 3, -1),
        )

        Report().write(consumer, handled=0)

        assert figures()["lag"] == {"a[0]": 3, "a[1]": 0, "b[0]": 4, "b[1]": 0}

    @pytest.mark.usefixtures("often")
    def test_counts_from_the_group_s_place_where_it_has_read_nothing(self):
        places = [("a", 0, -1001, 560), ("a", 1, -1001, 510), ("a", 2, 7, 8)]
        consumer = AssignedConsumer(*places, committed={("a", 0): 560, ("a", 1): 500})
        report = Report()

        report.write(consumer, handled=0)
        report.write(consumer, handled=0)

        assert figures()["lag"] == {"a[0]": 0, "a[1]": 10, "a[2]": 1}
        assert consumer.asked == 1

        fewer = AssignedConsumer(*places[1:], committed={("a", 1): 510})
        report.write(fewer, handled=0)
        assert figures()["lag"] == {"a[1]": 0, "a[2]": 1}

    @pytest.mark.usefixtures("often")
    def test_asks_for_the_group_s_place_again_where_the_same_partitions_come_back(self):
        report = Report()
        report.write(
            AssignedConsumer(("a", 0, -1001, 11), committed={("a", 0): 0}), handled=0
        )
        report.write(AssignedConsumer(("a", 0, 11, 11)), handled=11)

        report.begin_assignment()
        report.write(
            AssignedConsumer(("a", 0, -1001, 11), committed={("a", 0): 11}), handled=11
        )

        assert figures()["lag"] == {"a[0]": 0}

    def test_tells_no_lag_that_it_does_not_know(self):
        class Lost(AssignedConsumer):
            def position(self, partitions):
                raise KafkaException(KafkaError(KafkaError._STATE))

        Report().write(Lost(("a", 0, 1, 2)), handled=0)

        assert figures()["lag"] == {}

    @pytest.mark.usefixtures("often")
    def test_tells_since_when_and_why_it_waits(self):
        report = Report()
        report.pause("no database")
        report.write(AssignedConsumer(), handled=0)
        first = figures()
        report.pause("no broker")
        report.write(AssignedConsumer(), handled=0)
        second = figures()

        report.resume()
        report.write(AssignedConsumer(), handled=0)

        assert (first["isPaused"], first["pauseReason"]) == (True, "no database")
        assert second["pausedSince"] == first["pausedSince"] is not None
        assert second["pauseReason"] == "no broker"
        assert (figures()["isPaused"], figures()["pausedSince"]) == (False, None)

    def test_is_taken_away_at_the_end(self):
        report = Report()
        report.write(AssignedConsumer(), handled=0)

        report.remove()

        assert not ProcessState.objects.exists()


@pytest.mark.usefixtures("often")
class TestReportWithoutDatabase:
    def test_stops_nobody(self, monkeypatch):
        def fail(**_):
            raise DatabaseError("gone")

        monkeypatch.setattr(ProcessState.objects, "update_or_create", fail)
        monkeypatch.setattr(ProcessState.objects, "filter", fail)
        report = Report()

        report.write(AssignedConsumer(), handled=0)
        report.remove()

    def test_goes_on_when_the_database_is_back(self):
        report = Report()
        report.write(AssignedConsumer(), handled=1)
        # As a server that restarts does it: the connection is of no use from now on.
        connection.connection.close()

        for handled in (2, 3):
            report.write(AssignedConsumer(), handled=handled)

        assert figures()["handled"] == 3
