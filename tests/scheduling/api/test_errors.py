"""Problems: every error under /api/ has that shape, and none says too much."""

import logging
import re
from unittest.mock import patch

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError
from django.test import Client
from rest_framework.exceptions import Throttled

from scheduling.api.errors import problem_of
from scheduling.domain import errors as family
from scheduling.domain.errors import Category, SchedulingError
from tests.scheduling.api.support import TRANSITIONS, assert_problem

STATUSES = {
    "invalid_request": 400,
    "invalid_phase_data": 400,
    "invalid_schedule_time": 400,
    "past_schedule_time": 400,
    "schedule_too_soon": 400,
    "schedule_too_far": 400,
    "permission_denied": 403,
    "job_not_found": 404,
    "duplicate_job": 409,
    "job_not_cancellable": 409,
    "job_not_updatable": 409,
    "job_not_runnable": 409,
    "job_not_retryable": 409,
    "conflict": 409,
    "precondition_failed": 412,
    "service_unavailable": 503,
}
FAMILY = [
    kind
    for kind in vars(family).values()
    if isinstance(kind, type)
    and issubclass(kind, SchedulingError)
    and "code" in vars(kind)
    and kind is not SchedulingError
]


def failing(error):
    """Return a patch that makes the list of jobs fail."""
    return patch("scheduling.api.views.list_jobs", side_effect=error)


class TestProblemOf:
    @pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
    def test_gives_each_error_of_the_family_its_status(self, kind):
        if kind in {family.InvalidPhaseDataError, family.InvalidRequestError}:
            error = kind([("a", "is wrong")])
        elif issubclass(kind, family.OutsideWindowError):
            error = kind("2030-01-01T00:00:00.000Z", "is wrong")
        else:
            error = kind("job-1")

        problem = problem_of(error)

        assert (problem.code, problem.category) == (kind.code, kind.category)
        # A code without a place in the contract shows here.
        assert problem.status == STATUSES.get(kind.code, problem.status)
        assert problem.status == (
            400 if kind.category is Category.VALIDATION else problem.status
        )

    def test_keeps_the_problem_s_own_members_from_an_error_s_values(self):
        error = family.JobNotCancellableError("no", status="running", code="x", type="y")

        body = problem_of(error).body()

        assert body["status"] == 409
        assert body["jobStatus"] == "running"
        assert body["code"] == "job_not_cancellable"
        assert body["type"] == "about:blank"

    def test_says_when_to_come_back(self):
        problem = problem_of(Throttled(wait=2.5))

        assert (problem.status, problem.code) == (429, "throttled")
        assert problem.headers == {"Retry-After": "3"}

    def test_leaves_the_unexpected_alone(self):
        assert problem_of(ZeroDivisionError()) is None


