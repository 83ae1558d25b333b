import json
import random
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from scheduling.domain.errors import (
    DuplicateJobError,
    InvalidPhaseDataError,
    JobNotCancellableError,
    JobNotFoundError,
    JobNotRunnableError,
    JobNotUpdatableError,
    OperationNotPermittedError,
    PastScheduleTimeError,
    ScheduleTooFarError,
    ScheduleTooSoonError,
    SchedulingError,
)
from scheduling.domain.phases import format_instant, read_phase_data
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services import schedule as scheduling
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import clean_up
from scheduling.services.run_now import run_transition_now
from scheduling.services.schedule import Scheduled, schedule_many, schedule_transition
from scheduling.services.update import Update, update_transition
from tests.support.histories import (
    COMPLETED,
    FAILED,
    RUNNING,
    audit_of,
    chain_breaks,
    columns,
    make_job,
)
from tests.support.threads import run_together

LOWER = "0b4de5f1-7a6c-4f0e-9d3b-2f1c5a6b7c8d"
RACERS = 50


def milliseconds(number):
    return timedelta(milliseconds=number)


@pytest.fixture
def schedule(phase_data, operator, now):
    """Schedule phase data in an hour, with what is given, and return the result."""

    def make(**fields):
        at = fields.pop("at", now)
        return schedule_transition(phase_data(**fields), actor=operator, now=at)

    return make


