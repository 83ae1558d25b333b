"""GET transitions/{jobId}/, …/audit/ and POST …/cancel/."""

from datetime import timedelta
from unittest.mock import patch

import pytest

from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import clean_up
from tests.scheduling.api.support import TRANSITIONS, assert_problem

UNKNOWN_IDS = ["job-1-2-3", "nope", "%00", "%ff", "a b", "x" * 200, "..;", "%F0%9F%98%80"]


@pytest.fixture
def clean_job(add_job, operator, now):
    """Return a maker of jobs that were cancelled and cleaned up, as they last were."""

    def make(**fields):
        job = add_job(**fields)
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)
        job.refresh_from_db()
        assert clean_up(now=now + timedelta(days=1)) == 1
        return job

    return make


class TestShowTransition:
    def test_shows_a_live_job_as_not_archived(self, as_viewer, add_job):
        job = add_job()

        shown = as_viewer.get(f"{TRANSITIONS}{job.job_id}/").json()

        assert shown["jobId"] == job.job_id
        assert shown["archivedAt"] is None

    def test_shows_a_cleaned_up_job_as_it_last_was(self, as_viewer, add_job, operator, now):
        job = add_job(
            challengeId="3f2504e0-4f89-11d3-9a0c-0305e82c3301",
            metadata={"why": [1, "é"]},
            date="2026-03-07T18:00:00.123Z",
        )
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)
        before = as_viewer.get(f"{TRANSITIONS}{job.job_id}/").json()
        cleaned_at = now + timedelta(days=1)
        clean_up(now=cleaned_at)

        after = as_viewer.get(f"{TRANSITIONS}{job.job_id}/").json()

        assert before["status"] == "cancelled"
        assert after == before | {"archivedAt": format_instant(cleaned_at)}

    def test_shows_an_archive_of_other_columns(self, as_viewer, clean_job, now):
        job = clean_job()
        entry = AuditEntry.objects.filter(action="transition.archived").get()
        columns = {k: v for k, v in entry.changes["job"].items() if k != "is_overridden"}
        AuditEntry.objects.create(
            at=now,
            action="transition.archived",
            job_id="job-old",
            changes={"job": columns | {"job_id": "job-old", "a_column_of_old": 1}},
        )

        shown = as_viewer.get(f"{TRANSITIONS}job-old/").json()

        assert shown["jobId"] == "job-old"
        assert shown["eventId"] == str(job.event_id)

    @pytest.mark.parametrize("job_id", UNKNOWN_IDS)
    def test_an_unknown_job_is_not_found(self, as_viewer, job_id):
        assert_problem(as_viewer.get(f"{TRANSITIONS}{job_id}/"), 404, "job_not_found")

    def test_what_can_be_no_id_is_not_asked_of_the_database(
        self, as_viewer, django_assert_num_queries
    ):
        # A user's first request is counted by another statement than the next ones.
        as_viewer.get(f"{TRANSITIONS}%00/")

        # They read the user, whether the log-in has ended, and the role.
        with django_assert_num_queries(3):
            as_viewer.get(f"{TRANSITIONS}%00/")

    def test_refuses_a_query(self, as_viewer, add_job):
        response = as_viewer.get(f"{TRANSITIONS}{add_job().job_id}/?verbose=1")

        problem = assert_problem(response, 400, "invalid_request")
        assert problem["errors"][0]["field"] == "verbose"


class TestShowAudit:
    def test_shows_what_happened_oldest_first(self, as_viewer, as_operator, add_job):
        job = add_job()
        cancel = as_operator.post(
            f"{TRANSITIONS}{job.job_id}/cancel/",
            {"reason": "client asked"},
            format="json",
            headers={"X-Request-Id": "r-1"},
        )
        assert cancel.status_code == 200

        records = as_viewer.get(f"{TRANSITIONS}{job.job_id}/audit/").json()

        assert [record["action"] for record in records] == [
            "transition.scheduled",
            "transition.cancelled",
        ]
        entry = AuditEntry.objects.last()
        assert records[1] == {
            "id": entry.pk,
            "at": format_instant(entry.at),
            "action": "transition.cancelled",
            "jobId": job.job_id,
            "projectId": 12345,
            "phaseId": 67890,
            "state": "END",
            "actor": "user:olivia",
            "role": "operator",
            "oldStatus": "scheduled",
            "newStatus": "cancelled",
            "changes": {},
            "reason": "client asked",
            "requestId": "r-1",
        }
        assert (records[0]["oldStatus"], records[0]["reason"]) == (None, None)

    def test_goes_on_after_clean_up(self, as_viewer, clean_job):
        job = clean_job()

        records = as_viewer.get(f"{TRANSITIONS}{job.job_id}/audit/").json()

        assert records[-1]["action"] == "transition.archived"
        assert records[-1]["changes"]["job"]["job_id"] == job.job_id

    @pytest.mark.parametrize("job_id", UNKNOWN_IDS)
    def test_an_unknown_job_has_none(self, as_viewer, job_id):
        response = as_viewer.get(f"{TRANSITIONS}{job_id}/audit/")

        assert_problem(response, 404, "job_not_found")


