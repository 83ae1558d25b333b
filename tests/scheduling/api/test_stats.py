"""GET stats/: the figures, and that they don't cost more with more rows."""

import uuid
from datetime import timedelta

import pytest
from django.db import connection

from scheduling.domain.phases import format_instant
from scheduling.models import DeadLetter, OutgoingRecord, ProcessState, ScheduledTransition
from tests.scheduling.api.support import assert_problem, queries_of
from tests.support.histories import (
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    RUNNING,
    make_job,
)

STATS = "/api/v1/stats/"


@pytest.fixture
def stats(as_viewer):
    """Return a reader of the figures."""

    def read():
        response = as_viewer.get(STATS)
        assert response.status_code == 200, response.content
        return response.json()

    return read


@pytest.fixture
def add_process(db, now):
    """Return a maker of processes that were seen some seconds ago."""

    def make(*, kind="consumer", pid=1, seen=1, **figures):
        return ProcessState.objects.create(
            kind=kind,
            host="here",
            pid=pid,
            started_at=now - timedelta(days=1),
            seen_at=now - timedelta(seconds=seen),
            figures=figures,
        )

    return make


@pytest.fixture
def add_letter(db, now):
    """Return a maker of dead letters."""

    def make(status="new"):
        return DeadLetter.objects.create(
            cluster_id="c",
            topic="autopilot.command",
            partition=0,
            offset=1,
            code="invalid_request",
            category="validation",
            message="is no JSON",
            set_aside_at=now,
            status=status,
        )

    return make


class TestScheduler:
    def test_an_empty_system_has_nothing_to_tell(self, stats):
        scheduler = stats()["scheduler"]

        counts = {name: value for name, value in scheduler.items() if name.endswith("Jobs")}
        assert set(counts.values()) == {0}
        assert scheduler["oldestOverdueSeconds"] == 0
        assert scheduler["averageExecutionTimeMs"] is None
        assert scheduler["latenessMs"] == {"p50": None, "p99": None, "max": None}
        assert scheduler["lastClaimAt"] is None
        assert scheduler["processes"] == []

    def test_counts_jobs_by_status(self, stats, now):
        for number, history in enumerate([RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED]):
            for _ in range(number + 1):
                make_job(history, now=now)
        for _ in range(6):
            make_job(now=now)

        scheduler = stats()["scheduler"]

        assert scheduler["activeJobs"] == 7
        assert scheduler["runningJobs"] == 1
        assert scheduler["completedJobs"] == 2
        assert scheduler["failedJobs"] == 3
        assert scheduler["cancelledJobs"] == 4
        assert scheduler["expiredJobs"] == 5

    def test_overdue_are_the_live_ones_whose_instant_passed(self, stats, now):
        make_job(now=now, due_in=-100)
        make_job(RUNNING, now=now, due_in=-20)
        make_job(COMPLETED, now=now, due_in=-500)
        make_job(now=now, due_in=100)

        scheduler = stats()["scheduler"]

        assert scheduler["overdueJobs"] == 2
        assert 100 <= scheduler["oldestOverdueSeconds"] < 160

    def test_lateness_is_told_of_what_fired_by_itself(self, stats, now):
        for lateness in range(1, 101):
            make_job(COMPLETED, now=now, lateness_ms=float(lateness))
        make_job(COMPLETED, now=now, lateness_ms=9e6, forced_at=now)

        assert stats()["scheduler"]["latenessMs"] == {"p50": 50, "p99": 99, "max": 100}

    def test_execution_time_is_from_claim_to_acknowledgement(self, stats, now):
        for milliseconds in (10, 30):
            end = now + timedelta(milliseconds=milliseconds)
            make_job(COMPLETED, now=now, completed_at=end)
        make_job(COMPLETED, now=now, started_at=None)

        assert stats()["scheduler"]["averageExecutionTimeMs"] == pytest.approx(20)

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED])
    def test_the_last_claim_is_that_of_any_job(self, stats, now, history):
        make_job(COMPLETED, now=now, started_at=now - timedelta(minutes=2))
        make_job(history, now=now, started_at=now - timedelta(minutes=1))

        last = stats()["scheduler"]["lastClaimAt"]

        assert last == format_instant(now - timedelta(minutes=1))

    def test_a_claim_that_was_given_back_counts(self, stats, now):
        job = make_job(now=now, due_in=-60)
        ScheduledTransition.objects.filter(pk=job.pk).update(
            started_at=now, ready_at=now + timedelta(seconds=5)
        )

        assert stats()["scheduler"]["lastClaimAt"] == format_instant(now)

    def test_processes_of_the_last_hour_are_named(self, stats, add_process, now):
        add_process(kind="cluster", pid=7, seen=90, restarts=2)
        add_process(kind="cluster", pid=8, seen=4000)

        assert stats()["scheduler"]["processes"] == [
            {
                "kind": "cluster",
                "pid": 7,
                "host": "here",
                "restarts": 2,
                "startedAt": format_instant(now - timedelta(days=1)),
                "seenAt": format_instant(now - timedelta(seconds=90)),
            }
        ]

    def test_the_clocks_of_one_host_agree(self, stats):
        skew = stats()["scheduler"]["clockSkewMs"]

        if connection.vendor == "postgresql":
            assert abs(skew) < 1000
        else:
            assert skew is None


