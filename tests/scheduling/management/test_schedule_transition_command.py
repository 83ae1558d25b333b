"""`manage.py schedule_transition`: what it prints, audits and refuses."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from scheduling.management import base
from scheduling.models import AuditEntry, ScheduledTransition

MANAGE = [sys.executable, str(Path(settings.BASE_DIR) / "manage.py")]


@pytest.fixture
def arguments(phase_data):
    """Return a maker of arguments: END of a phase in an hour, with what is given."""

    def make(*more, **fields):
        data = phase_data(**fields)
        return [
            *("schedule_transition", "--project-id", str(data["projectId"])),
            *("--phase-id", str(data["phaseId"]), "--state", data["state"]),
            *("--phase-type-name", data["phaseTypeName"]),
            *("--project-status", data["projectStatus"], "--end-time", data["endTime"]),
            *more,
        ]

    return make


def run(arguments):
    output, errors = io.StringIO(), io.StringIO()
    call_command(*arguments, stdout=output, stderr=errors)
    return output.getvalue(), errors.getvalue()


def refused(arguments):
    output = io.StringIO()
    with pytest.raises(CommandError) as refusal:
        call_command(*arguments, "--json", stdout=output, stderr=io.StringIO())
    assert refusal.value.returncode == 1
    problem = json.loads(output.getvalue())
    assert problem["detail"] == str(refusal.value)
    return problem


@pytest.mark.django_db
class TestScheduleTransition:
    def test_prints_the_id_of_the_new_job(self, arguments):
        output, errors = run(arguments())

        assert output == f"{ScheduledTransition.objects.get().job_id}\n"
        assert errors == ""

    def test_prints_the_job_as_one_json_document(self, arguments):
        challenge = "0B1E7A52-6F0C-4C1D-9A53-1F2D3C4B5A60"
        more = ["--challenge-id", challenge, "--metadata", '{"a": [1, "é"]}']

        output, _ = run(arguments("--json", "--operator", "olivia", *more))

        job = json.loads(output)
        assert job["projectId"] == 12345
        assert job["challengeId"] == challenge.lower()
        assert job["metadata"] == {"a": [1, "é"]}
        assert (job["operator"], job["status"]) == ("olivia", "scheduled")

    def test_audits_the_actor_as_cli(self, arguments):
        run(arguments("--actor", "sara"))

        assert AuditEntry.objects.get().actor == "cli:sara"
        assert ScheduledTransition.objects.get().operator == "sara"

    def test_takes_the_login_name_where_no_actor_is_given(self, arguments, monkeypatch):
        monkeypatch.setattr(base.getpass, "getuser", lambda: "lena")

        run(arguments())

        assert AuditEntry.objects.get().actor == "cli:lena"

    def test_has_a_name_for_a_user_without_one(self, arguments, monkeypatch):
        def nobody():
            raise KeyError("getpwuid(): uid not found")

        monkeypatch.setattr(base.getpass, "getuser", nobody)

        run(arguments())

        assert AuditEntry.objects.get().actor == f"cli:uid-{os.getuid()}"

    def test_tells_that_an_identical_transition_is_the_same_job(self, arguments):
        first, _ = run(arguments())

        second, note = run(arguments())

        assert second == first
        assert "already scheduled" in note
        assert ScheduledTransition.objects.count() == 1

    def test_refuses_another_instant_and_names_the_job_that_stands(self, arguments):
        standing, _ = run(arguments())

        problem = refused(arguments(due_in=7200))

        assert (problem["code"], problem["jobId"]) == ("duplicate_job", standing.strip())

    @pytest.mark.parametrize(
        ("more", "code", "field"),
        [
            (["--end-time", "2030-02-30T00:00:00Z"], "invalid_schedule_time", "endTime"),
            (["--end-time", "2030-02-03T00:00:00"], "invalid_schedule_time", "endTime"),
            (["--project-id", "0"], "invalid_phase_data", "projectId"),
            (["--phase-id", "x"], "invalid_phase_data", "phaseId"),
            (["--phase-type-name", " "], "invalid_phase_data", "phaseTypeName"),
            (["--metadata", "[]"], "invalid_phase_data", "metadata"),
            (["--metadata", '{"a": NaN}'], "invalid_phase_data", "metadata"),
            (["--metadata", '{"a": 1, "a": 2}'], "invalid_phase_data", "metadata"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, arguments, more, code, field):
        problem = refused(arguments(*more))

        assert problem["code"] == code
        if "errors" in problem:
            assert [error["field"] for error in problem["errors"]] == [field]
        assert problem["detail"].startswith(f"{field}: ")
        assert not ScheduledTransition.objects.exists()

    def test_refuses_the_past(self, arguments):
        assert refused(arguments(due_in=-1))["code"] == "past_schedule_time"

    def test_refuses_an_actor_without_a_name(self, arguments):
        with pytest.raises(CommandError, match="--actor"):
            run(arguments("--actor", " "))


class TestExitCodes:
    """The same for every command of `scheduling.management.base`."""

    def run(self, *arguments, database):
        return subprocess.run(
            [*MANAGE, *arguments],
            env={**os.environ, "DEBUG": "1", "DATABASE_URL": database},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    def test_are_2_for_bad_usage(self):
        result = self.run("schedule_transition", database="sqlite:///unused")

        assert result.returncode == 2
        assert result.stdout == ""
        assert "--project-id" in result.stderr

    def test_are_1_where_the_database_is_not_migrated(self, tmp_path):
        result = self.run(
            "cancel_transition",
            "job-1-2-3",
            *("--reason", "no longer needed", "--json"),
            database=f"sqlite:///{tmp_path / 'new.sqlite3'}",
        )

        assert result.returncode == 1
        assert json.loads(result.stdout)["code"] == "service_unavailable"
        assert len(result.stderr.splitlines()) == 1
        assert "migrate" in result.stderr

    def test_are_1_where_the_database_is_out_of_reach(self):
        result = self.run("list_transitions", database="postgres://nobody@127.0.0.1:9/none")

        assert result.returncode == 1
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert "can't be used" in result.stderr
