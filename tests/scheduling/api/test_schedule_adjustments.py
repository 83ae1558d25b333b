"""POST schedule-adjustments/: many changes as one batch (contract, section 5)."""

import json
from datetime import timedelta

import pytest

from scheduling.domain.phases import format_instant
from scheduling.models import AdjustmentBatch, AuditEntry, ScheduledTransition
from tests.scheduling.api.support import assert_problem
from tests.support.histories import RUNNING, make_job

pytestmark = pytest.mark.django_db
PATH = "/api/v1/schedule-adjustments/"
ANSWER = {
    "success",
    "dryRun",
    "adjustedCount",
    "unchangedCount",
    "rescheduledCount",
    "createdCount",
    "cancelledCount",
    "conflicts",
    "errors",
    "details",
    "batchId",
}


@pytest.fixture
def change(now):
    """Return a maker of changes: the END of a phase, that many hours from now."""

    def make(phase_id, hours, **fields):
        return {
            "projectId": 12345,
            "phaseId": phase_id,
            "newEndTime": format_instant(now + timedelta(hours=hours)),
            **fields,
        }

    return make


def post(client, *changes, headers=None, **fields):
    body = {"changes": list(changes), "updateReason": "more time", **fields}
    return client.post(PATH, body, format="json", headers=headers or {})


