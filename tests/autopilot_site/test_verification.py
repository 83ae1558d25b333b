"""`manage.py verify`: all kinds of histories hold, and each broken promise is found."""

import dataclasses
import io
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F

from autopilot_site.verification import database_checks, record_checks, verify
from scheduling.adapters import claim_ends, claims
from scheduling.adapters.clock import database_now
from scheduling.adapters.event_publisher import EventPublisher
from scheduling.adapters.lanes import LaneBoard
from scheduling.domain.actors import Role, user_actor
from scheduling.domain.phases import read_phase_data
from scheduling.domain.records import Record
from scheduling.models import (
    AuditEntry,
    DeadLetter,
    OutgoingRecord,
    ProcessState,
    ScheduledTransition,
)
from scheduling.sealer import KIND
from scheduling.services import batch, publish
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import clean_up
from scheduling.services.expire import expire_too_old
from scheduling.services.incoming import handle_records
from scheduling.services.retry import retry_transition
from scheduling.services.run_now import run_transition_now
from scheduling.services.schedule import Upstream, add_jobs, new_job, schedule_transition
from scheduling.services.seals import Sealer
from scheduling.services.update import Update, update_transition
from scheduling.topics import CHALLENGE_UPDATE
from tests.support.claiming import claim_due
from tests.support.tampering import GUARDS, tampering

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]

OLIVIA = user_actor("olivia", role=Role.OPERATOR)
EVERYTHING = 1_000_000


@pytest.fixture
def make(phase_data, now):
    """Return a maker of jobs, each of a project, so of a key, of its own."""
    # A topic that outlives the test holds the records of others: ids of our own.
    numbers = iter(range(uuid.uuid4().int % 2**50, 2**53))

    def make(*, due_in=3600, **fields):
        number = next(numbers)
        data = phase_data(
            **{"projectId": number, "phaseId": number, "due_in": due_in, **fields}
        )
        if due_in > 1:
            return schedule_transition(data, actor=OLIVIA, now=now).job
        # As recovery makes it: the window does not bind what upstream shows.
        item = read_phase_data(data)
        created = min(now, item.end_time) - timedelta(hours=1)
        job = new_job(item, now=created, upstream=Upstream(at=item.end_time))
        add_jobs([job], actor=OLIVIA, now=created)
        return ScheduledTransition.objects.get(job_id=job.job_id)

    return make


@pytest.fixture
def publish_all(kafka):
    """Return what publishes all that is due, as a lane of the cluster does."""
    publisher = EventPublisher(django_settings.KAFKA_CLIENT, message_timeout_ms=10_000)

    def publish_all():
        lane = publish.Lane(
            publisher=publisher,
            board=LaneBoard(lanes=1),
        )
        return lane.run(not_before=0)

    yield publish_all
    publisher.close()


@pytest.fixture
def put_on_topic(kafka):
    """Return what puts a job's record on the topic, without the job knowing."""
    publisher = EventPublisher(django_settings.KAFKA_CLIENT, message_timeout_ms=10_000)

    def put_on_topic(job, *, value=None, at=None, **headers):
        fields = {
            f.name: getattr(job, f.name) for f in dataclasses.fields(claims.ClaimedJob)
        }
        record = batch._record(
            claims.ClaimedJob(**fields), timestamp=(at or database_now()).timestamp()
        )
        changed = {name.replace("_", "-"): text for name, text in headers.items()}
        record = dataclasses.replace(
            record, value=value or record.value, headers={**record.headers, **changed}
        )
        (outcome,) = publisher.publish(
            [record], deadline_seconds=10, while_waiting=lambda: True
        )
        return outcome

    yield put_on_topic
    publisher.close()


def check(*, with_topic=False, since=None, now=None):
    return verify(
        now=now or database_now(),
        with_topic=with_topic,
        since=since,
        most_shown=EVERYTHING,
    )


def found(report, *jobs):
    """Return the numbers of the invariants that these jobs break."""
    names = {job.job_id for job in jobs}
    return {
        invariant.id
        for invariant in report.invariants.values()
        if names & {violation.job_id for violation in invariant.violations}
    }