@pytest.mark.django_db
class TestScheduleTransition:
    def test_makes_a_row_that_holds_all_that_was_said(self, schedule, now):
        scheduled = schedule(
            phaseId=LOWER.upper(),
            challengeId=77,
            metadata={"ä": ["😀", None]},
            date="2030-01-01T00:00:00Z",
        )

        job = ScheduledTransition.objects.get()
        due_at = now + timedelta(hours=1)
        assert scheduled.is_new
        assert scheduled.job.job_id == job.job_id
        assert job.job_id == f"job-{round(now.timestamp() * 1000)}-12345-{LOWER}"
        assert (job.project_id, job.phase_id, job.challenge_id) == ("12345", LOWER, "77")
        assert (job.phase_type_name, job.state) == ("Registration", "END")
        assert (job.operator, job.project_status) == ("admin", "ACTIVE")
        assert job.metadata == {"ä": ["😀", None]}
        assert job.date == datetime(2030, 1, 1, tzinfo=UTC)
        assert job.key == "77"
        assert job.due_at == job.event_at == job.ready_at == due_at
        assert (job.status, job.attempts, job.max_attempts) == ("scheduled", 0, 4)
        assert job.created_at == job.updated_at == now
        assert job.upstream_at is None
        assert not job.is_overridden

    def test_orders_by_project_where_there_is_no_challenge(self, schedule):
        assert schedule().job.key == "12345"

    def test_leaves_one_audit_entry_that_names_the_actor(self, schedule, now, operator):
        job = schedule().job

        (entry,) = AuditEntry.objects.all()
        assert (entry.action, entry.job_id) == ("transition.scheduled", job.job_id)
        assert (entry.actor, entry.role) == ("user:olivia", "operator")
        assert (entry.old_status, entry.new_status) == ("", "scheduled")
        assert (entry.project_id, entry.phase_id, entry.state) == ("12345", "67890", "END")
        assert entry.at == now
        assert entry.changes == {
            "endTime": format_instant(job.due_at),
            "eventId": str(job.event_id),
        }

    def test_returns_the_live_job_when_it_is_the_same(self, schedule):
        first = schedule()

        second = schedule(phaseTypeName="Another name")

        assert not second.is_new
        assert second.job.job_id == first.job.job_id
        assert ScheduledTransition.objects.count() == AuditEntry.objects.count() == 1

    def test_keeps_to_the_millisecond_when_it_compares(self, schedule):
        first = schedule()

        with pytest.raises(DuplicateJobError):
            schedule(due_in=3600.001)

        assert ScheduledTransition.objects.get().job_id == first.job.job_id

    def test_names_the_live_job_when_the_instant_is_another(self, schedule):
        first = schedule()

        with pytest.raises(DuplicateJobError) as caught:
            schedule(due_in=7200)

        assert caught.value.job_id == first.job.job_id
        assert caught.value.code == "duplicate_job"
        assert f"due {format_instant(first.job.due_at)}" in caught.value.detail
        assert AuditEntry.objects.count() == 1

    def test_a_running_job_counts_as_live(self, schedule, now):
        job = make_job(RUNNING, now=now, project_id="12345", phase_id="67890")

        assert schedule().job.job_id == job.job_id
        with pytest.raises(DuplicateJobError):
            schedule(due_in=7200)

    def test_a_finished_job_is_no_obstacle(self, schedule, now):
        make_job(COMPLETED, now=now, project_id="12345", phase_id="67890")
        make_job(FAILED, now=now, project_id="12345", phase_id="67890")

        assert schedule().is_new

    def test_start_and_end_of_one_millisecond_get_different_ids(self, schedule):
        end, start = schedule().job, schedule(state="START").job

        assert start.job_id == f"{end.job_id}-2"

    def test_a_job_id_is_never_given_again(self, schedule, now, operator):
        first = schedule().job
        cancel_transition(job_id=first.job_id, actor=operator, reason="x", now=now)
        second = schedule().job
        cancel_transition(job_id=second.job_id, actor=operator, reason="x", now=now)
        assert clean_up(now=now + timedelta(days=2)) == 2

        third = schedule().job

        assert second.job_id == f"{first.job_id}-2"
        assert third.job_id == f"{first.job_id}-3"

    @pytest.mark.parametrize(
        ("ahead_ms", "error"),
        [
            (-1, PastScheduleTimeError),
            (0, PastScheduleTimeError),
            (1, ScheduleTooSoonError),
            (999, ScheduleTooSoonError),
            (1_000, None),
            (7_776_000_000, None),
            (7_776_000_001, ScheduleTooFarError),
        ],
    )
    def test_keeps_to_the_window(self, schedule, now, ahead_ms, error):
        due = format_instant(now + milliseconds(ahead_ms))

        if error is None:
            assert schedule(endTime=due).is_new
            return
        with pytest.raises(error) as caught:
            schedule(endTime=due)

        assert due in str(caught.value)
        assert not ScheduledTransition.objects.exists()
        assert not AuditEntry.objects.exists()

    def test_takes_the_past_where_that_is_allowed(self, schedule, now, settings):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"allow_past_scheduling": True}
        )

        job = schedule(due_in=-60).job
        near = schedule(due_in=0.5, state="START").job

        assert job.ready_at == now - timedelta(minutes=1)
        assert near.ready_at == now + milliseconds(500)
        with pytest.raises(ScheduleTooFarError):
            schedule(due_in=90 * 86_400 + 1, phaseId=1)

    def test_the_window_follows_its_settings(self, schedule, settings):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"min_schedule_advance": 10_000, "max_schedule_advance": 20_000}
        )

        with pytest.raises(ScheduleTooSoonError):
            schedule(due_in=9.999)
        with pytest.raises(ScheduleTooFarError):
            schedule(due_in=20.001)
        assert schedule(due_in=10).is_new

    def test_attempts_follow_max_retries(self, schedule, settings):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(update={"max_retries": 0})

        assert schedule().job.max_attempts == 1

    def test_can_store_what_lies_at_the_ends_of_every_range(self, schedule):
        job = schedule(
            projectId=2**53 - 1,
            phaseId=LOWER,
            challengeId=LOWER,
            phaseTypeName="😀" * 255,
            operator="x" * 255,
            projectStatus="é" * 255,
            metadata={"a": "x" * (65_536 - 9)},
            date="0001-01-01T00:00:00Z",
        ).job

        stored = columns(job)
        assert stored["phase_type_name"] == "😀" * 255
        assert format_instant(stored["date"]) == "0001-01-01T00:00:00.000Z"
        assert len(stored["metadata"]["a"]) == 65_527

    @pytest.mark.parametrize("taken", ["live", "job_ids"])
    def test_asks_again_when_another_writer_came_first(self, schedule, monkeypatch, taken):
        first = schedule(state="END" if taken == "live" else "START").job
        look = scheduling.find_standing
        looks = []

        def look_too_early(*asked):
            looks.append(asked)
            found = look(*asked)
            return found if len(looks) > 1 else found._replace(**{taken: {}})

        monkeypatch.setattr(scheduling, "find_standing", look_too_early)
        second = schedule()

        assert second.is_new is (taken == "job_ids")
        assert second.job.job_id == first.job_id + ("-2" if second.is_new else "")
        assert len(looks) > 1

    def test_a_viewer_changes_nothing(self, phase_data, viewer, now):
        with pytest.raises(OperationNotPermittedError):
            schedule_transition(phase_data(), actor=viewer, now=now)
        with pytest.raises(OperationNotPermittedError):
            schedule_many([phase_data()], actor=viewer, now=now)

        assert not ScheduledTransition.objects.exists()
        assert not AuditEntry.objects.exists()

    def test_changes_nothing_when_the_data_is_wrong(self, schedule):
        with pytest.raises(InvalidPhaseDataError):
            schedule(projectId="12345")

        assert not ScheduledTransition.objects.exists()


