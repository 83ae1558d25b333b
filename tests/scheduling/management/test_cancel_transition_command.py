"""`manage.py cancel_transition`: what it prints, audits and refuses."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.schedule import schedule_transition


@pytest.fixture
def job(db, phase_data, shell, now):
    return schedule_transition(phase_data(), actor=shell, now=now).job


def run(*arguments):
    output = io.StringIO()
    call_command("cancel_transition", *arguments, stdout=output, stderr=io.StringIO())
    return output.getvalue()


def refused(*arguments):
    output = io.StringIO()
    with pytest.raises(CommandError) as refusal:
        call_command("cancel_transition", *arguments, "--json", stdout=output)
    assert refusal.value.returncode == 1
    return json.loads(output.getvalue())["code"]


class TestCancelTransition:
    def test_cancels_the_job_and_says_so(self, job):
        output = run(job.job_id, "--reason", "wrong phase")

        assert output == f"{job.job_id} is cancelled\n"
        assert ScheduledTransition.objects.get().status == "cancelled"

    def test_audits_who_did_it_and_why(self, job):
        run(job.job_id, "--reason", "wrong phase", "--actor", "sara")

        entry = AuditEntry.objects.get(action="transition.cancelled")
        assert (entry.actor, entry.reason) == ("cli:sara", "wrong phase")

    def test_prints_the_job_as_one_json_document(self, job):
        shown = json.loads(run(job.job_id, "--reason", "wrong phase", "--json"))

        assert (shown["jobId"], shown["status"]) == (job.job_id, "cancelled")

    def test_refuses_a_job_that_nobody_knows(self, db):
        assert refused("job-1-2-3", "--reason", "wrong phase") == "job_not_found"

    def test_refuses_a_job_that_is_cancelled_already(self, job, shell, now):
        cancel_transition(job_id=job.job_id, actor=shell, reason="first", now=now)

        assert refused(job.job_id, "--reason", "second") == "job_not_cancellable"
        assert AuditEntry.objects.filter(action="transition.cancelled").count() == 1

    def test_refuses_a_blank_reason(self, job):
        assert refused(job.job_id, "--reason", "  ") == "invalid_request"
        assert ScheduledTransition.objects.get().status == "scheduled"

    def test_asks_for_a_reason(self, job):
        with pytest.raises(CommandError, match="--reason"):
            run(job.job_id)