def broken(report):
    """Return what is broken, for a readable failure; foreign records left out."""
    return [
        (invariant.id, violation.job_id, violation.detail)
        for invariant in report.invariants.values()
        for violation in invariant.violations
        if not violation.detail.endswith("there is no such job")
    ] + [why for invariant in report.invariants.values() for why in invariant.unchecked]


def numbers_broken(report):
    """Return the numbers of the invariants that anything breaks."""
    return {one.id for one in report.invariants.values() if one.violation_count}


def change(job, **fields):
    """Change a row behind the product's back."""
    assert ScheduledTransition.objects.filter(job_id=job.job_id).update(**fields) == 1


def add_entry(job, **fields):
    """Write an audit entry behind the product's back."""
    AuditEntry.objects.create(
        **{
            "at": datetime.now(UTC),
            "job_id": job.job_id,
            "actor": "system:scheduler",
            "role": "system",
            **fields,
        }
    )


def seal_all(now):
    """Seal all that is there."""
    sealer = Sealer()
    while sealer.seal_next(now=now):
        pass


def fail_once_and_for_all(job):
    """Let the job use up its attempts, each refused by the broker."""
    change(job, max_attempts=1)
    token, jobs = claim_due(limit=1)
    assert [claimed.job_id for claimed in jobs] == [job.job_id]
    claim_ends.fail_attempt(
        token, jobs[0], error="too large", unproven=False, wait=timedelta(seconds=1)
    )


@pytest.fixture
def histories(make, publish_all, now):
    """Make jobs with every kind of past; return them by name."""
    jobs = {"failed": make(due_in=-5)}
    fail_once_and_for_all(jobs["failed"])
    jobs["failed twice"] = make(due_in=-5)
    fail_once_and_for_all(jobs["failed twice"])
    jobs["retried"] = retry_transition(
        job_id=jobs["failed twice"].job_id, actor=OLIVIA, reason="again", now=now
    )
    jobs["given back"] = make(due_in=-4)
    token, claimed = claim_due(limit=9)
    claim_ends.give_back(token, claimed, error="no broker", unproven=True)
    jobs["expired"], jobs["expired and run"] = make(due_in=-400_000), make(due_in=-400_000)
    jobs["expired and cancelled"] = make(due_in=-400_000)
    expire_too_old(now=now)
    jobs["scheduled"], jobs["cancelled"] = make(), make()
    jobs["run before its time"] = make()
    for name in ("expired and run", "run before its time"):
        run_transition_now(job_id=jobs[name].job_id, actor=OLIVIA, reason="now", now=now)
    for name in ("expired and cancelled", "cancelled"):
        cancel_transition(job_id=jobs[name].job_id, actor=OLIVIA, reason="no", now=now)
    jobs["updated"] = make()
    jobs["successor"] = update_transition(
        job_id=jobs["updated"].job_id,
        update=Update(end_time=now + timedelta(hours=2)),
        actor=OLIVIA,
        now=now,
    )
    for number in range(3):
        jobs[f"completed {number}"] = make(due_in=-3 + number)
    jobs["running"] = make(due_in=-1)
    assert publish_all() == 8
    return {
        name: ScheduledTransition.objects.get(job_id=job.job_id)
        for name, job in jobs.items()
    }


