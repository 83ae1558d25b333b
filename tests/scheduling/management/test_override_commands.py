"""`reschedule_transition`, `run_transition_now`, `retry_transition`: other overrides."""

import io
import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.schedule import schedule_transition
from tests.support.histories import FAILED, make_job


@pytest.fixture
def job(db, phase_data, shell, now):
    return schedule_transition(phase_data(), actor=shell, now=now).job


def run(*arguments):
    output = io.StringIO()
    call_command(*arguments, stdout=output, stderr=io.StringIO())
    return output.getvalue()


def refused(*arguments):
    output = io.StringIO()
    with pytest.raises(CommandError) as refusal:
        call_command(*arguments, "--json", stdout=output)
    assert refusal.value.returncode == 1
    return json.loads(output.getvalue())["code"]


class TestRescheduleTransition:
    def test_replaces_the_job_by_one_at_the_new_instant(self, job, now):
        later = format_instant(now + timedelta(hours=2))

        shown = json.loads(
            run("reschedule_transition", job.job_id, "--end-time", later, "--json")
        )

        assert (shown["endTime"], shown["replaces"]) == (later, job.job_id)
        assert ScheduledTransition.objects.get(job_id=job.job_id).status == "cancelled"

    def test_audits_who_did_it_and_why(self, job, now):
        later = format_instant(now + timedelta(hours=2))

        run(
            "reschedule_transition",
            job.job_id,
            *("--end-time", later, "--reason", "more time", "--actor", "sara"),
        )

        entry = AuditEntry.objects.get(action="transition.updated")
        assert (entry.actor, entry.reason) == ("cli:sara", "more time")

    def test_refuses_an_instant_without_a_zone(self, job):
        code = refused(
            "reschedule_transition", job.job_id, "--end-time", "2030-01-01T00:00:00"
        )

        assert code == "invalid_schedule_time"
        assert ScheduledTransition.objects.get().status == "scheduled"


class TestRunTransitionNow:
    def test_makes_the_job_ready_at_once(self, job, now):
        output = run("run_transition_now", job.job_id, "--reason", "all are in")

        assert output == f"{job.job_id} fires now\n"
        ready_at = ScheduledTransition.objects.get().ready_at
        assert now <= ready_at < now + timedelta(seconds=30)

    def test_refuses_a_job_that_has_failed(self, db, now):
        failed = make_job(FAILED, now=now)

        assert (
            refused("run_transition_now", failed.job_id, "--reason", "x")
            == "job_not_runnable"
        )


class TestRetryTransition:
    def test_makes_a_new_job_with_the_same_event(self, db, now):
        failed = make_job(FAILED, now=now)

        shown = json.loads(
            run("retry_transition", failed.job_id, "--reason", "mended", "--json")
        )

        assert shown["replaces"] == failed.job_id
        assert shown["eventId"] == str(failed.event_id)

    def test_refuses_a_job_that_has_not_failed(self, job):
        assert (
            refused("retry_transition", job.job_id, "--reason", "x") == "job_not_retryable"
        )