class TestCancel:
    def cancel(self, client, job_id, data=None, **options):
        data = {"reason": "client asked"} if data is None else data
        return client.post(f"{TRANSITIONS}{job_id}/cancel/", data, format="json", **options)

    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    def test_cancels_a_scheduled_job(self, request, client, add_job):
        job = add_job()

        response = self.cancel(request.getfixturevalue(client), job.job_id)

        assert response.status_code == 200
        assert response.json()["status"] == "cancelled"
        job.refresh_from_db()
        assert job.status == TransitionStatus.CANCELLED

    @pytest.mark.parametrize("status", ["expired", "failed"])
    def test_deals_with_a_job_that_nobody_dealt_with(
        self, as_operator, add_job, now, status
    ):
        job = add_job()
        ScheduledTransition.objects.update(status=status, finalized_at=now)

        assert self.cancel(as_operator, job.job_id).json()["status"] == "cancelled"

    def test_a_second_cancel_is_a_conflict(self, as_operator, add_job):
        job = add_job()
        self.cancel(as_operator, job.job_id)

        response = self.cancel(as_operator, job.job_id)

        problem = assert_problem(response, 409, "job_not_cancellable")
        assert problem["jobStatus"] == "cancelled"

    def test_a_running_job_is_a_conflict(self, as_operator, add_job, now):
        job = add_job()
        ScheduledTransition.objects.update(
            status="running", claim_token=job.event_id, lease_until=now, started_at=now
        )

        response = self.cancel(as_operator, job.job_id)

        assert_problem(response, 409, "job_not_cancellable")

    def test_a_cleaned_up_job_is_a_conflict(self, as_operator, clean_job):
        response = self.cancel(as_operator, clean_job().job_id)

        problem = assert_problem(response, 409, "job_not_cancellable")
        assert problem["jobStatus"] == "cancelled"

    @pytest.mark.parametrize("job_id", UNKNOWN_IDS)
    def test_an_unknown_job_is_not_found(self, as_operator, job_id):
        assert_problem(self.cancel(as_operator, job_id), 404, "job_not_found")

    @pytest.mark.parametrize(
        "reason",
        [None, "", " \n", 5, ["x"], "x" * 2001],
    )
    def test_needs_a_reason(self, as_operator, add_job, reason):
        job = add_job()
        data = {} if reason is None else {"reason": reason}

        problem = assert_problem(
            self.cancel(as_operator, job.job_id, data), 400, "invalid_request"
        )

        assert [error["field"] for error in problem["errors"]] == ["reason"]
        job.refresh_from_db()
        assert job.status == TransitionStatus.SCHEDULED

    def test_refuses_other_fields(self, as_operator, add_job):
        response = self.cancel(
            as_operator, add_job().job_id, {"reason": "x", "force": True}
        )

        problem = assert_problem(response, 400, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == ["force"]

    def test_says_when_to_ask_again_while_the_topic_cannot_be_searched(
        self, as_operator, add_job, now
    ):
        job = add_job()
        ScheduledTransition.objects.update(unproven_since=now)

        with patch("scheduling.services.unproven.find_events") as find_events:
            find_events.side_effect = ServiceUnavailableError(
                "the topic can't be searched", retry_after_seconds=7
            )
            response = self.cancel(as_operator, job.job_id)

        problem = assert_problem(response, 503, "service_unavailable")
        assert response.headers["Retry-After"] == "7"
        assert problem["category"] == "network"
        assert "retry_after_seconds" not in problem
