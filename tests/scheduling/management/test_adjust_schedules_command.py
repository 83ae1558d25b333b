"""`manage.py adjust_schedules`: a file of changes, what becomes of it, exit codes."""

import io
import json
import sys
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.schedule import schedule_transition


@pytest.fixture
def job(db, phase_data, shell, now):
    return schedule_transition(phase_data(), actor=shell, now=now).job


@pytest.fixture
def file(tmp_path, now):
    """Return a maker of files: changes of ENDs, by phase and hours from now."""

    def make(*changes, **fields):
        body = {
            "changes": [
                {
                    "projectId": 12345,
                    "phaseId": phase_id,
                    "newEndTime": format_instant(now + timedelta(hours=hours)),
                }
                for phase_id, hours in changes
            ],
            "updateReason": "more time",
            **fields,
        }
        path = tmp_path / "changes.json"
        path.write_text(json.dumps(body))
        return str(path)

    return make


def run(*arguments, code=0):
    """Return what is printed; `code` is how it has to end."""
    output = io.StringIO()
    if not code:
        call_command("adjust_schedules", *arguments, stdout=output)
        return output.getvalue()
    with pytest.raises(CommandError) as refusal:
        call_command("adjust_schedules", *arguments, stdout=output)
    assert refusal.value.returncode == code
    return output.getvalue()


class TestAdjustSchedules:
    def test_moves_jobs_and_tells_which(self, job, file, now):
        output = run(file((67890, 2)), "--actor", "sara")

        new = ScheduledTransition.objects.live().get()
        assert new.due_at == now + timedelta(hours=2)
        titles, row, counts = output.splitlines()
        assert titles.split() == ["phase", "from", "to", "old", "job", "new", "job"]
        assert row.split() == [
            "67890",
            format_instant(job.due_at),
            format_instant(new.due_at),
            job.job_id,
            new.job_id,
        ]
        assert counts == "1 rescheduled, 0 created, 0 unchanged"
        told = AuditEntry.objects.get(job_id=new.job_id)
        assert (told.actor, told.reason) == ("cli:sara", "more time")

    def test_prints_the_api_s_answer_as_json(self, job, file):
        answer = json.loads(run(file((67890, 2)), "--json"))

        assert (answer["success"], answer["rescheduledCount"]) == (True, 1)

    def test_reads_stdin(self, job, file, monkeypatch):
        with open(file((67890, 2)), "rb") as content:  # noqa: PTH123 -- as a shell does
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
            answer = json.loads(run("-", "--json"))

        assert answer["rescheduledCount"] == 1

    def test_a_dry_run_prints_the_plan_and_changes_nothing(self, job, file):
        output = run(file((67890, 2)), "--dry-run")

        assert job.job_id in output
        assert output.splitlines()[-1].endswith("(a dry run: nothing was changed)")
        assert ScheduledTransition.objects.get().job_id == job.job_id

    def test_the_option_for_conflicts_counts_before_the_file(self, job, file):
        path = file((67890, 2), (67890, 3), onConflict="reject")

        output = run(path, "--on-conflict", "skip")

        assert "conflict duplicate_change: " in output
        assert output.splitlines()[-1] == "0 rescheduled, 0 created, 0 unchanged"

    def test_a_refused_batch_ends_with_1_and_tells_why(self, job, file):
        output = run(file((67890, 2), (1, 2)), code=1)

        assert "change 1 job_not_found: " in output
        assert ScheduledTransition.objects.get().job_id == job.job_id

    def test_a_refused_batch_prints_the_api_s_problem_as_json(self, job, file):
        problem = json.loads(run(file((67890, 2), (67890, 3)), "--json", code=1))

        assert (problem["success"], problem["status"]) == (False, 409)
        assert problem["code"] == "schedule_conflict"

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"changes": [], "changes": []}'])
    def test_refuses_what_is_no_request(self, db, tmp_path, content):
        path = tmp_path / "changes.json"
        path.write_bytes(content)

        problem = json.loads(run(str(path), "--json", code=1))

        assert problem["code"] == "invalid_request"

    def test_names_what_is_wrong_with_the_request(self, db, file):
        problem = json.loads(run(file(updateReason=""), "--json", code=1))

        assert [error["field"] for error in problem["errors"]] == ["updateReason"]

    def test_refuses_more_than_the_api_takes(self, db, tmp_path):
        path = tmp_path / "changes.json"
        path.write_bytes(b" " * (4 * 2**20 + 1))

        assert json.loads(run(str(path), "--json", code=1))["code"] == "payload_too_large"

    def test_a_file_that_can_t_be_read_is_bad_usage(self, db, tmp_path):
        run(str(tmp_path / "nothing.json"), code=2)
        run(str(tmp_path), code=2)
