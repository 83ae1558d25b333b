"""`/metrics` has every name of the contract, with its type and its labels."""

from concurrent.futures import TimeoutError as NoAnswerError
from datetime import timedelta
from unittest.mock import Mock

import pytest
from django.db import OperationalError
from prometheus_client.parser import text_string_to_metric_families

from autopilot_site.health import facts
from autopilot_site.metrics import views
from scheduling.adapters import broker_probe
from scheduling.adapters.clock import database_now
from scheduling.models import ProcessState, VerificationResult
from tests.support.histories import COMPLETED, make_job

pytestmark = pytest.mark.django_db(transaction=True)
# Contract, section 7: name, type, labels.
PROMISED = {
    "autopilot_transitions": ("gauge", {"status"}),
    "autopilot_transitions_published": ("counter", set()),
    "autopilot_transition_lateness_seconds": ("histogram", {"le"}),
    "autopilot_publish_failures": ("counter", set()),
    "autopilot_oldest_overdue_seconds": ("gauge", set()),
    "autopilot_execution_seconds": ("histogram", {"le"}),
    "autopilot_recovery_runs": ("counter", {"status"}),
    "autopilot_recovery_duration_seconds": ("histogram", {"le"}),
    "autopilot_recovery_changes": ("counter", {"kind"}),
    "autopilot_circuit_breaker_state": ("gauge", {"name"}),
    "autopilot_dead_letters": ("counter", {"reason"}),
    "autopilot_consumer_lag": ("gauge", {"topic", "partition"}),
}


@pytest.fixture
def scrape(client, monkeypatch):
    """Return a reader of the metrics by name; a broker answers."""
    answer = broker_probe.BrokerAnswer(brokers=1)
    monkeypatch.setattr(facts, "process_probe", lambda: Mock(ask=lambda: answer))

    def read():
        response = client.get("/metrics")
        assert response.status_code == 200, response.content
        families = text_string_to_metric_families(response.content.decode())
        return {family.name: family for family in families}

    return read


class TestVerification:
    def test_tells_what_the_last_one_found_and_how_old_it_is(self, scrape):
        now = database_now()
        VerificationResult.objects.create(
            name="scheduled",
            started_at=now - timedelta(seconds=70),
            finished_at=now - timedelta(seconds=60),
            is_ok=False,
            violations={"1": 2, "9": 1, "10": 0},
        )

        found = scrape()

        (violations,) = found["autopilot_verification_violations"].samples
        (age,) = found["autopilot_verification_age_seconds"].samples
        assert violations.value == 3
        assert 60 <= age.value < 90

    def test_is_absent_before_the_first_one(self, scrape):
        assert "autopilot_verification_violations" not in scrape()


class TestMetrics:
    def test_have_every_promised_name(self, scrape):
        now = database_now()
        ProcessState.objects.create(
            kind="consumer",
            host="here",
            pid=7,
            started_at=now,
            seen_at=now,
            figures={"lag": {"autopilot.command[2]": 5}},
        )

        found = scrape()

        assert {name: found[name].type for name in PROMISED} == {
            name: kind for name, (kind, _) in PROMISED.items()
        }
        for name, (_, labels) in PROMISED.items():
            for sample in found[name].samples:
                assert set(sample.labels) <= labels, sample
        (lag,) = found["autopilot_consumer_lag"].samples
        assert (lag.labels, lag.value) == (
            {"topic": "autopilot.command", "partition": "2"},
            5,
        )

    def test_count_the_jobs_of_each_status(self, scrape, now):
        make_job(COMPLETED, now=now)
        make_job(now=now, due_in=-40)

        found = scrape()

        by_status = {
            sample.labels["status"]: sample.value
            for sample in found["autopilot_transitions"].samples
        }
        assert by_status == {
            "scheduled": 1,
            "running": 0,
            "completed": 1,
            "failed": 0,
            "cancelled": 0,
            "expired": 0,
        }
        assert found["autopilot_oldest_overdue_seconds"].samples[0].value >= 40
        assert found["autopilot_transitions_published"].samples[0].value == 1

    def test_tell_how_each_part_of_the_health_is(self, scrape, now):
        checks = {
            sample.labels["check"]: sample.value
            for sample in scrape()["autopilot_check_status"].samples
        }

        assert checks["database"] == 1
        assert checks["scheduler"] == 0

    def test_say_without_a_database_that_it_is_away(self, scrape, monkeypatch):
        def fail(**kwargs):
            raise OperationalError("for user joe")

        monkeypatch.setattr(facts, "count_jobs", fail)

        found = scrape()

        assert set(found) == {"autopilot_check_status"}
        values = {
            s.labels["check"]: s.value for s in found["autopilot_check_status"].samples
        }
        assert values["database"] == 0

    def test_say_that_a_database_keeps_them_waiting(self, scrape, monkeypatch):
        def wait(**kwargs):
            raise NoAnswerError

        monkeypatch.setattr(views._reader, "read", wait)

        found = scrape()

        assert set(found) == {"autopilot_check_status"}
        values = {
            s.labels["check"]: s.value for s in found["autopilot_check_status"].samples
        }
        assert values["database"] == 0
