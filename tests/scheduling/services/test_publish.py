"""A lane claims what is due, publishes it, and settles whatever comes back."""

import json
import threading
import time
import uuid
from datetime import timedelta

import pytest
from confluent_kafka import KafkaError
from django.db import OperationalError, connection

from scheduling.adapters import event_publisher, lanes
from scheduling.adapters.claim_ends import (
    count_abandoned,
    disown,
    give_back,
    rescue_abandoned,
)
from scheduling.adapters.claims import Acknowledged, complete_and_claim
from scheduling.adapters.clock import database_now
from scheduling.adapters.embedded_kafka import ApiKey
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.publish import publish_due
from scheduling.services.unproven import is_proven
from tests.faults.conftest import Topic
from tests.support.claiming import claim_due

S = TransitionStatus


@pytest.fixture
def embedded(embedded_kafka, transactional_db, monkeypatch):
    """Return a broker that can be broken, with a publisher of this test's own."""
    monkeypatch.setattr(event_publisher, "_publisher", None)
    monkeypatch.setattr(lanes, "board", lanes.LaneBoard(lanes=1))
    return embedded_kafka


@pytest.fixture
def topic(embedded):
    return Topic(embedded.bootstrap)


@pytest.fixture
def make_job(transactional_db, settings):
    """Return a maker of due rows, one second overdue unless told otherwise."""
    numbers = iter(range(1, 10_000))

    def make(*, overdue=1.0, **fields):
        number = next(numbers)
        now = database_now()
        due = fields.pop("due_at", now - timedelta(seconds=overdue))
        values = {
            "job_id": f"job-{uuid.uuid4().hex[:8]}-{number}",
            "project_id": "7001",
            "phase_id": str(number),
            "phase_type_name": "Review",
            "state": "END",
            "operator": "admin",
            "project_status": "ACTIVE",
            "key": "7001",
            "due_at": due,
            "event_at": due,
            "ready_at": due,
            "max_attempts": settings.SCHEDULER.max_attempts,
            "created_at": now,
            "updated_at": now,
        }
        return ScheduledTransition.objects.create(**{**values, **fields})

    return make


def configure(settings, **values):
    settings.SCHEDULER = settings.SCHEDULER.model_copy(update=values)


def run_lane():
    return publish_due(not_before=0.0)


def statuses(*jobs):
    return [ScheduledTransition.objects.get(pk=job.pk).status for job in jobs]


def actions(job):
    return list(
        AuditEntry.objects.filter(job_id=job.job_id).values_list("action", flat=True)
    )


