import uuid
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from scheduling.models import ScheduledTransition
from tests.support.histories import (
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    RUNNING,
    SCHEDULED,
    UNPROVEN,
    make_job,
)

HOUR = timedelta(hours=1)
# Constraint, past, and the columns that break it.
BREACHES = [
    ("transition_status_known", FAILED, {"status": "paused"}),
    ("transition_status_known", FAILED, {"status": "FAILED"}),
    ("transition_status_known", FAILED, {"status": ""}),
    ("transition_state_known", SCHEDULED, {"state": "start"}),
    ("transition_state_known", SCHEDULED, {"state": ""}),
    ("transition_final_iff_finalized", SCHEDULED, {"status": "cancelled"}),
    ("transition_final_iff_finalized", EXPIRED, {"status": "scheduled"}),
    ("transition_final_iff_finalized", FAILED, {"finalized_at": None}),
    ("transition_running_iff_claimed", SCHEDULED, {"status": "running"}),
    ("transition_running_iff_claimed", SCHEDULED, {"claim_token": uuid.uuid4()}),
    ("transition_running_iff_claimed", RUNNING, {"claim_token": None}),
    ("transition_running_iff_claimed", RUNNING, {"lease_until": None}),
    ("transition_running_iff_claimed", RUNNING, {"started_at": None}),
    ("transition_running_iff_claimed", RUNNING, {"status": "scheduled"}),
    ("transition_completed_has_position", COMPLETED, {"completed_at": None}),
    ("transition_completed_has_position", COMPLETED, {"topic_partition": None}),
    ("transition_completed_has_position", COMPLETED, {"topic_offset": None}),
    ("transition_completed_has_position", FAILED, {"status": "completed"}),
    ("transition_attempts_bounded", FAILED, {"attempts": 5}),
]


def change(job, **columns):
    with transaction.atomic():
        ScheduledTransition.objects.filter(pk=job.pk).update(**columns)


@pytest.mark.django_db
class TestConstraints:
    @pytest.mark.parametrize(("name", "history", "columns"), BREACHES)
    def test_the_database_refuses_a_row_that_breaks_a_rule(
        self, now, name, history, columns
    ):
        job = make_job(history, now=now)

        # An unknown status breaks two rules; either may be named.
        named = name.replace("status_known", "(status_known|final_iff_finalized)")
        with pytest.raises(IntegrityError, match=named):
            change(job, **columns)

    def test_nothing_is_ready_before_its_instant(self, now):
        job = make_job(now=now)

        with pytest.raises(IntegrityError, match="transition_never_early"):
            change(job, ready_at=job.due_at - timedelta(milliseconds=1))

    def test_unless_an_operator_demanded_it(self, now):
        job = make_job(now=now)

        change(job, ready_at=now, forced_at=now)

    def test_every_check_is_tried_here(self):
        checks = {
            constraint.name
            for constraint in ScheduledTransition._meta.constraints
            if hasattr(constraint, "condition") and not hasattr(constraint, "fields")
        }

        assert checks == {name for name, *_ in BREACHES} | {"transition_never_early"}

    def test_a_job_id_names_one_job(self, now):
        job = make_job(now=now)

        with pytest.raises(IntegrityError), transaction.atomic():
            make_job(CANCELLED, now=now, job_id=job.job_id)

    @pytest.mark.parametrize("first", [SCHEDULED, RUNNING])
    @pytest.mark.parametrize("second", [SCHEDULED, RUNNING])
    def test_an_identity_has_one_live_job(self, now, first, second):
        same = {"project_id": "1", "phase_id": "2"}
        make_job(first, now=now, **same)

        with pytest.raises(IntegrityError), transaction.atomic():
            make_job(second, now=now, **same)

    @pytest.mark.parametrize("past", [COMPLETED, FAILED, CANCELLED, EXPIRED])
    def test_and_any_number_of_past_ones(self, now, past):
        same = {"project_id": "1", "phase_id": "2"}

        for history in (past, past, SCHEDULED):
            make_job(history, now=now, **same)

        assert ScheduledTransition.objects.count() == 3

    def test_a_past_job_can_not_come_back_beside_a_live_one(self, now):
        same = {"project_id": "1", "phase_id": "2"}
        past = make_job(EXPIRED, now=now, **same)
        make_job(now=now, **same)

        with pytest.raises(IntegrityError):
            change(past, status="scheduled", finalized_at=None)

    @pytest.mark.parametrize(
        "other", [{"project_id": "9"}, {"phase_id": "9"}, {"state": "START"}]
    )
    def test_another_identity_is_no_obstacle(self, now, other):
        same = {"project_id": "1", "phase_id": "2"}
        make_job(now=now, **same)

        make_job(now=now, **same | other)

        assert ScheduledTransition.objects.live().count() == 2


@pytest.mark.django_db
class TestQuerySets:
    def test_live_is_scheduled_and_running(self, now):
        live = {make_job(history, now=now).pk for history in (SCHEDULED, RUNNING, UNPROVEN)}
        for history in (COMPLETED, FAILED, CANCELLED, EXPIRED):
            make_job(history, now=now)

        rows = ScheduledTransition.objects.live()

        assert {row.pk for row in rows} == live
        assert all(row.is_live for row in rows)

    def test_overdue_is_live_and_past_its_instant(self, now):
        late = {
            make_job(history, now=now, due_in=-1).pk for history in (SCHEDULED, RUNNING)
        }
        make_job(now=now, due_at=now)
        make_job(COMPLETED, now=now, due_in=-1)

        assert {row.pk for row in ScheduledTransition.objects.overdue(now=now)} == late

    def test_too_old_is_scheduled_beyond_the_horizon_and_not_demanded(self, now):
        old = make_job(now=now, due_at=now - HOUR - timedelta(milliseconds=1))
        make_job(now=now, due_at=now - HOUR)
        make_job(now=now, due_at=now - 2 * HOUR, forced_at=now)
        make_job(RUNNING, now=now, due_at=now - 2 * HOUR)

        rows = ScheduledTransition.objects.too_old(horizon=now - HOUR)

        assert [row.pk for row in rows] == [old.pk]

    def test_of_identity_is_live_and_past(self, now):
        same = {"project_id": "1", "phase_id": "2"}
        jobs = [make_job(history, now=now, **same) for history in (COMPLETED, SCHEDULED)]
        make_job(now=now, **same, state="START")

        rows = ScheduledTransition.objects.of_identity("1", "2", "END")

        assert {row.pk for row in rows} == {job.pk for job in jobs}


@pytest.mark.django_db
class TestValues:
    def test_holds_every_column(self, now):
        job = make_job(COMPLETED, now=now)

        assert job.values() == ScheduledTransition.objects.values().get()
