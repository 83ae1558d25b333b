"""PATCH transitions/{jobId}/: what moves, what is refused and leaves the job alone."""

from datetime import timedelta
from unittest.mock import patch

import pytest
import time_machine

from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.phases import WIRE_NAMES, format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import clean_up
from tests.scheduling.api.support import TRANSITIONS, assert_problem
from tests.support.histories import (
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    RUNNING,
    audit_of,
    make_job,
    state_of,
)


def change(client, job_id, data, **options):
    return client.patch(f"{TRANSITIONS}{job_id}/", data, format="json", **options)


@pytest.fixture
def later(now):
    """Return an instant that the jobs of these tests are not due at."""
    return now + timedelta(hours=5)


@pytest.mark.django_db
class TestUpdate:
    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    def test_answers_with_a_new_job_in_the_place_of_the_old(
        self, request, client, add_job, later
    ):
        client, old = request.getfixturevalue(client), add_job()

        response = change(client, old.job_id, {"endTime": format_instant(later)})

        assert response.status_code == 200
        new = response.json()
        assert new["jobId"] != old.job_id
        assert new["replaces"] == old.job_id
        assert (new["status"], new["endTime"]) == ("scheduled", format_instant(later))
        was = client.get(f"{TRANSITIONS}{old.job_id}/").json()
        assert (was["status"], was["replacedBy"]) == ("cancelled", new["jobId"])
        assert was["endTime"] == format_instant(old.due_at)
        again = change(client, old.job_id, {"endTime": format_instant(later)})
        problem = assert_problem(again, 409, "job_not_updatable")
        assert f"was replaced by {new['jobId']}" in problem["detail"]

    def test_says_where_the_new_job_is(self, as_operator, add_job, later):
        response = change(as_operator, add_job().job_id, {"endTime": format_instant(later)})

        found = as_operator.get(response.headers["Content-Location"])
        assert found.json()["jobId"] == response.json()["jobId"]
        assert found.headers["ETag"] == response.headers["ETag"]

    def test_changes_what_is_named_and_nothing_else(self, as_operator, add_job):
        old = add_job(metadata={"a": 1}, challengeId=7)

        new = change(
            as_operator,
            old.job_id,
            {"phaseTypeName": "Review", "projectStatus": "DRAFT", "metadata": {"b": [2]}},
        ).json()

        assert (new["phaseTypeName"], new["projectStatus"]) == ("Review", "DRAFT")
        assert new["metadata"] == {"b": [2]}
        assert (new["endTime"], new["challengeId"], new["operator"]) == (
            format_instant(old.due_at),
            7,
            old.operator,
        )

    def test_a_large_number_is_the_same_when_it_comes_again(self, as_operator, add_job):
        old = add_job(metadata={"a": [1e23, 2.5]})

        again = change(as_operator, old.job_id, {"metadata": {"a": [1e23, 2.5]}}).json()

        assert again["jobId"] == old.job_id
        assert again["metadata"] == {"a": [10**23, 2.5]}

    def test_tells_what_is_fixed_from_what_is_unknown(self, as_operator, add_job):
        answer = change(as_operator, add_job().job_id, {"projectId": 7, "foo": 1})

        assert assert_problem(answer, 400, "invalid_request")["errors"] == [
            {"field": "projectId", "message": "can't be changed"},
            {"field": "foo", "message": "is not a known field"},
        ]

    def test_says_of_all_that_a_job_shows_beside_phase_data_that_it_is_read_only(
        self, as_operator, add_job
    ):
        job_id = add_job().job_id
        shown = as_operator.get(f"{TRANSITIONS}{job_id}/").json()

        answer = change(as_operator, job_id, shown)

        errors = assert_problem(answer, 400, "invalid_request")["errors"]
        assert {
            error["field"] for error in errors if error["message"] == "is read-only"
        } == shown.keys() - WIRE_NAMES

    def test_audits_the_user_and_the_reason(self, as_operator, add_job, later):
        old = add_job()

        change(
            as_operator,
            old.job_id,
            {"endTime": format_instant(later), "reason": "the client asked"},
            headers={"X-Request-Id": "r-7"},
        )

        entry = audit_of(old.job_id)[-1]
        assert (entry.action, entry.actor, entry.reason, entry.request_id) == (
            "transition.updated",
            "user:olivia",
            "the client asked",
            "r-7",
        )

    @pytest.mark.parametrize("is_named", [True, False])
    def test_without_a_difference_answers_with_the_job_as_it_is(
        self, as_operator, add_job, is_named
    ):
        job = add_job(metadata={"a": [1, None, "é"]})
        before = state_of(job)
        same = {
            "endTime": format_instant(job.due_at).replace("Z", "+00:00"),
            "phaseTypeName": job.phase_type_name,
            "projectStatus": job.project_status,
            "metadata": {"a": [1, None, "é"]},
            "reason": "to be sure",
        }

        response = change(as_operator, job.job_id, same if is_named else {})

        assert response.status_code == 200
        assert response.json()["jobId"] == job.job_id
        assert state_of(job) == before
        assert ScheduledTransition.objects.count() == 1

    @pytest.mark.parametrize(
        ("data", "code", "field"),
        [
            ({"endTime": "2030-01-01T00:00:00"}, "invalid_schedule_time", "endTime"),
            ({"endTime": None}, "invalid_schedule_time", "endTime"),
            ({"endTime": 5}, "invalid_schedule_time", "endTime"),
            ({"phaseTypeName": ""}, "invalid_request", "phaseTypeName"),
            ({"phaseTypeName": "x" * 256}, "invalid_request", "phaseTypeName"),
            ({"projectStatus": None}, "invalid_request", "projectStatus"),
            ({"metadata": []}, "invalid_request", "metadata"),
            ({"metadata": None}, "invalid_request", "metadata"),
            ({"metadata": {"a": "x" * 70_000}}, "invalid_request", "metadata"),
            ({"reason": " "}, "invalid_request", "reason"),
            ({"reason": 5}, "invalid_request", "reason"),
            ({"reason": "x" * 2001}, "invalid_request", "reason"),
            ({"projectId": 1}, "invalid_request", "projectId"),
            ({"operator": "x"}, "invalid_request", "operator"),
            ({"status": "completed"}, "invalid_request", "status"),
            ({"foo": 1}, "invalid_request", "foo"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, as_operator, add_job, data, code, field):
        job = add_job()
        before = state_of(job)

        response = change(as_operator, job.job_id, data)

        problem = assert_problem(response, 400, code)
        assert [error["field"] for error in problem["errors"]] == [field]
        assert state_of(job) == before

    @pytest.mark.parametrize(
        ("due_in", "code"),
        [
            (-1, "past_schedule_time"),
            (0.5, "schedule_too_soon"),
            (91 * 86400, "schedule_too_far"),
        ],
    )
    def test_refuses_an_instant_outside_the_window(
        self, as_operator, add_job, now, due_in, code
    ):
        job = add_job()
        before = state_of(job)
        instant = format_instant(now + timedelta(seconds=due_in))

        with time_machine.travel(now, tick=False):
            response = change(as_operator, job.job_id, {"endTime": instant})

        problem = assert_problem(response, 400, code)
        assert [error["field"] for error in problem["errors"]] == ["endTime"]
        assert state_of(job) == before

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED])
    def test_a_job_that_is_not_scheduled_is_a_conflict(
        self, as_operator, now, history, later
    ):
        job = make_job(history, now=now)
        before = state_of(job)

        response = change(as_operator, job.job_id, {"endTime": format_instant(later)})

        problem = assert_problem(response, 409, "job_not_updatable")
        assert problem["jobStatus"] == job.status
        assert state_of(job) == before

    def test_a_cleaned_up_job_is_a_conflict(self, as_operator, add_job, operator, now):
        job = add_job()
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)
        clean_up(now=now + timedelta(days=1))

        response = change(as_operator, job.job_id, {"projectStatus": "DRAFT"})

        problem = assert_problem(response, 409, "job_not_updatable")
        assert problem["jobStatus"] == "cancelled"

    @pytest.mark.parametrize("job_id", ["job-1-2-3", "nope", "%00", "x" * 200])
    def test_an_unknown_job_is_not_found(self, as_operator, job_id):
        response = change(as_operator, job_id, {"projectStatus": "DRAFT"})

        assert_problem(response, 404, "job_not_found")

    def test_says_when_to_ask_again_while_the_topic_cannot_be_searched(
        self, as_operator, add_job, now
    ):
        job = add_job()
        ScheduledTransition.objects.update(unproven_since=now)

        with patch("scheduling.services.unproven.find_events") as find_events:
            find_events.side_effect = ServiceUnavailableError("no", retry_after_seconds=7)
            response = change(as_operator, job.job_id, {"projectStatus": "DRAFT"})

        assert_problem(response, 503, "service_unavailable")
        assert response.headers["Retry-After"] == "7"

    @pytest.mark.parametrize("client", ["as_viewer", "as_stranger"])
    @pytest.mark.parametrize("data", [{"projectStatus": "DRAFT"}, {"foo": 1}, {}])
    def test_others_change_nothing(self, request, client, add_job, data):
        job = add_job()
        before = state_of(job)

        response = change(request.getfixturevalue(client), job.job_id, data)

        assert_problem(response, 403, "permission_denied")
        assert state_of(job) == before
        assert AuditEntry.objects.filter(action="access.refused").count() == 1