class TestVerifyHolds:
    def test_for_an_empty_database(self):
        assert check().holds

    def test_for_every_kind_of_history(self, histories):
        report = check(with_topic=True)

        assert broken(report) == []
        assert report.invariants[4].checked == 8
        assert report.invariants[8].checked == AuditEntry.objects.count()

    def test_for_what_clean_up_archived(self, histories, now):
        cleaned = clean_up(now=now + timedelta(days=2))

        report = check(with_topic=True)

        assert cleaned > 0
        assert broken(report) == []
        assert report.invariants[4].checked == 8

    def test_since_an_instant(self, histories, make):
        moment = database_now()
        make()

        report = check(with_topic=True, since=moment)

        assert broken(report) == []
        assert 0 < report.invariants[8].checked < AuditEntry.objects.count()
        assert report.invariants[4].checked == 0

    def test_for_a_job_made_after_a_later_due_one_of_its_key_was_published(
        self, make, publish_all, now
    ):
        first = make(due_in=-1)
        publish_all()
        item = read_phase_data(
            {
                "projectId": int(first.project_id),
                "phaseId": 7,
                "phaseTypeName": "Review",
                "state": "START",
                "endTime": (now - timedelta(seconds=60)).isoformat(),
                "operator": "admin",
                "projectStatus": "ACTIVE",
            }
        )
        late = new_job(item, now=database_now(), upstream=Upstream(at=item.end_time))
        add_jobs([late], actor=OLIVIA, now=database_now())
        publish_all()

        report = check(with_topic=True)

        assert broken(report) == []
        assert report.invariants[4].checked == 2

    def test_when_a_record_stands_twice_with_equal_bytes(
        self, make, publish_all, put_on_topic
    ):
        job = make(due_in=-1)
        publish_all()
        put_on_topic(job)

        assert broken(check(with_topic=True)) == []

    def test_while_a_job_waits_for_its_place_behind_one_that_is_tried_again(
        self, make, now
    ):
        first = make(due_in=-60)
        make(due_in=-50, projectId=int(first.project_id))
        change(first, ready_at=now + timedelta(seconds=60))

        assert broken(check()) == []


