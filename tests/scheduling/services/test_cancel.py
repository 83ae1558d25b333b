from datetime import timedelta

import pytest

from scheduling.domain.actors import RECOVERY
from scheduling.domain.errors import (
    InvalidRequestError,
    JobNotCancellableError,
    JobNotFoundError,
    OperationNotPermittedError,
    ServiceUnavailableError,
)
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import Challenge, Phase, ScheduledTransition
from scheduling.services.cancel import cancel_scheduled, cancel_transition
from scheduling.services.retry import retry_transition
from tests.support.histories import (
    ALL,
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    FAILED_UNPROVEN,
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
def cancel(operator, now):
    """Cancel a job and return it as the service does."""

    def make(job, *, reason="no longer wanted", actor=operator):
        return cancel_transition(job_id=job.job_id, actor=actor, reason=reason, now=now)

    return make


@pytest.mark.django_db
class TestCancelTransition:
    @pytest.mark.parametrize("history", [SCHEDULED, FAILED, EXPIRED])
    def test_cancels_what_is_scheduled_failed_or_expired(self, cancel, now, history):
        job = make_job(history, now=now)

        returned = cancel(job)

        stored = columns(job)
        old, new = audit_of(job.job_id)[-2:]
        assert returned.status == stored["status"] == "cancelled"
        assert stored["finalized_at"] == stored["updated_at"] == now
        assert stored["next_attempt_at"] is None
        assert (new.action, new.new_status) == ("transition.cancelled", "cancelled")
        assert (new.actor, new.reason) == ("user:olivia", "no longer wanted")
        assert new.old_status == old.new_status == history[-1][1]

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED, CANCELLED])
    def test_refuses_what_is_running_completed_or_cancelled(self, cancel, now, history):
        job = make_job(history, now=now)
        before = state_of(job)

        with pytest.raises(JobNotCancellableError) as caught:
            cancel(job)

        assert caught.value.values["status"] == history[-1][1]
        assert state_of(job) == before

    def test_refuses_a_failed_job_that_was_retried(self, cancel, now, operator):
        job = make_job(FAILED, now=now)
        retry_transition(job_id=job.job_id, actor=operator, reason="again", now=now)
        before = state_of(job)

        with pytest.raises(JobNotCancellableError, match="was replaced by"):
            cancel(job)

        assert state_of(job) == before

    @pytest.mark.parametrize(
        "reason", ["", " \n", None, "x" * 2001, "a\x00", "\ud800", 5, ["x"]]
    )
    def test_demands_a_reason(self, cancel, now, reason):
        job = make_job(now=now)
        before = state_of(job)

        with pytest.raises(InvalidRequestError, match="reason"):
            cancel(job, reason=reason)

        assert state_of(job) == before

    def test_keeps_a_reason_of_two_thousand_characters(self, cancel, now):
        job = make_job(now=now)

        cancel(job, reason="😀" * 2000)

        assert audit_of(job.job_id)[-1].reason == "😀" * 2000

    def test_says_so_when_there_is_no_such_job(self, operator, now):
        with pytest.raises(JobNotFoundError):
            cancel_transition(job_id="job-1-2-3", actor=operator, reason="x", now=now)

    @pytest.mark.parametrize("status", TransitionStatus)
    def test_a_viewer_changes_nothing(self, cancel, now, viewer, status):
        job = make_job(ALL[status], now=now)
        before = state_of(job)

        with pytest.raises(OperationNotPermittedError):
            cancel(job, actor=viewer)

        assert state_of(job) == before

    def test_remembers_that_a_person_decided_and_what_upstream_showed(self, cancel, now):
        job = make_job(now=now, upstream_at=now + timedelta(hours=3))

        cancel(job)

        stored = columns(job)
        assert stored["is_overridden"] is True
        assert stored["upstream_at"] == now + timedelta(hours=3)

    @pytest.mark.parametrize("state", ["START", "END"])
    def test_takes_what_was_last_read_where_upstream_never_asked(self, cancel, now, state):
        challenge = Challenge.objects.create(
            challenge_id="7", project_id="12345", status="ACTIVE"
        )
        Phase.objects.create(
            challenge=challenge,
            phase_id="67890",
            name="Registration",
            scheduled_start_at=now + timedelta(hours=5),
            scheduled_end_at=now + timedelta(hours=6),
        )
        job = make_job(now=now, state=state, project_id="12345", phase_id="67890")

        cancel(job)

        hours = {"START": 5, "END": 6}[state]
        assert columns(job)["upstream_at"] == now + timedelta(hours=hours)

    def test_takes_the_due_instant_where_nothing_was_read(self, cancel, now):
        job = make_job(now=now)

        cancel(job)

        assert columns(job)["upstream_at"] == job.due_at

    def test_an_automatism_is_no_override(self, cancel, now):
        job = make_job(now=now)

        cancel(job, actor=RECOVERY)

        stored = columns(job)
        assert stored["is_overridden"] is False
        assert stored["upstream_at"] is None


