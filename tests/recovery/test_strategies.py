"""What becomes of what is found overdue is decided by functions that may be replaced."""

import sys
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from autopilot_site.env import read
from recovery.checks import check_strategies
from recovery.strategies import SETTINGS, decider
from scheduling.conf import RecoverySettings
from scheduling.domain.challenges import Phase
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.plan import Decision, Overdue
from scheduling.models import ScheduledTransition
from tests.recovery.conftest import counts, phase_id
from tests.support.histories import audit_of
from tests.test_readme import blocks_of


def only_reviews_fire(overdue):
    return Decision.FIRE if overdue.phase.name == "Review" else Decision.ASK


def only_reviews_expire(overdue):
    return Decision.EXPIRE if overdue.phase.name == "Review" else Decision.ASK


def breaks(overdue):
    raise ZeroDivisionError


def says_something_else(overdue):
    return "perhaps"


HERE = "tests.recovery.test_strategies"


@pytest.fixture
def overdue(now):
    """Return a maker of what is overdue by so many hours; the limit is 72."""

    def make(hours):
        return Overdue(
            phase=Phase(phase_id="1", name="Review"),
            kind=TransitionKind.END,
            due_at=now - timedelta(hours=hours),
            now=now,
            age_limit=timedelta(hours=72),
        )

    return make


class TestDecider:
    @pytest.mark.parametrize(
        ("hours", "processes", "decision"),
        [
            (1, True, Decision.FIRE),
            (72, True, Decision.FIRE),
            (73, True, Decision.EXPIRE),
            (1, False, Decision.ASK),
            (73, False, Decision.EXPIRE),
        ],
    )
    def test_decides_as_the_contract_says(
        self, settings, overdue, hours, processes, decision
    ):
        conf = settings.RECOVERY.model_copy(update={"process_overdue_phases": processes})

        assert decider(conf)(overdue(hours)) is decision

    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize("path", ["nowhere.at_all", "json", f"{HERE}.HERE"])
    def test_names_a_setting_that_names_nothing(self, settings, name, path):
        conf = settings.RECOVERY.model_copy(update={name: path})

        with pytest.raises(ImproperlyConfigured, match=f"RECOVERY_{name.upper()}"):
            decider(conf)


class TestOwnStrategy:
    @pytest.mark.parametrize(
        ("setting", "due_in", "processes", "status", "reason"),
        [
            ("overdue_strategy", -60, True, "scheduled", ""),
            ("unprocessed_strategy", -60, False, "scheduled", ""),
            ("too_old_strategy", -73 * 3600, True, "expired", ": found overdue by more"),
        ],
    )
    def test_decides_for_each_phase(
        self,
        upstream,
        recover,
        recovery_settings,
        setting,
        due_in,
        processes,
        status,
        reason,
    ):
        function = "only_reviews_expire" if reason else "only_reviews_fire"
        recovery_settings(
            process_overdue_phases=processes, **{setting: f"{HERE}.{function}"}
        )
        upstream.add(1, phases=1, due_in=due_in)
        upstream.add(2, phases=1, due_in=due_in)["phases"][0]["name"] = "Review"

        recover()

        asked = ScheduledTransition.objects.get(phase_id=phase_id(1))
        assert asked.status == "expired"
        assert audit_of(asked.job_id)[0].reason.endswith("found overdue: a person decides")
        review = ScheduledTransition.objects.get(phase_id=phase_id(2))
        assert review.status == status
        assert reason in audit_of(review.job_id)[0].reason

    def test_can_not_fire_what_is_beyond_the_age_limit(
        self, upstream, recover, recovery_settings
    ):
        recovery_settings(too_old_strategy="recovery.strategies.fire")
        upstream.add(1, phases=1, due_in=-73 * 3600)

        result = recover()

        assert counts(result) == {"failedPhases": 2}
        assert not ScheduledTransition.objects.exists()

    @pytest.mark.parametrize("function", ["breaks", "says_something_else"])
    def test_that_breaks_fails_its_challenge_only(
        self, upstream, recover, recovery_settings, function
    ):
        recovery_settings(overdue_strategy=f"{HERE}.{function}")
        upstream.add(1, phases=1, due_in=-60)
        upstream.add(2, phases=1, due_in=60)

        result = recover()

        assert counts(result) == {
            "failedPhases": 2,
            "upcomingPhasesScheduled": 1,
            "unchangedPhases": 1,
        }
        assert [error["phaseId"] for error in result.errors] == [phase_id(1)]


class TestReadme:
    def test_shows_a_strategy_that_works_as_it_is_printed(
        self, upstream, recover, settings, recovery_settings, tmp_path, monkeypatch
    ):
        (python,) = blocks_of("Recovery", language="python")
        (shell,) = blocks_of("Recovery", language="sh")
        (tmp_path / "overdue.py").write_text(python, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "overdue", raising=False)
        name, _, value = shell.removeprefix("export ").strip().partition("=")
        monkeypatch.setenv(name, value)
        read_settings = read(RecoverySettings)
        recovery_settings(overdue_strategy=read_settings.overdue_strategy)
        upstream.add(1, phases=1, due_in=-60)
        upstream.add(2, phases=1, due_in=-7200)
        upstream.add(3, phases=1, due_in=-7200)["phases"][0]["name"] = "Review"

        recover()

        statuses = ScheduledTransition.objects.order_by("project_id")
        assert [job.status for job in statuses] == ["scheduled", "expired", "scheduled"]


class TestCheckStrategies:
    def test_is_content_with_the_defaults(self):
        assert check_strategies(None) == []

    def test_refuses_what_can_not_be_imported(self, recovery_settings):
        recovery_settings(overdue_strategy="nowhere.at_all")

        (error,) = check_strategies(None)

        assert error.id == "recovery.E001"
        assert "RECOVERY_OVERDUE_STRATEGY" in error.msg


def test_the_defaults_are_there(settings):
    for name in SETTINGS:
        assert callable(import_string(getattr(settings.RECOVERY, name)))