class TestProblemResponse:
    def test_an_unexpected_error_says_where_to_look_and_nothing_else(
        self, as_viewer, caplog
    ):
        with failing(RuntimeError("SELECT secret FROM x")), caplog.at_level(logging.ERROR):
            response = as_viewer.get(TRANSITIONS, headers={"X-Request-Id": "r-500"})

        problem = assert_problem(response, 500, "internal_error")
        assert problem["requestId"] == response.headers["X-Request-Id"] == "r-500"
        assert problem["category"] == "system"
        for word in ("secret", "SELECT", "RuntimeError", "Traceback", ".py"):
            assert word not in response.content.decode()
        logged = next(r for r in caplog.records if r.name == "autopilot.api")
        assert "r-500" in logged.getMessage()
        assert logged.exc_info[0] is RuntimeError

    @pytest.mark.parametrize("kind", [OperationalError, InterfaceError])
    def test_a_database_out_of_reach_is_told_without_its_words(self, as_viewer, kind):
        with failing(kind("connection to 10.0.0.1 as secret failed")):
            response = as_viewer.get(TRANSITIONS)

        assert_problem(response, 503, "service_unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert "secret" not in response.content.decode()

    def test_another_error_of_the_database_is_unexpected(self, as_viewer):
        with failing(DatabaseError("syntax error near secret")):
            response = as_viewer.get(TRANSITIONS)

        assert_problem(response, 500, "internal_error")
        assert "secret" not in response.content.decode()

    def test_a_refusal_that_cannot_be_audited_is_not_answered_as_one(self, as_stranger):
        with patch(
            "scheduling.api.errors.record_refusal", side_effect=OperationalError("gone")
        ):
            response = as_stranger.get(TRANSITIONS)

        assert_problem(response, 503, "service_unavailable")

    def test_a_database_lost_at_the_door_is_unavailable(self, as_viewer):
        with patch(
            "scheduling.api.authentication.role_of", side_effect=OperationalError("gone")
        ):
            response = as_viewer.get(TRANSITIONS)

        assert_problem(response, 503, "service_unavailable")


class TestEveryAnswerUnderApi:
    @pytest.mark.parametrize("is_debugging", [True, False])
    @pytest.mark.parametrize(
        "path",
        [
            "/api/",
            "/api/v1/",
            "/api/v1/nothing/",
            "/api/v1/transitions",
            "/api/v2/transitions/",
            "/api/v1/transitions/a/b/",
            "/api/v1/transitions//",
            "/api/v1/%00%ff",
            "/api/<script>",
        ],
    )
    @pytest.mark.parametrize("method", ["get", "post", "delete", "options"])
    def test_is_a_problem_where_there_is_nothing(
        self, client, settings, is_debugging, path, method
    ):
        settings.DEBUG = is_debugging

        response = getattr(client, method)(path)

        assert_problem(response, 404, "not_found")
        assert response.headers.get("Allow", "") == ""

    def test_is_a_problem_for_a_host_that_is_not_served(self, db):
        response = Client(SERVER_NAME="evil.example").get(TRANSITIONS)

        assert_problem(response, 400, "invalid_request")
        assert b"evil" not in response.content

    @pytest.mark.parametrize("is_debugging", [True, False])
    def test_is_a_problem_where_the_middleware_fails(self, settings, is_debugging):
        settings.DEBUG = is_debugging
        client = Client(raise_request_exception=False)

        with patch(
            "django.middleware.common.CommonMiddleware.process_request",
            side_effect=RuntimeError("secret"),
        ):
            response = client.get(TRANSITIONS)

        problem = assert_problem(response, 500, "internal_error")
        assert problem["requestId"] == response.headers["X-Request-Id"]
        assert b"secret" not in response.content

    @pytest.mark.parametrize("method", ["put", "patch", "delete", "options"])
    def test_names_the_methods_there_are(self, as_admin, method):
        response = getattr(as_admin, method)(TRANSITIONS)

        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["Allow"] == "GET, POST, HEAD"

    def test_is_json_or_refused(self, as_viewer):
        response = as_viewer.get(TRANSITIONS, headers={"Accept": "text/html"})

        assert_problem(response, 406, "not_acceptable")

    def test_has_no_page_for_a_browser(self, as_viewer):
        accept = "text/html,application/xhtml+xml,*/*;q=0.8"

        response = as_viewer.get(TRANSITIONS, headers={"Accept": accept})

        assert response.headers["Content-Type"] == "application/json"


class TestRequestId:
    @pytest.mark.parametrize("given", ["a", "A.b_c-9", "x" * 64])
    def test_is_the_caller_s_where_it_is_well_formed(self, client, given):
        response = client.get("/livez", headers={"X-Request-Id": given})

        assert response.headers["X-Request-Id"] == given

    @pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "é", "<x>", "a;b"])
    def test_is_made_otherwise(self, client, given):
        headers = {} if given is None else {"X-Request-Id": given}

        responses = [client.get("/livez", headers=headers) for _ in range(2)]

        made = {response.headers["X-Request-Id"] for response in responses}
        assert len(made) == 2
        assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in made)
