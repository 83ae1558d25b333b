"""POST transitions/bulk/: each item stands alone."""

import json

import pytest

from scheduling.models import AuditEntry, ScheduledTransition
from tests.scheduling.api.support import TRANSITIONS, assert_problem

pytestmark = pytest.mark.django_db
BULK = f"{TRANSITIONS}bulk/"


def post(client, items, **options):
    return client.post(BULK, {"transitions": items}, format="json", **options)


class TestBulk:
    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    def test_schedules_every_item(self, request, client, phase_data):
        items = [phase_data(phaseId=n, metadata={"n": n}) for n in range(1, 4)]

        response = post(request.getfixturevalue(client), items)

        assert response.status_code == 200
        answer = response.json()
        assert [answer[name] for name in ("created", "existing", "failed")] == [3, 0, 0]
        jobs = [ScheduledTransition.objects.get(phase_id=n) for n in (1, 2, 3)]
        assert answer["results"] == [
            {"index": index, "jobId": job.job_id} for index, job in enumerate(jobs)
        ]
        assert [job.metadata["n"] for job in jobs] == [1, 2, 3]

    def test_names_the_user_as_actor_and_where_no_other_is_given_as_operator(
        self, as_operator, phase_data
    ):
        post(as_operator, [phase_data(phaseId=1, operator=None), phase_data(phaseId=2)])

        operators = ScheduledTransition.objects.order_by("phase_id")
        assert list(operators.values_list("operator", flat=True)) == ["olivia", "admin"]
        assert set(AuditEntry.objects.values_list("actor", flat=True)) == {"user:olivia"}

    def test_tells_of_each_item_that_fails_and_schedules_the_others(
        self, as_operator, phase_data, add_job
    ):
        live = add_job(phaseId=9)
        items = [
            phase_data(phaseId=1),
            phase_data(phaseId=2, state="MIDDLE"),
            phase_data(phaseId=9, due_in=7200),
            phase_data(phaseId=3, due_in=-5),
            phase_data(phaseId=4, endTime="soon"),
            "no object",
            None,
            phase_data(phaseId=5, jobId="job-1"),
        ]

        answer = post(as_operator, items).json()

        assert [answer[name] for name in ("created", "existing", "failed")] == [1, 0, 7]
        assert [one.get("error", {}).get("code") for one in answer["results"]] == [
            None,
            "invalid_phase_data",
            "duplicate_job",
            "past_schedule_time",
            "invalid_schedule_time",
            "invalid_phase_data",
            "invalid_phase_data",
            "invalid_phase_data",
        ]
        errors = [one["error"] for one in answer["results"][1:]]
        assert [error["status"] for error in errors] == [400, 409, 400, 400, 400, 400, 400]
        assert errors[1]["jobId"] == live.job_id
        assert errors[4]["detail"] == errors[5]["detail"] == "must be an object"
        assert errors[0]["errors"] == [
            {"field": "state", "message": "must be START or END"}
        ]
        assert errors[-1]["errors"][0]["field"] == "jobId"
        for error in errors:
            assert error["type"] == "about:blank"
            assert error["title"]
            assert error["detail"]
            assert error["category"]

    def test_calls_existing_what_is_there_or_comes_twice(
        self, as_operator, phase_data, add_job
    ):
        live = add_job(phaseId=9)
        items = [phase_data(phaseId=9), phase_data(phaseId=1), phase_data(phaseId=1)]

        answer = post(as_operator, items).json()

        assert [answer[name] for name in ("created", "existing", "failed")] == [1, 2, 0]
        ids = [one["jobId"] for one in answer["results"]]
        assert ids[0] == live.job_id
        assert ids[1] == ids[2]
        assert ScheduledTransition.objects.count() == 2

    def test_takes_a_thousand_and_no_more(self, as_operator, phase_data):
        items = [phase_data(phaseId=n) for n in range(1, 1002)]

        at_limit = post(as_operator, items[:1000])
        over = post(as_operator, items)

        assert at_limit.json()["created"] == 1000
        problem = assert_problem(over, 400, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == ["transitions"]
        assert ScheduledTransition.objects.count() == 1000

    def test_takes_none(self, as_operator):
        assert post(as_operator, []).json() == {
            "created": 0,
            "existing": 0,
            "failed": 0,
            "results": [],
        }

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "transitions"),
            ({"transitions": None}, "transitions"),
            ({"transitions": {}}, "transitions"),
            ({"transitions": "x"}, "transitions"),
            ({"transitions": [], "dryRun": True}, "dryRun"),
        ],
    )
    def test_names_what_is_wrong_with_the_request(self, as_operator, body, field):
        problem = assert_problem(
            as_operator.post(BULK, body, format="json"), 400, "invalid_request"
        )

        assert [error["field"] for error in problem["errors"]] == [field]

    def test_takes_a_body_up_to_4_mib_and_no_byte_more(self, as_operator, phase_data):
        body = json.dumps({"transitions": [phase_data()]}).encode().ljust(4 * 2**20)

        taken = as_operator.post(BULK, body, content_type="application/json")
        over = as_operator.post(BULK, body + b" ", content_type="application/json")

        assert taken.json()["created"] == 1
        assert_problem(over, 413, "payload_too_large")

    @pytest.mark.parametrize("client", ["as_viewer", "as_stranger"])
    def test_is_not_for_others(self, request, client, phase_data):
        response = post(request.getfixturevalue(client), [phase_data()])

        assert_problem(response, 403, "permission_denied")
        assert not ScheduledTransition.objects.exists()

    @pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
    def test_knows_no_other_method(self, as_admin, method):
        assert_problem(getattr(as_admin, method)(BULK), 405, "method_not_allowed")
