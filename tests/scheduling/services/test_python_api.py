from datetime import UTC, datetime, timedelta

import pytest

from scheduling.domain.errors import (
    DuplicateJobError,
    InvalidPhaseDataError,
    InvalidRequestError,
    InvalidScheduleTimeError,
    JobNotFoundError,
    JobNotUpdatableError,
    OperationNotPermittedError,
)
from scheduling.domain.phases import read_phase_data
from scheduling.models import ScheduledTransition
from scheduling.services import (
    cancel_scheduled_transition,
    get_all_scheduled_transitions,
    schedule_phase_transition,
    update_scheduled_transition,
)
from tests.support.histories import COMPLETED, RUNNING, columns, make_job, state_of


@pytest.mark.django_db
class TestSchedulePhaseTransition:
    def test_returns_the_job_id_for_a_mapping_and_for_the_dataclass(
        self, phase_data, operator
    ):
        first = schedule_phase_transition(phase_data(), actor=operator)
        second = schedule_phase_transition(read_phase_data(phase_data()), actor=operator)

        job = ScheduledTransition.objects.get()
        assert first == second == job.job_id
        assert datetime.now(UTC) - job.created_at < timedelta(seconds=30)

    def test_names_the_live_job_when_the_instant_is_another(self, phase_data, operator):
        job_id = schedule_phase_transition(phase_data(), actor=operator)

        with pytest.raises(DuplicateJobError) as caught:
            schedule_phase_transition(phase_data(due_in=7200), actor=operator)

        assert caught.value.job_id == job_id

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"projectId": "1"}, InvalidPhaseDataError),
            ({"surprise": 1}, InvalidPhaseDataError),
            ({"endTime": "2030-01-31"}, InvalidScheduleTimeError),
        ],
    )
    def test_refuses_what_it_can_not_understand(self, phase_data, operator, fields, error):
        with pytest.raises(error) as caught:
            schedule_phase_transition(phase_data(**fields), actor=operator)

        assert caught.value.category == "validation"

    def test_refuses_a_viewer(self, phase_data, viewer):
        with pytest.raises(OperationNotPermittedError):
            schedule_phase_transition(phase_data(), actor=viewer)

        assert not ScheduledTransition.objects.exists()


@pytest.mark.django_db
class TestCancelScheduledTransition:
    def test_tells_whether_it_cancelled(self, now, operator):
        job = make_job(now=now)
        cancel = {"actor": operator, "reason": "x"}

        assert cancel_scheduled_transition(job.job_id, **cancel) is True
        assert cancel_scheduled_transition(job.job_id, **cancel) is False
        assert cancel_scheduled_transition("job-1-2-3", **cancel) is False
        assert columns(job)["status"] == "cancelled"

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED])
    def test_is_false_for_what_can_no_longer_be_cancelled(self, now, operator, history):
        job = make_job(history, now=now)

        assert not cancel_scheduled_transition(job.job_id, actor=operator, reason="x")

    def test_raises_what_the_caller_did_wrong(self, now, operator, viewer):
        job = make_job(now=now)
        before = state_of(job)

        with pytest.raises(InvalidRequestError):
            cancel_scheduled_transition(job.job_id, actor=operator, reason=" ")
        with pytest.raises(OperationNotPermittedError):
            cancel_scheduled_transition(job.job_id, actor=viewer, reason="x")

        assert state_of(job) == before


@pytest.mark.django_db
class TestUpdateScheduledTransition:
    def test_returns_the_new_job_id(self, phase_data, operator):
        old = schedule_phase_transition(phase_data(), actor=operator)

        new = update_scheduled_transition(old, phase_data(due_in=7200), actor=operator)

        assert new != old
        assert ScheduledTransition.objects.get(job_id=old).replaced_by == new
        assert ScheduledTransition.objects.live().get().job_id == new

    def test_returns_the_same_id_when_nothing_differs(self, phase_data, operator):
        old = schedule_phase_transition(phase_data(), actor=operator)

        assert update_scheduled_transition(old, phase_data(), actor=operator) == old

    def test_raises_what_stands_in_the_way(self, phase_data, operator, viewer, now):
        job = make_job(RUNNING, now=now, project_id="12345", phase_id="67890")
        before = state_of(job)

        with pytest.raises(JobNotUpdatableError):
            update_scheduled_transition(job.job_id, phase_data(), actor=operator)
        with pytest.raises(JobNotFoundError):
            update_scheduled_transition("job-1-2-3", phase_data(), actor=operator)
        with pytest.raises(OperationNotPermittedError):
            update_scheduled_transition(job.job_id, phase_data(), actor=viewer)

        assert state_of(job) == before


@pytest.mark.django_db
class TestGetAllScheduledTransitions:
    def test_returns_live_transitions_in_due_order(self, now):
        later = make_job(now=now, due_in=7200)
        running = make_job(RUNNING, now=now, due_in=-1)
        make_job(COMPLETED, now=now)

        shown = get_all_scheduled_transitions()

        assert [one["jobId"] for one in shown] == [running.job_id, later.job_id]

    def test_filters_by_what_it_is_told(self, now):
        make_job(now=now)
        done = make_job(COMPLETED, now=now, project_id="5")

        assert [
            one["jobId"] for one in get_all_scheduled_transitions(status="completed")
        ] == [done.job_id]
        assert get_all_scheduled_transitions(project_id=5) == []

    def test_names_a_filter_that_does_not_exist(self):
        with pytest.raises(InvalidRequestError, match="projectID"):
            get_all_scheduled_transitions(projectID=5)