class TestKafka:
    def test_without_a_consumer_there_is_none(self, stats):
        assert stats()["kafka"] == {
            "consumer": {
                "processes": 0,
                "handled": 0,
                "isPaused": False,
                "pausedSince": None,
                "pauseReason": None,
            },
            "consumerLag": {},
        }

    def test_living_consumers_are_taken_together(self, stats, add_process):
        running = {"isPaused": False, "pausedSince": None, "pauseReason": ""}
        since = "2026-01-01T00:00:00.000Z"
        paused = {"isPaused": True, "pausedSince": since, "pauseReason": "no broker"}
        add_process(pid=1, seen=9, handled=5, lag={"a[0]": 7, "a[1]": 1}, **running)
        add_process(pid=2, seen=2, handled=6, lag={"a[0]": 3}, **paused)
        add_process(pid=3, seen=60, handled=100, lag={"b[0]": 100}, **paused)
        add_process(kind="cluster", pid=4)

        assert stats()["kafka"] == {
            "consumer": {
                "processes": 2,
                "handled": 11,
                "isPaused": True,
                "pausedSince": since,
                "pauseReason": "no broker",
            },
            "consumerLag": {"a[0]": 3, "a[1]": 1},
        }


class TestWaiting:
    def test_dead_letters_are_counted_by_status(self, stats, add_letter):
        for status in ("new", "new", "new", "replayed", "replayed", "discarded"):
            add_letter(status)

        assert stats()["deadLetters"] == {"new": 3, "replayed": 2, "discarded": 1}

    def test_unsent_records_are_counted_with_the_oldest_one_s_age(self, stats, now):
        def add(*, age, **fields):
            OutgoingRecord.objects.create(
                event_id=uuid.uuid4(),
                topic="autopilot.command.result",
                value=b"{}",
                created_at=now - timedelta(seconds=age),
                **fields,
            )

        assert stats()["outgoingRecords"] == {"unsent": 0, "oldestUnsentSeconds": 0}
        add(age=1000, acknowledged_at=now)
        add(age=200)
        add(age=100)

        outgoing = stats()["outgoingRecords"]

        assert outgoing["unsent"] == 2
        assert 200 <= outgoing["oldestUnsentSeconds"] < 260


class TestStats:
    def test_asks_the_same_number_of_queries_whatever_there_is(
        self, as_viewer, add_process, add_letter, now
    ):
        empty = queries_of(as_viewer, STATS)
        for number in range(10):
            make_job(COMPLETED, now=now)
            make_job(RUNNING, now=now)
            add_process(pid=number)
            add_letter()

        assert queries_of(as_viewer, STATS) == empty

    def test_knows_no_parameter(self, as_viewer):
        assert_problem(as_viewer.get(STATS, {"a": "1"}), 400, "invalid_request")
