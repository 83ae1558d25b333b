from datetime import UTC, datetime, timedelta

import pytest

from scheduling.domain.errors import (
    InvalidRequestError,
    JobNotFoundError,
    JobNotRetryableError,
    OperationNotPermittedError,
    ServiceUnavailableError,
)
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import ScheduledTransition
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
from tests.support.threads import run_together
from tests.support.topic import cut_off, put_event


@pytest.fixture
def retry(operator, now):
    """Retry a job and return the new one."""

    def make(job, *, reason="the broker is mended", actor=operator):
        return retry_transition(job_id=job.job_id, actor=actor, reason=reason, now=now)

    return make


@pytest.mark.django_db
class TestRetryTransition:
    def test_makes_a_new_job_with_the_same_event_that_is_ready_at_once(self, retry, now):
        failed_at = now - timedelta(minutes=10)
        old = make_job(
            FAILED,
            now=now,
            due_in=-900,
            challenge_id="7",
            metadata={"ä": [1]},
            date=datetime(2030, 1, 1, tzinfo=UTC),
            upstream_at=failed_at,
            is_overridden=True,
            max_attempts=4,
        )

        returned = retry(old)

        was, new = columns(old), columns(returned)
        assert new["status"] == "scheduled"
        assert new["event_id"] == was["event_id"]
        assert new["event_at"] == was["event_at"]
        assert new["due_at"] == was["due_at"]
        assert new["ready_at"] == new["forced_at"] == now
        assert (new["attempts"], new["max_attempts"]) == (0, 4)
        assert new["replaces"] == old.job_id
        # The topic is searched before the record is produced again.
        assert new["unproven_since"] is not None
        kept = [
            "project_id",
            "phase_id",
            "state",
            "challenge_id",
            "key",
            "phase_type_name",
            "project_status",
            "operator",
            "metadata",
            "date",
            "upstream_at",
            "is_overridden",
        ]
        assert {name: new[name] for name in kept} == {name: was[name] for name in kept}

    def test_leaves_the_old_job_failed_and_says_what_replaced_it(self, retry, now):
        old = make_job(FAILED, now=now)
        before = columns(old)

        new = retry(old)

        assert columns(old) == before | {"replaced_by": new.job_id, "updated_at": now}

    def test_leaves_an_entry_on_each_job(self, retry, now):
        old = make_job(FAILED, now=now)

        new = retry(old)

        last = audit_of(old.job_id)[-1]
        (first,) = audit_of(new.job_id)
        assert (last.action, last.actor) == ("transition.retried", "user:olivia")
        assert (last.old_status, last.new_status) == ("failed", "failed")
        assert last.changes == {"replacedBy": new.job_id}
        assert first.action == "transition.scheduled"
        assert first.changes["replaces"] == old.job_id
        assert first.changes["eventId"] == str(old.event_id)
        assert first.reason == last.reason == "the broker is mended"
        assert chain_breaks(old.job_id) == chain_breaks(new.job_id) == []

    def test_refuses_a_second_retry(self, retry, now):
        old = make_job(FAILED, now=now)
        new = retry(old)
        before = state_of(old)

        with pytest.raises(JobNotRetryableError, match="was replaced by"):
            retry(old)

        assert state_of(old) == before
        assert columns(new)["status"] == "scheduled"

    @pytest.mark.parametrize(
        "history", [SCHEDULED, RUNNING, COMPLETED, CANCELLED, EXPIRED, UNPROVEN]
    )
    def test_refuses_what_has_not_failed(self, retry, now, history, kafka):
        job = make_job(history, now=now)
        before = state_of(job)

        with pytest.raises(JobNotRetryableError) as caught:
            retry(job)

        assert caught.value.values["status"] == history[-1][1]
        assert state_of(job) == before

    def test_refuses_where_the_transition_is_live_again(self, retry, now):
        same = {"project_id": "1", "phase_id": "2"}
        job = make_job(FAILED, now=now, **same)
        make_job(SCHEDULED, now=now, **same)
        before = state_of(job)

        with pytest.raises(JobNotRetryableError, match="another job"):
            retry(job)

        assert state_of(job) == before

    def test_asks_again_when_its_new_job_id_was_just_taken(self, retry, now, monkeypatch):
        old = make_job(FAILED, now=now, project_id="1", phase_id="2")
        millisecond = round(now.timestamp() * 1000)
        make_job(
            now=now,
            project_id="1",
            phase_id="2",
            state="START",
            job_id=f"job-{millisecond}-1-2",
        )
        looks = []

        def look_too_early(jobs):
            looks.append(jobs)
            if len(looks) > 1:
                jobs[0].job_id += "-2"

        monkeypatch.setattr("scheduling.services.retry.make_job_ids_unique", look_too_early)
        new = retry(old)

        assert new.job_id == f"job-{millisecond}-1-2-2"
        assert columns(old)["replaced_by"] == new.job_id

    @pytest.mark.parametrize("reason", ["", "  ", None, "x" * 2001])
    def test_demands_a_reason(self, retry, now, reason):
        job = make_job(FAILED, now=now)
        before = state_of(job)

        with pytest.raises(InvalidRequestError, match="reason"):
            retry(job, reason=reason)

        assert state_of(job) == before

    def test_says_so_when_there_is_no_such_job(self, operator, now):
        with pytest.raises(JobNotFoundError):
            retry_transition(job_id="job-1-2-3", actor=operator, reason="x", now=now)

    @pytest.mark.parametrize("status", TransitionStatus)
    def test_a_viewer_changes_nothing(self, retry, now, viewer, status):
        job = make_job(ALL[status], now=now)
        before = state_of(job)

        with pytest.raises(OperationNotPermittedError):
            retry(job, actor=viewer)

        assert state_of(job) == before
        assert ScheduledTransition.objects.count() == 1

    def test_completes_what_is_found_on_the_topic(self, retry, now, kafka):
        job = make_job(FAILED_UNPROVEN, now=now)
        put_event(job, at=now)

        with pytest.raises(JobNotRetryableError):
            retry(job)

        assert columns(job)["status"] == "completed"
        assert chain_breaks(job.job_id) == []
        assert ScheduledTransition.objects.count() == 1

    def test_retries_what_is_not_there(self, retry, now, kafka):
        since = now - timedelta(minutes=3)
        job = make_job(FAILED_UNPROVEN, now=now, unproven_since=since)

        new = retry(job)

        assert columns(new)["unproven_since"] == since
        assert columns(job)["status"] == "failed"

    def test_changes_nothing_while_the_topic_can_not_be_searched(
        self, retry, now, settings
    ):
        job = make_job(FAILED_UNPROVEN, now=now)
        before = state_of(job)
        cut_off(settings)

        with pytest.raises(ServiceUnavailableError):
            retry(job)

        assert state_of(job) == before

    def test_needs_no_broker_where_the_outcome_is_known(self, retry, now, settings):
        job = make_job(FAILED, now=now)
        cut_off(settings)

        assert retry(job).status == "scheduled"


@pytest.mark.django_db(transaction=True)
class TestRetryInRaces:
    def test_of_many_who_retry_one_job_one_makes_the_new_one(self, retry, now):
        job = make_job(FAILED, now=now)

        results = run_together(20, lambda _: retry(job))

        made = [one for one in results if isinstance(one, ScheduledTransition)]
        refused = [one for one in results if isinstance(one, JobNotRetryableError)]
        assert (len(made), len(refused)) == (1, 19)
        assert ScheduledTransition.objects.live().count() == 1
        assert columns(job)["replaced_by"] == made[0].job_id