class TestPublishDue:
    def test_publishes_the_due_and_leaves_the_rest_alone(self, embedded, topic, make_job):
        due = make_job()
        upcoming = make_job(overdue=-60)
        cancelled = make_job(status=S.CANCELLED, finalized_at=database_now())

        assert run_lane() == 1

        assert statuses(due, upcoming, cancelled) == [S.COMPLETED, S.SCHEDULED, S.CANCELLED]
        assert [record.job_id for record in topic.records()] == [due.job_id]

    def test_writes_key_headers_and_envelope_as_promised(self, embedded, topic, make_job):
        challenge = str(uuid.uuid4())
        job = make_job(challenge_id=challenge, key=challenge, phase_type_name="Über „Rev“")

        run_lane()

        (record,) = topic.records()
        assert record.key == challenge
        assert record.headers == {
            "event-id": str(job.event_id),
            "job-id": job.job_id,
            "correlation-id": str(job.event_id),
            "content-type": "application/json",
        }
        assert json.loads(record.value) == {
            "topic": "autopilot.phase.transition",
            "originator": "auto_pilot",
            "timestamp": format_instant(job.due_at),
            "mimeType": "application/json",
            "payload": {
                "projectId": 7001,
                "phaseId": int(job.phase_id),
                "challengeId": challenge,
                "phaseTypeName": "Über „Rev“",
                "state": "END",
                "operator": "admin",
                "projectStatus": "ACTIVE",
                "date": format_instant(job.due_at),
            },
        }

    def test_keeps_position_instants_and_lateness(self, embedded, topic, make_job):
        job = make_job(overdue=2.0)

        run_lane()

        job.refresh_from_db()
        (record,) = topic.records()
        assert (job.topic_partition, job.topic_offset) == (record.partition, record.offset)
        assert job.due_at < job.started_at <= job.completed_at <= job.finalized_at
        late = (job.completed_at - job.due_at) / timedelta(milliseconds=1)
        assert job.lateness_ms == pytest.approx(late, abs=0.01)
        assert (job.attempts, job.claim_token, job.unproven_since) == (1, None, None)
        assert actions(job) == ["transition.claimed", "transition.completed"]

    def test_leaves_what_is_older_than_the_age_limit(self, embedded, topic, make_job):
        too_old = make_job(overdue=73 * 3600)
        demanded = make_job(overdue=73 * 3600, forced_at=database_now())
        young = make_job(overdue=71 * 3600)

        run_lane()

        assert statuses(too_old, demanded, young) == [S.SCHEDULED, S.COMPLETED, S.COMPLETED]

    def test_puts_a_key_in_due_order_with_end_before_start(self, embedded, topic, make_job):
        instant = database_now() - timedelta(seconds=5)
        start = make_job(due_at=instant, state="START")
        end = make_job(due_at=instant, state="END")
        earlier = make_job(due_at=instant - timedelta(seconds=1), state="START")

        run_lane()

        order = [record.job_id for record in topic.records()]
        assert order == [earlier.job_id, end.job_id, start.job_id]

    def test_never_has_more_running_than_the_limit(
        self, embedded, topic, make_job, settings
    ):
        configure(settings, max_concurrent_jobs=3)
        jobs = [make_job(key=str(number)) for number in range(10)]
        embedded.set_rtt(100)
        seen = set()
        stop = threading.Event()

        def watch():
            while not stop.is_set():
                seen.add(ScheduledTransition.objects.filter(status=S.RUNNING).count())
                time.sleep(0.005)

        watcher = threading.Thread(target=_closing(watch))
        watcher.start()
        try:
            run_lane()
        finally:
            stop.set()
            watcher.join()

        assert max(seen) == 3
        assert set(statuses(*jobs)) == {S.COMPLETED}

    def test_counts_within_the_limit_what_others_hold(self, make_job):
        jobs = [make_job(key=str(number)) for number in range(5)]

        claims = [claim_due(most_running=3) for _ in range(2)]

        assert [len(rows) for _, rows in claims] == [3, 0]
        assert statuses(*jobs).count(S.RUNNING) == 3

    def test_logs_one_line_with_lateness_only_if_told_to(
        self, embedded, topic, make_job, settings, caplog
    ):
        caplog.set_level("INFO", logger="autopilot.firing")
        told = make_job()
        run_lane()
        configure(settings, log_job_details=False)
        untold = make_job()
        run_lane()

        lines = [line for line in caplog.messages if "lateness=" in line]
        assert len(lines) == 1
        assert told.job_id in lines[0]
        assert statuses(untold) == [S.COMPLETED]


def _closing(target):
    """Run it in a thread that leaves no database connection behind."""
    from django.db import connection

    def run():
        try:
            target()
        finally:
            connection.close()

    return run


class TestOrderPerKey:
    def test_a_due_job_waits_for_an_earlier_one_that_will_be_retried(
        self, embedded, topic, make_job
    ):
        later_try = database_now() + timedelta(minutes=5)
        first = make_job(
            overdue=10, ready_at=later_try, next_attempt_at=later_try, attempts=1
        )
        second = make_job(overdue=5)
        other_key = make_job(overdue=5, key="other")

        run_lane()

        assert statuses(first, second, other_key) == [S.SCHEDULED, S.SCHEDULED, S.COMPLETED]

    def test_a_due_job_waits_for_an_earlier_one_that_runs(self, embedded, topic, make_job):
        now = database_now()
        first = make_job(
            overdue=10,
            status=S.RUNNING,
            claim_token=uuid.uuid4(),
            lease_until=now + timedelta(seconds=10),
            started_at=now,
            attempts=1,
        )
        second = make_job(overdue=5)

        run_lane()

        assert statuses(first, second) == [S.RUNNING, S.SCHEDULED]

    def test_a_failed_job_frees_its_key(self, embedded, topic, make_job):
        failed = make_job(overdue=10, status=S.FAILED, finalized_at=database_now())
        second = make_job(overdue=5)

        run_lane()

        assert statuses(failed, second) == [S.FAILED, S.COMPLETED]

    def test_a_demanded_job_neither_waits_nor_holds_up(self, embedded, topic, make_job):
        later_try = database_now() + timedelta(minutes=5)
        waiting = make_job(overdue=10, ready_at=later_try, attempts=1)
        demanded = make_job(overdue=-60, forced_at=database_now(), ready_at=database_now())

        run_lane()

        assert statuses(waiting, demanded) == [S.SCHEDULED, S.COMPLETED]