class TestVerifyFinds:
    """One seeded violation after another."""

    def test_1_a_claim_before_the_due_instant(self, make, publish_all):
        job = make(due_in=-1)
        publish_all()
        change(job, started_at=F("due_at") - timedelta(milliseconds=1))

        assert found(check(), job) == {1}

    def test_1_a_completion_before_the_due_instant(self, make, publish_all):
        job = make(due_in=-1)
        publish_all()
        change(job, completed_at=F("due_at") - timedelta(milliseconds=200))

        assert found(check(), job) == {1}

    def test_1_a_demand_that_nobody_made(self, make, now):
        job = make()
        change(job, forced_at=now)

        assert 1 in found(check(), job)

    def test_1_an_early_record_on_the_topic(self, make, publish_all, put_on_topic):
        job = make(due_in=-1)
        put_on_topic(job, at=job.due_at - timedelta(seconds=1))
        publish_all()

        assert 1 in found(check(with_topic=True), job)

    def test_1_an_early_fire_in_the_archive(self, make, publish_all, now):
        job = make(due_in=-1)
        publish_all()
        change(job, started_at=F("due_at") - timedelta(milliseconds=1))
        clean_up(now=now + timedelta(days=2))

        assert found(check(), job) == {1}

    def test_2_a_second_completion_in_the_audit(self, make, publish_all):
        job = make(due_in=-1)
        publish_all()
        add_entry(
            job,
            action="transition.completed",
            old_status="completed",
            new_status="completed",
        )

        assert 2 in found(check(), job)

    def test_2_a_completion_of_a_job_that_is_not_completed(self, make):
        job = make()
        add_entry(
            job,
            action="transition.completed",
            old_status="scheduled",
            new_status="completed",
        )

        assert 2 in found(check(), job)

    def test_2_an_event_shared_without_a_retry(self, make):
        job, other = make(), make()
        change(other, event_id=job.event_id)

        assert 2 in found(check(), job, other)

    def test_3_two_jobs_at_one_position(self, make, publish_all):
        first, second = make(due_in=-1), make(due_in=-1)
        publish_all()
        position = ScheduledTransition.objects.values("topic_partition", "topic_offset")
        change(second, **position.get(job_id=first.job_id))

        assert 3 in found(check(), first, second)

    def test_3_a_position_without_a_completion(self, make):
        job = make()
        change(job, topic_partition=0, topic_offset=7)

        assert found(check(), job) == {3}

    def test_4_a_completed_job_whose_event_is_not_on_the_topic(self, make, publish_all):
        job, _ = make(due_in=-1), make(due_in=-1)
        publish_all()
        change(job, event_id=uuid.uuid4())

        assert 4 in found(check(with_topic=True), job)

    def test_4_a_position_that_holds_another_record(self, make, publish_all):
        jobs = [make(due_in=-1) for _ in range(2)]
        publish_all()
        change(jobs[0], topic_offset=F("topic_offset") + 1)

        assert found(check(with_topic=True), jobs[0]) - {3} == {4}

    @pytest.mark.parametrize(
        "column", ["phase_id", "phase_type_name", "project_status", "operator"]
    )
    def test_4_a_row_that_is_not_what_its_record_says(self, column, make, publish_all):
        jobs = [make(due_in=-1) for _ in range(2)]
        publish_all()
        change(jobs[0], **{column: "999"})

        report = check(with_topic=True)

        assert 4 in found(report, jobs[0])
        assert 4 not in found(report, jobs[1])

    def test_4_a_repeat_that_is_not_equal(self, make, publish_all, put_on_topic):
        job = make(due_in=-1)
        publish_all()
        put_on_topic(job, value=b"{}")

        assert found(check(with_topic=True), job) == {4}

    def test_4_but_counts_as_skipped_what_retention_deleted(
        self, make, publish_all, monkeypatch, settings
    ):
        job = make(due_in=-1)
        publish_all()
        settings.KAFKA_IS_EMBEDDED = False
        change(job, topic_offset=-1)

        report = check(with_topic=True)

        assert report.invariants[4].skipped == 1
        assert found(report, job) == set()

    def test_5_a_record_without_a_job(self, make, put_on_topic):
        job = make(due_in=-1)
        put_on_topic(job, job_id="job-1-2-3")

        ghosts = {v.job_id for v in check(with_topic=True).invariants[5].violations}

        assert "job-1-2-3" in ghosts

    def test_5_a_record_of_a_job_that_was_never_published(self, make, put_on_topic):
        job = make(due_in=-1)
        put_on_topic(job)

        assert found(check(with_topic=True), job) == {5}

    def test_5_records_of_a_key_out_of_order(self, make, publish_all):
        first = make(due_in=-1)
        publish_all()
        second = make(due_in=-60, projectId=int(first.project_id))
        publish_all()

        assert found(check(with_topic=True), second) == {5}

    def test_5_a_start_before_the_end_that_is_due_with_it(self, make, publish_all):
        start = make(due_in=-60, state="START")
        publish_all()
        end = make(due_in=-60, state="END", projectId=int(start.project_id))
        publish_all()

        assert found(check(with_topic=True), end) == {5}

    def test_6_a_claim_after_a_cancellation(self, make, now):
        job = make()
        cancel_transition(job_id=job.job_id, actor=OLIVIA, reason="no", now=now)
        add_entry(
            job,
            action="transition.claimed",
            old_status="cancelled",
            new_status="running",
        )

        assert 6 in found(check(), job)

    def test_6_a_completed_job_that_was_made_cancelled(self, make, publish_all):
        job = make(due_in=-1)
        publish_all()
        change(job, status="cancelled")

        assert 6 in found(check(), job)

    def test_6_a_cancelled_job_on_the_topic(self, make, put_on_topic, now):
        job = make()
        cancel_transition(job_id=job.job_id, actor=OLIVIA, reason="no", now=now)
        put_on_topic(job, at=job.due_at)

        assert found(check(with_topic=True), job) == {6}

    def test_7_a_due_job_that_nobody_takes(self, make, kafka, in_reach):
        job = make(due_in=-31)
        later = make(due_in=-30.5, projectId=int(job.project_id))
        soon = make(due_in=-1)

        report = check()

        assert found(report, job) == found(report, later) == {7}
        assert found(report, soon) == set()

    def test_7_a_demanded_job_that_nobody_takes(self, make, kafka, in_reach, now):
        job = make()
        run_transition_now(
            job_id=job.job_id,
            actor=OLIVIA,
            reason="now",
            now=now - timedelta(seconds=40),
        )

        assert found(check(), job) == {7}

    def test_7_but_says_so_where_the_broker_is_away(self, make, monkeypatch):
        job = make(due_in=-31)
        monkeypatch.setattr(EventPublisher, "is_in_reach", lambda *_, **__: False)

        report = check()

        assert found(report, job) == set()
        assert "no Kafka broker" in report.invariants[7].unchecked[0]
        assert not report.holds

    def test_7_a_lease_that_ended_long_ago(self, make, now):
        job = make(due_in=-1)
        claim_due(limit=9)
        change(job, lease_until=now - timedelta(seconds=40))

        assert found(check(), job) == {7}

    def test_7_a_job_beyond_the_age_limit_that_is_not_expired(self, make):
        job = make(due_in=-400_000)

        assert found(check(), job) == {7}

    @pytest.mark.parametrize(
        "change_of_row",
        [
            {"status": "cancelled", "finalized_at": datetime(2026, 1, 1, tzinfo=UTC)},
            {"attempts": 2},
            {"event_id": uuid.uuid4()},
            {"due_at": datetime(2026, 1, 1, tzinfo=UTC)},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_8_a_change_without_an_entry(self, make, change_of_row):
        job = make()
        change(job, **change_of_row)

        assert 8 in found(check(), job)

    def test_8_a_row_without_entries(self, make, now):
        item = read_phase_data(
            {
                "projectId": 1,
                "phaseId": 2,
                "phaseTypeName": "Review",
                "state": "END",
                "endTime": "2999-01-01T00:00:00Z",
                "operator": "admin",
                "projectStatus": "ACTIVE",
            }
        )
        job = new_job(item, now=now)
        job.save()

        assert found(check(), job) == {8}

    def test_8_entries_without_a_row(self, make):
        job = make()
        ScheduledTransition.objects.all().delete()

        assert found(check(), job) == {8}

    @pytest.mark.parametrize(
        "fields",
        [
            {"action": "transition.expired", "old_status": "failed"},
            {"action": "transition.expired", "old_status": "scheduled", "actor": ""},
            {"action": "transition.expired", "old_status": "scheduled", "role": ""},
            {
                "action": "transition.cancelled",
                "old_status": "scheduled",
                "actor": "user:x",
            },
        ],
        ids=["gap", "no actor", "no role", "no reason"],
    )
    def test_8_an_entry_that_is_not_right(self, make, now, fields):
        job = make()
        new = fields["action"].removeprefix("transition.")
        change(job, status=new, finalized_at=now)
        add_entry(job, new_status=new, **fields)

        assert found(check(), job) == {8}

    def test_8_a_change_that_is_not_allowed(self, make, now):
        job = make()
        change(job, status="failed", finalized_at=now)
        add_entry(
            job,
            action="transition.expired",
            old_status="scheduled",
            new_status="failed",
        )

        assert found(check(), job) == {8}

    @pytest.mark.parametrize("verb", ["UPDATE", "DELETE"])
    @pytest.mark.parametrize("is_empty", [True, False])
    def test_9_a_missing_trigger(self, make, without_triggers, verb, is_empty):
        if not is_empty:
            make()
        before = AuditEntry.objects.count()
        without_triggers()

        report = check()

        details = [violation.detail for violation in report.invariants[9].violations]
        assert f"the database allows {verb} of the audit" in details
        assert f"the database allows {verb} of the seals" in details
        assert AuditEntry.objects.count() == before

    def test_9_a_changed_entry_that_was_sealed(self, make, now):
        make()
        seal_all(now)

        with tampering():
            AuditEntry.objects.update(reason="another")
            details = [violation.detail for violation in check().invariants[9].violations]

        assert any("does not match" in detail for detail in details)
        assert numbers_broken(check()) == set()

    def test_9_since_an_instant_those_sealed_since_then(self, make, now):
        make()
        seal_all(now - timedelta(hours=2))
        make()
        seal_all(now - timedelta(hours=1))
        make()
        seal_all(now)

        with tampering():
            AuditEntry.objects.filter(pk=AuditEntry.objects.first().pk).update(reason="x")
            everything = check().invariants[9]
            recent = check(since=now - timedelta(minutes=1)).invariants[9]

        assert sum("match" in one.detail for one in everything.violations) == 1
        assert not any("match" in one.detail for one in recent.violations)
        # Both verbs at both tables, and the entries of the last two seals.
        assert recent.checked == 4 + 2

    def test_9_what_stays_unsealed_beside_a_living_sealer(self, make, now):
        make(due_in=-7_200)
        report = check()
        assert (report.invariants[9].skipped, report.invariants[9].violation_count) == (
            1,
            0,
        )

        ProcessState.objects.create(
            kind=KIND, host="h", pid=1, started_at=now - timedelta(hours=1), seen_at=now
        )

        (violation,) = check().invariants[9].violations
        assert "1 entries are not sealed" in violation.detail

    def test_10_two_live_jobs_of_one_transition(self, make, without_constraint):
        job, other = make(), make()
        without_constraint()
        change(other, project_id=job.project_id, phase_id=job.phase_id)

        assert 10 in found(check(), job, other)
        change(other, project_id=other.project_id, phase_id=other.phase_id)

    def test_10_a_claim_of_a_job_that_runs(self, make):
        job = make(due_in=-1)
        claim_due(limit=9)
        change(job, attempts=2)
        add_entry(
            job,
            action="transition.claimed",
            old_status="running",
            new_status="running",
        )

        assert found(check(), job) == {10}

    def test_10_a_hand_that_gives_back_what_it_no_longer_held(self, make, now):
        job = make()
        cancel_transition(job_id=job.job_id, actor=OLIVIA, reason="no", now=now)
        add_entry(
            job,
            action="transition.given_back",
            old_status="running",
            new_status="scheduled",
        )

        assert 10 in found(check(), job)


class TestTenOfTen:
    def test_one_violation_of_each_invariant_is_found(
        self, make, publish_all, put_on_topic, now
    ):
        jobs = {number: make(due_in=-1) for number in (1, 2, 4)}
        publish_all()
        change(jobs[1], started_at=F("due_at") - timedelta(milliseconds=1))
        completion = {"action": "transition.completed", "new_status": "completed"}
        add_entry(jobs[2], old_status="completed", **completion)
        change(jobs[4], event_id=uuid.uuid4())
        jobs[3] = make()
        change(jobs[3], topic_partition=0, topic_offset=7)
        jobs[6] = make()
        cancel_transition(job_id=jobs[6].job_id, actor=OLIVIA, reason="no", now=now)
        put_on_topic(jobs[6], at=jobs[6].due_at)
        jobs[7] = make(due_in=-400_000)
        jobs[8] = make()
        change(jobs[8], attempts=2)
        jobs[10] = make(due_in=-1)
        claim_due(limit=9)
        change(jobs[10], attempts=2)
        claim = {"action": "transition.claimed", "new_status": "running"}
        add_entry(jobs[10], old_status="running", **claim)
        jobs[5] = make()
        put_on_topic(jobs[5], job_id="job-1-2-3")
        seal_all(now)

        with tampering():
            entry = AuditEntry.objects.filter(job_id=jobs[5].job_id)
            entry.update(request_id="another")
            report = check(with_topic=True)

        assert numbers_broken(report) == set(range(1, 11))
        for number, job in jobs.items():
            if number not in {5, 9}:
                assert number in found(report, job), number
        assert not report.holds


class TestVerifyRecords:
    @pytest.fixture
    def garbage(self, now):
        """Handle a record that nobody understands, a while ago."""
        record = Record(
            cluster_id=uuid.uuid4().hex,
            topic=CHALLENGE_UPDATE,
            partition=0,
            offset=7,
            value=b"garbage",
        )
        handle_records([record], now=now - timedelta(minutes=5))
        return record

    def test_finds_nothing_where_dead_letter_and_answer_are_there(self, garbage):
        OutgoingRecord.objects.update(acknowledged_at=F("created_at"))

        assert broken(check()) == []

    def test_finds_a_record_set_aside_without_a_dead_letter(self, garbage, now):
        again = dataclasses.replace(garbage, offset=8)
        handle_records([again], now=now)
        OutgoingRecord.objects.all().delete()
        DeadLetter.objects.filter(offset=8).delete()

        report = check()

        assert numbers_broken(report) == {8}
        assert "update[0]@8" in report.invariants[8].violations[0].detail

    def test_finds_what_is_owed_for_too_long(self, garbage, kafka, in_reach):
        report = check()

        assert numbers_broken(report) == {7}
        assert "autopilot.challenge.update.dlq" in report.invariants[7].violations[0].detail

    def test_says_that_it_can_not_tell_while_no_broker_answers(self, garbage, monkeypatch):
        nobody = EventPublisher(
            {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, message_timeout_ms=1_000
        )
        monkeypatch.setattr(record_checks, "process_publisher", lambda: nobody)
        monkeypatch.setattr(record_checks, "BROKER_SECONDS", 0.2)

        report = check()

        assert numbers_broken(report) == set()
        assert "1 answers" in report.invariants[7].unchecked[0]


@pytest.fixture
def in_reach(settings, monkeypatch):
    """Let the check ask this test's broker, not the one of a test before."""
    publisher = EventPublisher(settings.KAFKA_CLIENT, message_timeout_ms=10_000)
    for module in (database_checks, record_checks):
        monkeypatch.setattr(module, "process_publisher", lambda: publisher)
    yield
    publisher.close()


@pytest.fixture
def without_triggers():
    """Return what drops the audit's triggers; they are there again after the test."""

    def execute(name, guards):
        with connection.cursor() as cursor:
            for guard in guards:
                for statement in getattr(guard, name)[connection.vendor]:
                    cursor.execute(statement)

    yield lambda: execute("DROP", reversed(GUARDS))
    execute("DROP", reversed(GUARDS))
    execute("CREATE", GUARDS)


@pytest.fixture
def without_constraint():
    """Return what drops the index of live jobs; it is there again after the test."""
    constraint = next(
        c for c in ScheduledTransition._meta.constraints if c.name == "transition_one_live"
    )

    def drop():
        with connection.schema_editor() as editor:
            editor.remove_constraint(ScheduledTransition, constraint)

    yield drop
    ScheduledTransition.objects.all().delete()
    with connection.schema_editor() as editor:
        editor.add_constraint(ScheduledTransition, constraint)


class TestVerifyCommand:
    def test_prints_the_document_of_the_contract(self, make):
        make()

        document = json.loads(run("--json"))

        assert document["ok"] is True
        assert [item["id"] for item in document["invariants"]] == list(range(1, 11))
        assert {"id", "name", "checked", "violations"} <= document["invariants"][0].keys()

    def test_lists_twenty_violations_and_counts_all(self, make):
        jobs = [make() for _ in range(23)]
        ScheduledTransition.objects.update(attempts=1)

        document, refusal = run_refused("--json")

        (eighth,) = [item for item in document["invariants"] if item["id"] == 8]
        assert len(eighth["violations"]) == 20
        assert eighth["violationCount"] == 23
        assert eighth["violations"][0].keys() == {"jobId", "detail"}
        assert eighth["violations"][0]["jobId"] == min(job.job_id for job in jobs)
        assert refusal.returncode == 1

    def test_prints_a_table_with_the_violations_below(self, make):
        job = make()
        change(job, attempts=1)

        output = io.StringIO()
        with pytest.raises(CommandError, match="broken: invariant 8"):
            call_command("verify", stdout=output)

        assert "BROKEN" in output.getvalue()
        assert f"{job.job_id}: has 1 attempts, but the audit counts 0" in output.getvalue()

    def test_says_what_it_could_not_check_without_a_broker(self, settings, monkeypatch):
        settings.KAFKA_CLIENT = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
        monkeypatch.setattr("scheduling.adapters.topic_reader.REQUEST_SECONDS", 0.5)

        document, refusal = run_refused("--json", "--topic")

        assert document["ok"] is False
        for number in (1, 4, 5, 6):
            (violation,) = document["invariants"][number - 1]["violations"]
            assert violation["jobId"] is None
            assert violation["detail"].startswith("could not be checked")
        assert refusal.returncode == 1

    def test_refuses_an_instant_without_a_zone(self):
        with pytest.raises(CommandError, match="has no zone"):
            call_command("verify", "--since", "2026-01-01T00:00:00")


def run(*arguments):
    output = io.StringIO()
    call_command("verify", *arguments, stdout=output)
    return output.getvalue()


def run_refused(*arguments):
    output = io.StringIO()
    with pytest.raises(CommandError) as refusal:
        call_command("verify", *arguments, stdout=output)
    return json.loads(output.getvalue()), refusal.value
