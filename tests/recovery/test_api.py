"""`recovery/runs/` over REST."""

import uuid

import pytest

from recovery.models import RecoveryRun
from recovery.results import Trigger
from recovery.services.conduct import conduct
from recovery.services.runs import Request, ask_for_run, take
from scheduling.models import AuditEntry
from tests.scheduling.api.support import assert_problem

RUNS = "/api/v1/recovery/runs/"
pytestmark = pytest.mark.django_db
# The contract's names, in its order, and the project.
NAMES = {
    "runId",
    "trigger",
    "status",
    "dryRun",
    "projectId",
    "totalPhasesProcessed",
    "upcomingPhasesScheduled",
    "rescheduledPhases",
    "overduePhasesProcessed",
    "expiredPhases",
    "rescuedJobs",
    "cancelledJobs",
    "unchangedPhases",
    "skippedPhases",
    "failedPhases",
    "errors",
    "startedAt",
    "finishedAt",
    "executionTime",
}


def make_run():
    return conduct(take(ask_for_run(Request(trigger=Trigger.SYNC))))


class TestStart:
    def test_answers_202_with_a_run_that_waits(self, as_operator):
        response = as_operator.post(
            RUNS, {"dryRun": True, "projectId": 12345}, format="json"
        )

        assert response.status_code == 202
        body = response.json()
        assert body.keys() == NAMES
        assert (body["status"], body["trigger"]) == ("NOT_STARTED", "manual")
        assert (body["dryRun"], body["projectId"]) == (True, 12345)
        run = RecoveryRun.objects.get()
        assert (str(run.run_id), run.actor) == (body["runId"], "user:olivia")
        assert run.request_id == response.headers["X-Request-Id"]

    @pytest.mark.parametrize("body", [{}, {"projectId": None}, {"dryRun": False}])
    def test_is_of_everything_unless_told_otherwise(self, as_operator, body):
        answer = as_operator.post(RUNS, body, format="json").json()

        assert (answer["dryRun"], answer["projectId"]) == (False, None)

    def test_answers_with_the_open_run(self, as_operator):
        first = as_operator.post(RUNS, {}, format="json").json()
        held = take(RecoveryRun.objects.get())

        again = as_operator.post(RUNS, {"dryRun": True}, format="json")

        assert again.status_code == 202
        assert again.json()["runId"] == first["runId"] == str(held.run.run_id)
        assert again.json()["status"] == "IN_PROGRESS"

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"dryRun": "true"}, "dryRun"),
            ({"dryRun": 1}, "dryRun"),
            ({"dryRun": None}, "dryRun"),
            ({"projectId": "12345"}, "projectId"),
            ({"projectId": 0}, "projectId"),
            ({"projectId": True}, "projectId"),
            ({"projectId": [1]}, "projectId"),
            ({"dry_run": True}, "dry_run"),
            ({"runId": str(uuid.uuid4())}, "runId"),
        ],
    )
    def test_names_what_is_wrong(self, as_operator, body, field):
        response = as_operator.post(RUNS, body, format="json")

        problem = assert_problem(response, 400, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == [field]
        assert not RecoveryRun.objects.exists()

    def test_is_refused_to_a_viewer(self, as_viewer):
        assert_problem(as_viewer.post(RUNS, {}, format="json"), 403, "permission_denied")
        assert AuditEntry.objects.filter(action="access.refused").exists()

    def test_repeats_its_answer_under_a_key(self, as_operator):
        headers = {"HTTP_IDEMPOTENCY_KEY": "again"}
        first = as_operator.post(RUNS, {}, format="json", **headers)
        RecoveryRun.objects.all().delete()

        again = as_operator.post(RUNS, {}, format="json", **headers)

        assert again.json() == first.json()
        assert not RecoveryRun.objects.exists()

    def test_tells_where_recovery_is_disabled(self, as_operator, settings):
        settings.RECOVERY = settings.RECOVERY.model_copy(update={"enabled": False})

        response = as_operator.post(RUNS, {}, format="json")

        assert (response.status_code, response.json()["status"]) == (202, "DISABLED")


class TestList:
    def test_shows_the_newest_first_in_pages(self, as_viewer, transactional_db):
        runs = [str(make_run().run_id) for _ in range(3)]

        page = as_viewer.get(RUNS, {"pageSize": 2}).json()
        second = as_viewer.get(page["next"]).json()

        assert page["count"] == 3
        shown = [one["runId"] for one in page["results"] + second["results"]]
        assert shown == runs[::-1]
        assert page["results"][0].keys() == NAMES

    def test_refuses_filters(self, as_viewer):
        assert_problem(as_viewer.get(RUNS, {"status": "FAILED"}), 400, "invalid_request")


class TestShow:
    def test_shows_one_run(self, as_viewer, transactional_db):
        run = make_run()

        body = as_viewer.get(f"{RUNS}{run.run_id}/").json()

        assert body == run.show()
        assert body["status"] == "COMPLETED"

    @pytest.mark.parametrize(
        "name", ["7f3c2a10-5b6d-4e8f-9a01-23456789abcd", "7", "x" * 300, "%00"]
    )
    def test_knows_no_other(self, as_viewer, name):
        problem = assert_problem(as_viewer.get(f"{RUNS}{name}/"), 404, "not_found")
        assert " run " in problem["detail"]

    @pytest.mark.parametrize("spelling", ["{%s}", "urn:uuid:%s"])
    def test_knows_a_run_by_one_spelling_only(self, as_viewer, spelling):
        run = ask_for_run(Request(trigger=Trigger.MANUAL))

        response = as_viewer.get(f"{RUNS}{spelling % run.run_id}/")

        assert_problem(response, 404, "not_found")
