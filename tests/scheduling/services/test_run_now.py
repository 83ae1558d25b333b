from datetime import timedelta

import pytest

from scheduling.domain.errors import (
    InvalidRequestError,
    JobNotFoundError,
    JobNotRunnableError,
    OperationNotPermittedError,
    ServiceUnavailableError,
)
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.services.run_now import run_transition_now
from tests.support.histories import (
    ALL,
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    RUNNING,
    SCHEDULED,
    UNPROVEN,
    audit_of,
    chain_breaks,
    columns,
    make_job,
    state_of,
)
from tests.support.topic import cut_off, put_event


@pytest.fixture
def run_now(operator, now):
    """Demand a job now and return what the service returns."""

    def make(job, *, reason="the client waits", actor=operator):
        return run_transition_now(job_id=job.job_id, actor=actor, reason=reason, now=now)

    return make


@pytest.mark.django_db
class TestRunTransitionNow:
    @pytest.mark.parametrize("history", [SCHEDULED, EXPIRED])
    def test_makes_it_ready_at_once_and_keeps_its_instant(self, run_now, now, history):
        job = make_job(history, now=now, due_in=-300_000 if history is EXPIRED else 3600)

        returned = run_now(job)

        stored = columns(job)
        assert returned.status == stored["status"] == "scheduled"
        assert stored["ready_at"] == stored["forced_at"] == stored["event_at"] == now
        assert stored["due_at"] == job.due_at
        assert stored["event_id"] == job.event_id
        assert stored["finalized_at"] is None
        last = audit_of(job.job_id)[-1]
        assert (last.action, last.actor) == ("transition.run_now", "user:olivia")
        assert (last.old_status, last.new_status) == (history[-1][1], "scheduled")
        assert last.changes == {"readyAt": format_instant(now)}
        assert last.reason == "the client waits"
        assert chain_breaks(job.job_id) == []

    def test_ends_the_wait_for_the_next_attempt(self, run_now, now):
        later = now + timedelta(minutes=4)
        job = make_job(
            now=now, due_in=-60, attempts=1, next_attempt_at=later, ready_at=later
        )

        run_now(job)

        assert columns(job)["ready_at"] == now
        assert columns(job)["next_attempt_at"] is None

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED, FAILED, CANCELLED])
    def test_refuses_what_is_neither_scheduled_nor_expired(self, run_now, now, history):
        job = make_job(history, now=now)
        before = state_of(job)

        with pytest.raises(JobNotRunnableError) as caught:
            run_now(job)

        assert caught.value.values["status"] == history[-1][1]
        assert state_of(job) == before

    @pytest.mark.parametrize("rival", [SCHEDULED, RUNNING])
    def test_refuses_an_expired_job_whose_transition_is_live_again(
        self, run_now, now, rival
    ):
        same = {"project_id": "1", "phase_id": "2"}
        job = make_job(EXPIRED, now=now, **same)
        make_job(rival, now=now, **same)
        before = state_of(job)

        with pytest.raises(JobNotRunnableError, match="another job"):
            run_now(job)

        assert state_of(job) == before

    @pytest.mark.parametrize("reason", ["", "  ", None, "x" * 2001])
    def test_demands_a_reason(self, run_now, now, reason):
        job = make_job(now=now)
        before = state_of(job)

        with pytest.raises(InvalidRequestError, match="reason"):
            run_now(job, reason=reason)

        assert state_of(job) == before

    def test_says_so_when_there_is_no_such_job(self, operator, now):
        with pytest.raises(JobNotFoundError):
            run_transition_now(job_id="job-1-2-3", actor=operator, reason="x", now=now)

    @pytest.mark.parametrize("status", TransitionStatus)
    def test_a_viewer_changes_nothing(self, run_now, now, viewer, status):
        job = make_job(ALL[status], now=now)
        before = state_of(job)

        with pytest.raises(OperationNotPermittedError):
            run_now(job, actor=viewer)

        assert state_of(job) == before

    def test_completes_what_is_found_on_the_topic(self, run_now, now, kafka):
        job = make_job(UNPROVEN, now=now)
        put_event(job, at=now)

        with pytest.raises(JobNotRunnableError):
            run_now(job)

        assert columns(job)["status"] == "completed"

    def test_runs_what_is_not_there(self, run_now, now, kafka):
        job = make_job(UNPROVEN, now=now)

        run_now(job)

        assert columns(job)["status"] == "scheduled"
        assert columns(job)["forced_at"] == now
        assert columns(job)["unproven_since"] is None

    def test_changes_nothing_while_the_topic_can_not_be_searched(
        self, run_now, now, settings
    ):
        job = make_job(UNPROVEN, now=now)
        before = state_of(job)
        cut_off(settings)

        with pytest.raises(ServiceUnavailableError):
            run_now(job)

        assert state_of(job) == before

    @pytest.mark.parametrize("history", [SCHEDULED, EXPIRED])
    def test_needs_no_broker_where_the_outcome_is_known(
        self, run_now, now, settings, history
    ):
        job = make_job(history, now=now)
        cut_off(settings)

        assert run_now(job).status == "scheduled"