@pytest.mark.django_db
class TestCancelOfUnknownOutcome:
    @pytest.mark.parametrize("history", [UNPROVEN, FAILED_UNPROVEN])
    def test_completes_what_is_found_on_the_topic(self, cancel, now, kafka, history):
        job = make_job(history, now=now, due_in=-1)
        put_event(job, at=now)

        with pytest.raises(JobNotCancellableError) as caught:
            cancel(job)

        stored = columns(job)
        assert caught.value.values["status"] == "completed"
        assert stored["status"] == "completed"
        assert stored["completed_at"] == now
        assert stored["lateness_ms"] == 1000.0
        assert stored["topic_partition"] is not None
        assert stored["topic_offset"] is not None
        assert stored["unproven_since"] is None
        assert stored["last_error"] == ""
        last = audit_of(job.job_id)[-1]
        assert (last.action, last.actor) == ("transition.completed", "system:scheduler")
        assert chain_breaks(job.job_id) == []

    @pytest.mark.parametrize("history", [UNPROVEN, FAILED_UNPROVEN])
    def test_cancels_what_is_not_there(self, cancel, now, kafka, history):
        other = make_job(UNPROVEN, now=now)
        put_event(other, at=now)
        job = make_job(history, now=now)

        cancel(job)

        stored = columns(job)
        assert stored["status"] == "cancelled"
        assert stored["unproven_since"] is None
        assert chain_breaks(job.job_id) == []

    def test_changes_nothing_while_the_topic_can_not_be_searched(
        self, cancel, now, settings
    ):
        job = make_job(UNPROVEN, now=now)
        before = state_of(job)
        cut_off(settings)

        with pytest.raises(ServiceUnavailableError) as caught:
            cancel(job)

        assert caught.value.code == "service_unavailable"
        assert caught.value.retry_after_seconds > 0
        assert state_of(job) == before

    @pytest.mark.parametrize("history", [SCHEDULED, FAILED, EXPIRED])
    def test_needs_no_broker_where_the_outcome_is_known(
        self, cancel, now, settings, history
    ):
        job = make_job(history, now=now)
        cut_off(settings)

        assert cancel(job).status == "cancelled"

    def test_needs_no_broker_to_refuse_a_retried_job(self, cancel, now, settings):
        job = make_job(FAILED_UNPROVEN, now=now, replaced_by="job-1-2-3")
        before = state_of(job)
        cut_off(settings)

        with pytest.raises(JobNotCancellableError):
            cancel(job)

        assert state_of(job) == before


@pytest.mark.django_db
class TestCancelScheduled:
    def test_takes_the_scheduled_and_leaves_the_rest_alone(self, now):
        scheduled = [make_job(now=now), make_job(now=now)]
        others = [
            make_job(history, now=now)
            for history in (RUNNING, UNPROVEN, COMPLETED, FAILED, CANCELLED, EXPIRED)
        ]
        before = [state_of(job) for job in others]

        cancelled = cancel_scheduled(
            [*others, *scheduled], actor=RECOVERY, reason="the challenge is over", now=now
        )

        assert cancelled == [job.job_id for job in scheduled]
        assert {columns(job)["status"] for job in scheduled} == {"cancelled"}
        assert [state_of(job) for job in others] == before
        assert audit_of(scheduled[0].job_id)[-1].reason == "the challenge is over"

    def test_returns_nothing_for_nothing(self, now):
        jobs = ScheduledTransition.objects.none()
        assert cancel_scheduled(jobs, actor=RECOVERY, reason="x", now=now) == []
