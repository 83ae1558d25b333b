"""`manage.py recover`."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from recovery.models import RecoveryRun
from recovery.results import Trigger
from recovery.services.runs import Request, ask_for_run, take
from scheduling.domain.phases import format_instant
from scheduling.models import ScheduledTransition
from tests.recovery.conftest import phase_id
from tests.support.histories import make_job

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def give(recovery_settings):
    """Give the command, and return what it prints."""

    def run(*arguments):
        out = io.StringIO()
        call_command("recover", *arguments, stdout=out)
        return out.getvalue()

    return run


class TestRecover:
    def test_tells_what_it_did(self, give, upstream):
        upstream.add(1)

        text = give()

        run = RecoveryRun.objects.get()
        assert f"run {run.run_id}: COMPLETED" in text
        assert "upcomingPhasesScheduled  3" in text
        assert ScheduledTransition.objects.live().count() == 3

    def test_is_audited_under_the_name_given(self, give):
        give("--actor", "sara")

        assert RecoveryRun.objects.get().actor == "cli:sara"

    def test_prints_what_the_api_answers(self, give, upstream):
        upstream.add(1)

        document = json.loads(give("--json"))

        assert document == RecoveryRun.objects.get().show()

    def test_keeps_to_a_project(self, give, upstream):
        upstream.add(1)
        upstream.add(2)

        document = json.loads(give("--json", "--project-id", "70002"))

        assert document["projectId"] == 70_002
        assert document["upcomingPhasesScheduled"] == 3

    @pytest.mark.parametrize("value", ["0", "x", "1.5", "-3"])
    def test_refuses_what_is_no_project(self, give, value):
        with pytest.raises(CommandError, match="projectId"):
            give(f"--project-id={value}")

    def test_carries_out_a_run_that_waits_first(self, give):
        waiting = ask_for_run(Request(trigger=Trigger.MANUAL, project_id="5"))

        give()

        waiting.refresh_from_db()
        assert waiting.status == "COMPLETED"
        assert RecoveryRun.objects.filter(status="COMPLETED").count() == 2

    def test_refuses_once_it_has_waited_for_another_long_enough(
        self, give, recovery_settings
    ):
        recovery_settings(startup_timeout=1_000)
        held = take(ask_for_run(Request(trigger=Trigger.MANUAL)))

        with pytest.raises(CommandError, match=str(held.run.run_id)):
            give()

    def test_is_refused_where_recovery_is_disabled(self, give, recovery_settings, capsys):
        recovery_settings(enabled=False)

        with pytest.raises(CommandError, match="RECOVERY_ENABLED"):
            give()

    def test_prints_one_document_also_where_it_is_disabled(self, recovery_settings):
        recovery_settings(enabled=False)
        out = io.StringIO()

        with pytest.raises(CommandError):
            call_command("recover", "--json", stdout=out)

        assert json.loads(out.getvalue())["status"] == "DISABLED"

    def test_names_what_could_not_be_done(self, upstream):
        upstream.add(1, phases=1)["phases"][0]["scheduledEndDate"] = "never\x1b"
        out = io.StringIO()

        # What starts it by the clock must be able to tell.
        with pytest.raises(CommandError, match="scheduledEndDate"):
            call_command("recover", stdout=out)

        assert f"error: phase {phase_id(1)}: " in out.getvalue()
        assert "\x1b" not in out.getvalue()


class TestDryRun:
    def test_prints_the_plan_and_changes_nothing(self, give, upstream, now):
        upstream.add(1, phases=1)
        give()
        moved = format_instant(ScheduledTransition.objects.get().due_at)
        upstream[1]["phases"][0]["scheduledEndDate"] = "2030-01-01T00:00:00Z"
        upstream.add(2, phases=1, due_in=-60)
        old = make_job(now=now, due_in=-73 * 3600)
        before = list(ScheduledTransition.objects.values())

        lines = give("--dry-run").splitlines()

        assert list(ScheduledTransition.objects.values()) == before
        table = [" ".join(line.split()) for line in lines]
        assert (
            f"move 70001 {phase_id(1)} Phase 1 END {moved} 2030-01-01T00:00:00.000Z"
            in table
        )
        assert any(line.startswith(f"fire 70002 {phase_id(2)}") for line in table)
        assert any(line.startswith(f"expire {old.project_id}") for line in table)

    def test_says_so_where_nothing_differs(self, give):
        assert "Nothing would be changed." in give("--dry-run")

    def test_has_the_plan_in_its_document(self, give, upstream, now):
        upstream.add(1, phases=1)

        document = json.loads(give("--dry-run", "--json"))

        (change,) = document["plan"]
        assert change["change"] == "schedule"
        assert change["phaseId"] == phase_id(1)
        assert (change["from"], change["state"]) == (None, "END")
        assert document["dryRun"]