class TestRefusedRecord:
    def test_is_tried_again_after_the_delay_and_fails_for_good_at_last(
        self, embedded, topic, make_job, settings
    ):
        configure(settings, max_retries=1, retry_delay=60_000)
        job = make_job(max_attempts=2)
        embedded.push_errors(ApiKey.PRODUCE, KafkaError.INVALID_RECORD)
        run_lane()

        job.refresh_from_db()
        assert (job.status, job.attempts) == (S.SCHEDULED, 1)
        wait = (job.next_attempt_at - job.updated_at).total_seconds()
        assert 30 <= wait <= 60
        assert job.ready_at == job.next_attempt_at
        assert "refused by the broker" in job.last_error
        assert job.unproven_since is None

        ScheduledTransition.objects.filter(pk=job.pk).update(ready_at=database_now())
        embedded.push_errors(ApiKey.PRODUCE, KafkaError.INVALID_RECORD)
        run_lane()

        job.refresh_from_db()
        assert (job.status, job.attempts) == (S.FAILED, 2)
        assert actions(job) == [
            "transition.claimed",
            "transition.attempt_failed",
            "transition.claimed",
            "transition.failed",
        ]
        assert topic.records() == []

    def test_that_is_too_large_holds_up_only_its_key(
        self, embedded, topic, make_job, settings, monkeypatch
    ):
        client = {**settings.KAFKA_CLIENT, "message.max.bytes": 1000}
        settings.KAFKA_CLIENT = client
        large = make_job(overdue=10, phase_type_name="x" * 255, operator="y" * 255)
        large.project_status = "z" * 255
        large.phase_type_name = "\N{GRINNING FACE}" * 255
        large.save()
        later = make_job(overdue=5)
        other = make_job(overdue=5, key="other")

        run_lane()

        assert statuses(large, later, other) == [S.SCHEDULED, S.SCHEDULED, S.COMPLETED]
        large.refresh_from_db()
        later.refresh_from_db()
        assert (large.attempts, later.attempts) == (1, 0)


class TestJobTimeout:
    def test_ends_the_attempt_and_counts_it(self, embedded, topic, make_job, settings):
        configure(settings, job_timeout=1_000)
        make_job(key="first")
        run_lane()
        job = make_job()
        embedded.push_delays(ApiKey.PRODUCE, 4_000)
        started = time.monotonic()

        run_lane()

        assert time.monotonic() - started < 3.5
        job.refresh_from_db()
        assert (job.status, job.attempts) == (S.SCHEDULED, 1)
        assert job.last_error == "no acknowledgement within 1000 ms"
        assert job.unproven_since is not None

    def test_is_not_followed_by_a_second_record(self, embedded, topic, make_job, settings):
        configure(settings, job_timeout=1_000, retry_delay=100)
        make_job(key="first")
        run_lane()
        job = make_job()
        embedded.push_delays(ApiKey.PRODUCE, 2_000)
        run_lane()
        time.sleep(1.5)

        run_lane()

        job.refresh_from_db()
        assert job.status == S.COMPLETED
        mine = [record for record in topic.records() if record.job_id == job.job_id]
        assert [(r.partition, r.offset) for r in mine] == [
            (job.topic_partition, job.topic_offset)
        ]


