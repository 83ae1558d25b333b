"""POST transitions/{jobId}/run-now/ and …/retry/."""

from datetime import timedelta
from unittest.mock import patch

import pytest

from scheduling.domain.errors import ServiceUnavailableError
from scheduling.models import ScheduledTransition
from scheduling.services.clean_up import clean_up
from tests.scheduling.api.support import TRANSITIONS, assert_problem
from tests.support.histories import (
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    RUNNING,
    SCHEDULED,
    audit_of,
    make_job,
    state_of,
)

pytestmark = pytest.mark.django_db
# Verb, a past that it starts from, and the code of its refusal.
RUN_NOW = ("run-now", SCHEDULED, "job_not_runnable")
RETRY = ("retry", FAILED, "job_not_retryable")
BOTH = pytest.mark.parametrize(("verb", "start", "code"), [RUN_NOW, RETRY])


def override(client, verb, job_id, data=None, **options):
    data = {"reason": "it must be"} if data is None else data
    path = f"{TRANSITIONS}{job_id}/{verb}/"
    return client.post(path, data, format="json", **options)


class TestRunNow:
    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    @pytest.mark.parametrize("history", [SCHEDULED, EXPIRED])
    def test_makes_a_job_ready_at_once(self, request, client, now, history):
        job = make_job(history, now=now)

        response = override(request.getfixturevalue(client), "run-now", job.job_id)

        assert response.status_code == 202
        assert (response.json()["jobId"], response.json()["status"]) == (
            job.job_id,
            "scheduled",
        )
        job.refresh_from_db()
        assert job.ready_at <= job.forced_at
        assert audit_of(job.job_id)[-1].action == "transition.run_now"

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED, FAILED, CANCELLED])
    def test_another_status_is_a_conflict(self, as_operator, now, history):
        job = make_job(history, now=now)
        before = state_of(job)

        response = override(as_operator, "run-now", job.job_id)

        problem = assert_problem(response, 409, "job_not_runnable")
        assert problem["jobStatus"] == job.status
        assert state_of(job) == before

    def test_another_live_job_of_the_transition_is_a_conflict(self, as_operator, now):
        old = make_job(EXPIRED, now=now)
        make_job(now=now, project_id=old.project_id, phase_id=old.phase_id)
        before = state_of(old)

        response = override(as_operator, "run-now", old.job_id)

        assert_problem(response, 409, "job_not_runnable")
        assert state_of(old) == before


class TestRetry:
    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    def test_makes_a_new_job_of_the_same_event(self, request, client, now):
        client, old = request.getfixturevalue(client), make_job(FAILED, now=now)

        response = override(client, "retry", old.job_id)

        assert response.status_code == 202
        new = response.json()
        assert new["replaces"] == old.job_id
        assert new["eventId"] == str(old.event_id)
        assert new["status"] == "scheduled"
        found = client.get(response.headers["Content-Location"]).json()
        assert found["jobId"] == new["jobId"]

    @pytest.mark.parametrize("history", [SCHEDULED, RUNNING, COMPLETED, CANCELLED, EXPIRED])
    def test_another_status_is_a_conflict(self, as_operator, now, history):
        job = make_job(history, now=now)
        before = state_of(job)

        response = override(as_operator, "retry", job.job_id)

        problem = assert_problem(response, 409, "job_not_retryable")
        assert problem["jobStatus"] == job.status
        assert state_of(job) == before

    def test_a_second_time_is_a_conflict(self, as_operator, now):
        job = make_job(FAILED, now=now)
        override(as_operator, "retry", job.job_id)

        response = override(as_operator, "retry", job.job_id)

        assert_problem(response, 409, "job_not_retryable")
        assert ScheduledTransition.objects.count() == 2


@BOTH
class TestBoth:
    @pytest.mark.parametrize("reason", [None, "", " \n", "\u200b", 5, ["x"], "x" * 2001])
    def test_need_a_reason(self, as_operator, now, verb, start, code, reason):
        job = make_job(start, now=now)
        before = state_of(job)
        data = {} if reason is None else {"reason": reason}

        response = override(as_operator, verb, job.job_id, data)

        problem = assert_problem(response, 400, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == ["reason"]
        assert (problem["errors"][0]["message"] == "is required") is (reason is None)
        assert state_of(job) == before

    def test_refuse_other_fields(self, as_operator, now, verb, start, code):
        job = make_job(start, now=now)

        response = override(as_operator, verb, job.job_id, {"reason": "x", "force": True})

        problem = assert_problem(response, 400, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == ["force"]

    @pytest.mark.parametrize("job_id", ["job-1-2-3", "nope", "%00", "x" * 200])
    def test_find_no_unknown_job(self, as_operator, verb, start, code, job_id):
        assert_problem(override(as_operator, verb, job_id), 404, "job_not_found")

    def test_refuse_a_cleaned_up_job(self, as_operator, now, verb, start, code):
        job = make_job(CANCELLED, now=now)
        clean_up(now=now + timedelta(days=1))

        problem = assert_problem(override(as_operator, verb, job.job_id), 409, code)

        assert problem["jobStatus"] == "cancelled"

    @pytest.mark.parametrize("client", ["as_viewer", "as_stranger"])
    def test_are_not_for_others(self, request, client, now, verb, start, code):
        job = make_job(start, now=now)
        before = state_of(job)

        response = override(request.getfixturevalue(client), verb, job.job_id)

        assert_problem(response, 403, "permission_denied")
        assert state_of(job) == before

    def test_say_when_to_ask_again_while_the_topic_cannot_be_searched(
        self, as_operator, now, verb, start, code
    ):
        job = make_job(start, now=now, unproven_since=now)

        with patch("scheduling.services.unproven.find_events") as find_events:
            find_events.side_effect = ServiceUnavailableError("no", retry_after_seconds=7)
            response = override(as_operator, verb, job.job_id)

        assert_problem(response, 503, "service_unavailable")
        assert response.headers["Retry-After"] == "7"