class TestScheduleAdjustments:
    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    def test_moves_and_makes_jobs(self, request, client, add_job, change):
        old = add_job(phaseId=1)

        response = post(
            request.getfixturevalue(client),
            change(1, 2),
            change(2, 3, phaseTypeName="Review"),
            batchId="b-1",
        )

        assert response.status_code == 200, response.content
        answer = response.json()
        assert set(answer) == ANSWER
        new, made = ScheduledTransition.objects.live().order_by("due_at")
        assert (answer["success"], answer["adjustedCount"]) == (True, 2)
        assert answer["details"]["rescheduled"] == [
            {
                "oldJobId": old.job_id,
                "newJobId": new.job_id,
                "phaseId": 1,
                "oldEndTime": format_instant(old.due_at),
                "newEndTime": format_instant(new.due_at),
            }
        ]
        assert [job["newJobId"] for job in answer["details"]["created"]] == [made.job_id]
        assert answer["batchId"] == "b-1"

    def test_names_the_user_as_actor_and_as_operator_of_new_jobs(
        self, as_operator, add_job, change
    ):
        add_job(phaseId=1, operator="manager")

        post(as_operator, change(1, 2), change(2, 3, phaseTypeName="Review"))

        jobs = ScheduledTransition.objects.live().order_by("due_at")
        assert [job.operator for job in jobs] == ["manager", "olivia"]
        entries = AuditEntry.objects.filter(reason="more time")
        assert set(entries.values_list("actor", flat=True)) == {"user:olivia"}
        assert len(set(entries.values_list("request_id", flat=True)) - {""}) == 1

    def test_answers_a_refused_one_with_the_same_body_as_a_problem(
        self, as_operator, add_job, change
    ):
        job = add_job(phaseId=1)

        response = post(as_operator, change(1, 2), change(1, 3), batchId="b-1")

        problem = assert_problem(response, 409, "schedule_conflict")
        assert set(problem) > ANSWER
        assert (problem["success"], problem["adjustedCount"]) == (False, 0)
        assert [one["type"] for one in problem["conflicts"]] == ["duplicate_change"]
        assert problem["details"] == {"rescheduled": [], "created": [], "cancelled": []}
        assert ScheduledTransition.objects.get() == job
        assert not AdjustmentBatch.objects.exists()

    @pytest.mark.parametrize(
        ("hours", "name", "code", "category"),
        [
            (2, None, "job_not_found", "scheduling"),
            (24 * 91, "Review", "schedule_too_far", "validation"),
        ],
    )
    def test_answers_one_with_an_error_with_that_one_s_code(
        self, as_operator, add_job, change, hours, name, code, category
    ):
        add_job(phaseId=1)

        response = post(as_operator, change(1, 2), change(9, hours, phaseTypeName=name))

        problem = assert_problem(response, 409, code)
        assert problem["category"] == category
        (error,) = problem["errors"]
        assert (error["index"], error["code"]) == (1, code)
        assert error["message"]

    def test_without_atomic_answers_200_and_lists_the_errors(
        self, as_operator, add_job, change
    ):
        add_job(phaseId=1)

        response = post(as_operator, change(9, 2), change(1, 2), atomic=False)

        assert response.status_code == 200
        answer = response.json()
        assert (answer["success"], answer["rescheduledCount"]) == (True, 1)
        assert [error["index"] for error in answer["errors"]] == [0]

    def test_without_atomic_and_nothing_done_answers_409(self, as_operator, change):
        response = post(as_operator, change(9, 2), atomic=False)

        assert_problem(response, 409, "job_not_found")

    def test_a_running_job_is_named(self, as_operator, change, now):
        job = make_job(RUNNING, now=now, project_id="12345", phase_id="1", due_in=-1)

        problem = assert_problem(post(as_operator, change(1, 2)), 409, "schedule_conflict")

        assert problem["conflicts"][0]["conflictsWith"] == job.job_id
        assert problem["conflicts"][0]["phaseId"] == 1

    def test_skips_what_conflicts(self, as_operator, add_job, change):
        add_job(phaseId=1)

        answer = post(
            as_operator, change(1, 2), change(2, -1, phaseTypeName="x"), onConflict="skip"
        ).json()

        assert (answer["success"], answer["adjustedCount"]) == (True, 1)
        assert answer["conflicts"] == [
            {
                "type": "past_time",
                "phaseId": 2,
                "conflictsWith": None,
                "detail": answer["conflicts"][0]["detail"],
            }
        ]

    def test_a_dry_run_changes_nothing(self, as_operator, add_job, change):
        job = add_job(phaseId=1)

        response = post(as_operator, change(1, 2), dryRun=True)

        answer = response.json()
        assert (response.status_code, answer["dryRun"]) == (200, True)
        assert answer["details"]["rescheduled"][0]["newJobId"] is None
        assert ScheduledTransition.objects.get() == job

    def test_a_refused_dry_run_is_409_too(self, as_operator, change):
        assert_problem(post(as_operator, change(1, 2), dryRun=True), 409, "job_not_found")

    def test_shows_a_uuid_as_it_came_in(self, as_operator, change):
        phase_id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"

        answer = post(as_operator, change(phase_id.upper(), 2, phaseTypeName="x")).json()

        assert answer["details"]["created"][0]["phaseId"] == phase_id

    def test_takes_no_changes(self, as_operator):
        answer = post(as_operator).json()

        assert (answer["success"], answer["adjustedCount"]) == (True, 0)

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"changes": None}, "changes"),
            ({"changes": {}}, "changes"),
            ({"updateReason": None}, "updateReason"),
            ({"onConflict": "ignore"}, "onConflict"),
            ({"atomic": "no"}, "atomic"),
            ({"jobId": "j"}, "jobId"),
            ({"changes": [{"projectId": True}]}, "changes[0].projectId"),
        ],
    )
    def test_names_what_is_wrong_with_the_request(self, as_operator, fields, field):
        problem = assert_problem(post(as_operator, **fields), 400, "invalid_request")

        assert field in [error["field"] for error in problem["errors"]]

    def test_tells_an_instant_that_can_t_be_read(self, as_operator, change):
        wrong = change(1, 2, newEndTime="2030-06-31T00:00:00Z")

        problem = assert_problem(post(as_operator, wrong), 400, "invalid_schedule_time")

        assert problem["errors"][0]["field"] == "changes[0].newEndTime"

    def test_takes_a_thousand_and_no_more(self, as_operator, change):
        changes = [change(n, 2, phaseTypeName="x") for n in range(1, 1002)]

        over = post(as_operator, *changes)
        at_limit = post(as_operator, *changes[:1000])

        assert_problem(over, 400, "invalid_request")
        assert at_limit.json()["createdCount"] == 1000

    def test_takes_a_body_up_to_4_mib_and_no_byte_more(self, as_operator, change):
        wanted = {"changes": [change(1, 2, phaseTypeName="x")], "updateReason": "x"}
        body = json.dumps(wanted).encode().ljust(4 * 2**20)

        over = as_operator.post(PATH, body + b" ", content_type="application/json")
        taken = as_operator.post(PATH, body, content_type="application/json")

        assert_problem(over, 413, "payload_too_large")
        assert taken.json()["createdCount"] == 1

    def test_repeats_the_answer_of_a_batch(self, as_operator, as_admin, add_job, change):
        add_job(phaseId=1)
        first = post(as_operator, change(1, 2), batchId="b-1")

        again = post(as_admin, change(1, 2), batchId="b-1")
        other = post(as_operator, change(1, 3), batchId="b-1")

        assert (again.status_code, again.json()) == (200, first.json())
        assert assert_problem(other, 409, "conflict")["batchId"] == "b-1"
        assert ScheduledTransition.objects.count() == 2

    @pytest.mark.parametrize("status", [200, 409])
    def test_honours_an_idempotency_key(self, as_operator, add_job, change, status):
        wanted = change(1, 2)
        if status == 200:
            add_job(phaseId=1)
        headers = {"Idempotency-Key": "k-1"}
        first = post(as_operator, wanted, headers=headers)
        if status == 409:
            add_job(phaseId=1)

        again = post(as_operator, wanted, headers=headers)

        assert first.status_code == again.status_code == status
        assert again.json() == first.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Content-Type"] == first.headers["Content-Type"]

    @pytest.mark.parametrize("client", ["as_viewer", "as_stranger"])
    def test_is_not_for_others(self, request, client, add_job, change):
        job = add_job(phaseId=1)

        response = post(request.getfixturevalue(client), change(1, 2))

        problem = assert_problem(response, 403, "permission_denied")
        told = {"as_viewer": "may not adjust", "as_stranger": "none of the roles: viewer"}
        assert told[client] in problem["detail"]
        assert ScheduledTransition.objects.get() == job

    @pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
    def test_knows_no_other_method(self, as_admin, method):
        assert_problem(getattr(as_admin, method)(PATH), 405, "method_not_allowed")