class TestBrokerOutOfReach:
    def test_uses_up_no_attempt_and_says_when_it_goes_on(
        self, embedded, topic, make_job, monkeypatch
    ):
        monkeypatch.setattr("scheduling.services.publish.LANE_SECONDS", 4.0)
        job = make_job()
        embedded.down()

        run_lane()

        job.refresh_from_db()
        assert (job.status, job.attempts) == (S.SCHEDULED, 0)
        assert job.next_attempt_at is not None
        assert job.ready_at == job.due_at
        # It was with the client when the broker went: nobody knows what became of it.
        assert job.unproven_since is not None
        assert actions(job)[:2] == ["transition.claimed", "transition.given_back"]

    def test_is_waited_for_within_the_lane(self, embedded, topic, make_job):
        jobs = [make_job(overdue=10 - number) for number in range(5)]
        embedded.down()
        threading.Timer(4, embedded.up).start()

        run_lane()

        assert set(statuses(*jobs)) == {S.COMPLETED}
        assert [r.job_id for r in topic.records()] == [job.job_id for job in jobs]


class TestUnprovenAttempt:
    def test_that_is_on_the_topic_is_completed_when_it_is_found(
        self, embedded, topic, make_job
    ):
        job = make_job()
        run_lane()
        ScheduledTransition.objects.filter(pk=job.pk).update(
            status=S.SCHEDULED,
            unproven_since=database_now() - timedelta(seconds=5),
            attempts=0,
            completed_at=None,
            finalized_at=None,
            topic_partition=None,
            topic_offset=None,
        )
        time.sleep(0.3)
        before = database_now()

        run_lane()

        job.refresh_from_db()
        (record,) = topic.records()
        assert job.status == S.COMPLETED
        assert (job.topic_partition, job.topic_offset) == (record.partition, record.offset)
        assert before <= job.started_at <= job.completed_at <= database_now()
        late_ms = (job.completed_at - job.due_at) / timedelta(milliseconds=1)
        assert job.lateness_ms == pytest.approx(late_ms, abs=1)

    def test_that_is_not_there_is_published(self, embedded, topic, make_job):
        job = make_job(unproven_since=database_now() - timedelta(seconds=5))

        run_lane()

        assert statuses(job) == [S.COMPLETED]
        assert [record.event_id for record in topic.records()] == [str(job.event_id)]


class TestSearchOfTheTopic:
    def test_that_fails_holds_up_only_the_keys_in_doubt(
        self, embedded, topic, make_job, monkeypatch
    ):
        def fail(wanted, **_):
            raise ServiceUnavailableError("no search today")

        monkeypatch.setattr("scheduling.services.batch.find_events", fail)
        doubtful = make_job(overdue=10, unproven_since=database_now())
        later = make_job(overdue=5)
        other = make_job(overdue=5, key="other")

        run_lane()

        assert statuses(doubtful, later, other) == [S.SCHEDULED, S.SCHEDULED, S.COMPLETED]
        doubtful.refresh_from_db()
        assert doubtful.attempts == 0
        assert doubtful.ready_at > database_now()

    def test_that_outlasts_the_lease_publishes_nothing_of_what_others_took(
        self, embedded, topic, make_job, monkeypatch
    ):
        monkeypatch.setattr("scheduling.services.batch.RENEW_EVERY_SECONDS", 0.0)
        doubtful = make_job(unproven_since=database_now())

        def search_while_another_takes_over(wanted, **_):
            ScheduledTransition.objects.filter(pk=doubtful.pk).update(
                claim_token=uuid.uuid4()
            )
            return {}

        monkeypatch.setattr(
            "scheduling.services.batch.find_events", search_while_another_takes_over
        )

        run_lane()

        assert topic.records() == []
        assert statuses(doubtful) == [S.RUNNING]


class TestUnknownOutcome:
    def test_shows_that_there_was_another_one_since_a_search(self, embedded, make_job):
        job = make_job()
        seen = []
        for _ in range(3):
            token, jobs = claim_due()
            give_back(token, jobs, error="lost", unproven=True)
            job.refresh_from_db()
            seen.append(job.unproven_since)

        assert seen == sorted(set(seen), reverse=True)
        assert seen[0] - seen[-1] < timedelta(milliseconds=1)
        assert not is_proven(job, searched=seen[0])
        assert is_proven(job, searched=seen[-1])