@pytest.mark.django_db
class TestScheduleMany:
    def test_each_item_stands_alone_and_errors_keep_their_place(
        self, phase_data, operator, now
    ):
        live = schedule_transition(phase_data(phaseId=1), actor=operator, now=now).job
        items = [
            phase_data(phaseId=2),
            phase_data(phaseId=0),
            phase_data(phaseId=1),
            phase_data(phaseId=1, due_in=7200),
            phase_data(phaseId=3, due_in=-1),
            "no phase data",
            phase_data(phaseId=2),
            phase_data(phaseId=2, due_in=7200),
            phase_data(phaseId=3),
        ]

        results = schedule_many(items, actor=operator, now=now)

        shown = [
            one.code if isinstance(one, SchedulingError) else one.is_new for one in results
        ]
        assert shown == [
            True,
            "invalid_phase_data",
            False,
            "duplicate_job",
            "past_schedule_time",
            "invalid_phase_data",
            False,
            "duplicate_job",
            True,
        ]
        assert results[2].job.job_id == results[3].job_id == live.job_id
        assert results[6].job.job_id == results[7].job_id == results[0].job.job_id
        assert ScheduledTransition.objects.count() == AuditEntry.objects.count() == 3

    def test_checks_what_was_built_by_hand_too(self, phase_data, operator, now):
        made = read_phase_data(phase_data())
        wrong = [
            {"phase_type_name": "a\0"},
            {"project_id": "abc"},
            {"metadata": {"a": float("nan")}},
            {"end_time": made.end_time.replace(tzinfo=None)},
        ]
        items = [replace(made, project_id=LOWER.upper()), replace(made, project_id=LOWER)]

        *refused, first, second = schedule_many(
            [*[replace(made, **fields) for fields in wrong], *items],
            actor=operator,
            now=now,
        )

        assert [one.code for one in refused] == [
            *["invalid_phase_data"] * 3,
            "invalid_schedule_time",
        ]
        assert first.is_new
        assert first.job.project_id == LOWER
        assert second.job is first.job

    def test_returns_nothing_for_nothing(self, operator, now):
        assert schedule_many([], actor=operator, now=now) == []

    def test_uses_few_statements_for_a_thousand_items(
        self, phase_data, operator, now, django_assert_max_num_queries
    ):
        items = [
            phase_data(phaseId=number // 2 + 1, state="START" if number % 2 else "END")
            for number in range(1_000)
        ]
        # PostgreSQL takes two COPYs, which are not counted; SQLite needs a statement
        # for every few dozen rows, since it limits the values of one.
        most = 12 if connection.vendor == "postgresql" else 80

        with django_assert_max_num_queries(most):
            results = schedule_many(items, actor=operator, now=now)

        assert all(one.is_new for one in results)
        ids = [one.job.job_id for one in results]
        assert len(set(ids)) == 1_000
        assert ids[1] == f"{ids[0]}-2"
        assert set(AuditEntry.objects.values_list("job_id", flat=True)) == set(ids)

    def test_uses_few_statements_when_every_plain_id_is_taken(
        self, phase_data, operator, now, django_assert_max_num_queries
    ):
        items = [phase_data(phaseId=number + 1) for number in range(200)]
        for _ in range(3):
            schedule_many(items, actor=operator, now=now)
            ScheduledTransition.objects.all().delete()

        with django_assert_max_num_queries(40):
            results = schedule_many(items, actor=operator, now=now)

        assert all(one.job.job_id.endswith("-4") for one in results)

    def test_inserts_in_one_order_so_that_two_batches_never_deadlock(
        self, phase_data, operator, now
    ):
        items = [phase_data(phaseId=number) for number in (5, 3, 9, 1)]

        results = schedule_many(items, actor=operator, now=now)

        rows = ScheduledTransition.objects.order_by("id")
        assert list(rows.values_list("phase_id", flat=True)) == ["1", "3", "5", "9"]
        assert [one.job.phase_id for one in results] == ["5", "3", "9", "1"]

    def test_more_than_one_chunk_comes_back_in_order(self, phase_data, operator, now):
        items = [phase_data(phaseId=number + 1) for number in range(1_001)]
        items.append(items[0])

        results = schedule_many(items, actor=operator, now=now)

        assert [one.job.phase_id for one in results[:1_001]] == [
            str(number + 1) for number in range(1_001)
        ]
        assert results[-1].job.job_id == results[0].job.job_id
        assert not results[-1].is_new

    def test_every_value_survives_the_way_into_the_table(self, phase_data, operator, now):
        odd = 'tab\tnewline\nreturn\rbackslash\\ quote" \\N \\. comma,😀\u2028\x01é'
        metadata = {odd: [odd, 1.5, -0.0, 2**60, True, None, {"": {}}]}

        (result,) = schedule_many(
            [phase_data(phaseTypeName=odd, operator="\\N", metadata=metadata)],
            actor=operator,
            now=now,
        )

        stored = columns(result.job)
        assert stored["phase_type_name"] == odd
        assert stored["operator"] == "\\N"
        assert json.dumps(stored["metadata"], sort_keys=True).replace("-0.0", "0.0") == (
            json.dumps(metadata, sort_keys=True).replace("-0.0", "0.0")
        )
        assert stored["event_id"] == result.job.event_id
        assert audit_of(result.job.job_id)[0].new_status == "scheduled"


@pytest.mark.django_db(transaction=True)
class TestScheduleInRaces:
    def test_of_many_who_schedule_one_identity_one_makes_the_job(
        self, phase_data, operator, now
    ):
        def work(index):
            data = phase_data(due_in=3600 + index % 5)
            return schedule_transition(data, actor=operator, now=now)

        results = run_together(RACERS, work)

        (live,) = ScheduledTransition.objects.all()
        assert AuditEntry.objects.count() == 1
        unexpected = [
            one for one in results if not isinstance(one, (Scheduled, DuplicateJobError))
        ]
        assert unexpected == []
        assert sum(isinstance(one, Scheduled) and one.is_new for one in results) == 1
        assert {
            one.job_id if isinstance(one, DuplicateJobError) else one.job.job_id
            for one in results
        } == {live.job_id}

    def test_start_and_end_in_one_millisecond_get_different_ids(
        self, phase_data, operator, now
    ):
        def work(index):
            data = phase_data(phaseId=index // 2 + 1, state=("START", "END")[index % 2])
            return schedule_transition(data, actor=operator, now=now)

        results = run_together(40, work)

        assert [one for one in results if not isinstance(one, Scheduled)] == []
        assert len({one.job.job_id for one in results}) == 40

    def test_bulks_in_opposite_orders_do_not_block_one_another(
        self, phase_data, operator, now
    ):
        items = [phase_data(phaseId=number + 1) for number in range(300)]

        def work(index):
            mine = items if index % 2 else items[::-1]
            return schedule_many(mine, actor=operator, now=now)

        results = run_together(6, work)

        assert [one for one in results if isinstance(one, Exception)] == []
        assert ScheduledTransition.objects.count() == AuditEntry.objects.count() == 300
        made = [one.job.job_id for result in results for one in result if one.is_new]
        assert len(made) == len(set(made)) == 300

    @pytest.mark.skipif(
        connection.vendor != "postgresql", reason="SQLite has one writer at a time"
    )
    def test_a_bulk_ends_though_others_are_faster_each_time(
        self, phase_data, operator, now, monkeypatch
    ):
        items = [phase_data(phaseId=number) for number in range(1, 21)]
        others = iter(items)
        look = scheduling.find_standing

        def look_too_early(*asked):
            found = look(*asked)
            run_together(
                1, lambda _: schedule_transition(next(others), actor=operator, now=now)
            )
            return found

        monkeypatch.setattr(scheduling, "find_standing", look_too_early)
        twins = [items[1], phase_data(phaseId=2, due_in=7200)]

        *results, same, later = schedule_many([*items, *twins], actor=operator, now=now)

        assert ScheduledTransition.objects.count() == AuditEntry.objects.count() == 20
        assert [one.is_new for one in results] == [False, False, *[True] * 18]
        jobs = ScheduledTransition.objects.in_bulk(field_name="job_id")
        assert [jobs[one.job.job_id].phase_id for one in results] == [
            str(number) for number in range(1, 21)
        ]
        assert same.job.job_id == later.job_id == results[1].job.job_id
        assert not same.is_new


class _Watch(threading.Thread):
    """Looks over and over whether an identity has more than one live job."""

    def __init__(self):
        super().__init__()
        self.stop = threading.Event()
        self.most = 0
        self.looks = 0

    def run(self):
        while not self.stop.wait(0.005):
            self.most = max(self.most, ScheduledTransition.objects.live().count())
            self.looks += 1
        connection.close()


@pytest.mark.django_db(transaction=True)
class TestMixedRace:
    SECONDS = 3
    EXPECTED = (
        DuplicateJobError,
        JobNotFoundError,
        JobNotUpdatableError,
        JobNotCancellableError,
        JobNotRunnableError,
    )

    @pytest.mark.parametrize("racers", [8, RACERS])
    def test_leaves_one_live_job_and_one_entry_for_each_change(  # noqa: C901
        self, phase_data, operator, racers
    ):
        changes, unexpected = [], []
        watch = _Watch()
        watch.start()

        def newest():
            rows = ScheduledTransition.objects.order_by("-id")
            return rows.values_list("job_id", flat=True).first() or "job-none"

        def schedule(index):
            data = phase_data(due_in=3600 + index)
            result = schedule_transition(data, actor=operator, now=datetime.now(UTC))
            return 1 if result.is_new else 0

        def update(index):
            due = datetime.now(UTC) + timedelta(seconds=7200 + index)
            update_transition(
                job_id=newest(),
                update=Update(end_time=due),
                actor=operator,
                now=datetime.now(UTC),
            )
            return 2

        def cancel(index):
            cancel_transition(
                job_id=newest(), actor=operator, reason="race", now=datetime.now(UTC)
            )
            return 1

        def run_now(index):
            run_transition_now(
                job_id=newest(), actor=operator, reason="race", now=datetime.now(UTC)
            )
            return 1

        verbs = [schedule, update, cancel, run_now]

        def work(index):
            end = time.monotonic() + self.SECONDS
            chance = random.Random(index)
            while time.monotonic() < end:
                try:
                    changes.append(chance.choice(verbs)(index))
                except self.EXPECTED:
                    continue
                except Exception as error:  # noqa: BLE001 -- the test judges it
                    unexpected.append(error)

        failures = run_together(racers, work)
        watch.stop.set()
        watch.join(10)

        assert unexpected == []
        assert set(failures) == {None}
        assert watch.looks > 10
        assert watch.most == 1
        jobs = ScheduledTransition.objects.values_list("job_id", flat=True)
        assert [line for job_id in jobs for line in chain_breaks(job_id)] == []
        for job in ScheduledTransition.objects.all():
            assert audit_of(job.job_id)[-1].new_status == job.status
        assert AuditEntry.objects.count() == sum(changes) > 10
