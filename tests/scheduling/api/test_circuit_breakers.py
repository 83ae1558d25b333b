"""circuit-breakers/: the three of them, and how an admin closes one."""

import pytest

from scheduling.adapters.breakers import shared_breaker
from scheduling.models import AuditEntry, CircuitBreaker
from scheduling.services.broker_gate import BrokerAwayError
from tests.scheduling.api.support import assert_problem

BREAKERS = "/api/v1/circuit-breakers/"
RESET = f"{BREAKERS}scheduler/reset/"


@pytest.fixture
def opened(db):
    """Open the breaker of publishing."""
    for _ in range(5):
        shared_breaker("scheduler").report(BrokerAwayError("no Kafka broker answers"))


class TestList:
    def test_shows_all_three_before_anything_failed(self, as_viewer):
        answer = as_viewer.get(BREAKERS)

        assert answer.status_code == 200
        assert [one["name"] for one in answer.json()] == [
            "scheduler",
            "recovery",
            "challenge",
        ]
        assert answer.json()[0] == {
            "name": "scheduler",
            "state": "closed",
            "failureCount": 0,
            "successCount": 0,
            "totalCalls": 0,
            "rejectedCount": 0,
            "failureThreshold": 5,
            "successThreshold": 3,
            "resetTimeoutMs": 60_000,
            "openedAt": None,
            "lastFailureAt": None,
            "lastError": None,
        }

    def test_shows_an_open_one(self, as_viewer, opened):
        one = as_viewer.get(BREAKERS).json()[0]

        assert (one["state"], one["failureCount"]) == ("open", 5)
        assert one["lastError"] == "no Kafka broker answers"
        assert one["openedAt"].endswith("Z")
        assert one["lastFailureAt"].endswith("Z")


class TestReset:
    def test_closes_it_and_says_who_did(self, as_admin, opened):
        answer = as_admin.post(RESET, {"reason": "the broker is back"}, format="json")

        assert answer.status_code == 200
        assert (answer.json()["state"], answer.json()["failureCount"]) == ("closed", 0)
        assert CircuitBreaker.objects.get(name="scheduler").state == "closed"
        entry = AuditEntry.objects.get(action="breaker.reset")
        assert (entry.role, entry.reason) == ("admin", "the broker is back")
        assert entry.changes["state"] == ["open", "closed"]
        assert entry.request_id == answer.headers["X-Request-Id"]

    def test_is_an_admins(self, as_operator, opened):
        answer = as_operator.post(RESET, {"reason": "please"}, format="json")

        assert_problem(answer, 403, "permission_denied")
        assert CircuitBreaker.objects.get(name="scheduler").state == "open"

    @pytest.mark.parametrize("body", [{}, {"reason": " "}, {"reason": 5}])
    def test_asks_for_a_reason(self, as_admin, opened, body):
        assert_problem(as_admin.post(RESET, body, format="json"), 400, "invalid_request")

    def test_refuses_unknown_fields(self, as_admin):
        answer = as_admin.post(RESET, {"reason": "x", "state": "closed"}, format="json")

        assert_problem(answer, 400, "invalid_request")

    def test_knows_no_other_name(self, as_admin):
        answer = as_admin.post(f"{BREAKERS}kafka/reset/", {"reason": "x"}, format="json")

        assert_problem(answer, 404, "not_found")
        assert not CircuitBreaker.objects.exists()