class TestStaleHand:
    def test_completes_nothing_that_it_holds_no_more(self, make_job):
        job = make_job()
        token, (claimed,) = claim_due()
        give_back(token, [claimed], error="lost", unproven=True)

        done, _ = complete_and_claim(token, [Acknowledged(claimed, 0, 7, 0.0)], None)

        assert done == {}
        assert statuses(job) == [S.SCHEDULED]
        assert actions(job) == ["transition.claimed", "transition.given_back"]


class TestLostAnswer:
    """The database commits a claim, and goes away before it says so."""

    @pytest.fixture
    def lose_answers(self, monkeypatch):
        """Return a function that lets the answers of the next such calls be lost."""
        left = []

        def ask(token, acknowledged, claim):
            answer = complete_and_claim(token, acknowledged, claim)
            if left and (answer[1] or answer[0]):
                left.pop()
                connection.close()
                raise OperationalError("server closed the connection unexpectedly")
            return answer

        monkeypatch.setattr("scheduling.services.publish.complete_and_claim", ask)
        return lambda times: left.extend(range(times))

    def test_costs_neither_the_lease_nor_an_attempt(
        self, embedded, topic, make_job, lose_answers
    ):
        job = make_job()
        lose_answers(2)

        assert run_lane() == 1

        assert [record.job_id for record in topic.records()] == [job.job_id]
        assert actions(job) == [
            *["transition.claimed", "transition.given_back"] * 2,
            "transition.claimed",
            "transition.completed",
        ]
        job.refresh_from_db()
        assert (job.attempts, job.unproven_since) == (1, None)

    def test_to_a_completion_frees_what_was_claimed_with_it(
        self, embedded, topic, make_job, monkeypatch, settings
    ):
        configure(settings, max_concurrent_jobs=1)
        first, second = make_job(overdue=2.0), make_job(overdue=1.0, key="7002")

        def ask(token, acknowledged, claim):
            answer = complete_and_claim(token, acknowledged, claim)
            if acknowledged and answer[1]:
                monkeypatch.setattr(
                    "scheduling.services.publish.complete_and_claim", complete_and_claim
                )
                connection.close()
                raise OperationalError("server closed the connection unexpectedly")
            return answer

        monkeypatch.setattr("scheduling.services.publish.complete_and_claim", ask)

        run_lane()

        assert statuses(first, second) == [S.COMPLETED, S.COMPLETED]
        assert [record.job_id for record in topic.records()] == [
            first.job_id,
            second.job_id,
        ]
        assert actions(first) == ["transition.claimed", "transition.completed"]
        assert actions(second)[1] == "transition.given_back"

    def test_is_not_waited_for_on_a_stop(
        self, embedded, make_job, lose_answers, monkeypatch
    ):
        job = make_job()
        lose_answers(1)
        board = lanes.current_board()

        def go_away(token):
            board.stop()
            raise OperationalError("connection refused")

        monkeypatch.setattr("scheduling.services.publish.disown", go_away)

        with pytest.raises(OperationalError, match="refused"):
            run_lane()

        assert statuses(job) == [S.RUNNING]

    def test_leaves_alone_what_another_one_has_taken_over(self, make_job):
        job = make_job()
        token, _ = claim_due()
        ScheduledTransition.objects.filter(pk=job.pk).update(claim_token=uuid.uuid4())

        assert disown(token) == 0

        assert statuses(job) == [S.RUNNING]


class TestRescue:
    def test_leaves_to_the_living_what_they_hold(self, make_job):
        job = make_job()
        claim_due()

        assert count_abandoned() == rescue_abandoned() == 0

        assert statuses(job) == [S.RUNNING]

    def test_frees_what_nobody_holds_any_longer(self, make_job):
        job = make_job()
        claim_due()
        ScheduledTransition.objects.update(lease_until=database_now())

        assert count_abandoned() == rescue_abandoned() == 1

        assert statuses(job) == [S.SCHEDULED]


class TestStoppingBoard:
    def test_keeps_a_lane_from_claiming(self, embedded, topic, make_job):
        job = make_job()
        lanes.current_board().stop()

        assert run_lane() == 0

        assert statuses(job) == [S.SCHEDULED]
