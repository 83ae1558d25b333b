"""The steps of recovery by themselves, fed with phase data such as the original scans."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recovery.services import (
    process_overdue_phases,
    scan_active_phases,
    schedule_upcoming_transitions,
)
from recovery.services.steps import process_overdue, schedule_upcoming
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import PhaseData, parse_instant
from scheduling.models import ScheduledTransition
from tests.recovery.conftest import phase_id
from tests.support.challenge_service import Answer
from tests.support.histories import COMPLETED, audit_of, make_job

FIXTURE = json.loads(
    (Path(__file__).parents[1] / "fixtures/recovery_phases.json").read_text()
)
CLOCK = parse_instant(FIXTURE["clock"])
# What the contract makes of the file's expectations: beyond the age limit "skipped" is an
# expired job, and of the states only START and END are any.
STATUSES = {
    30001: "scheduled",
    30002: "scheduled",
    30003: "fires",
    30004: "fires",
    30005: "fires",
    30006: "fires",
    30007: "expired",
    30008: "scheduled",
}
pytestmark = pytest.mark.django_db(transaction=True)


def given(phase):
    """Return a phase of the file without the file's own remarks."""
    return {name: value for name, value in phase.items() if not name.startswith("_")}


def upcoming_and_overdue(phases, *, now=CLOCK):
    return schedule_upcoming(phases, now=now), process_overdue(phases, now=now)


def standing(*, now=CLOCK):
    """Return what stands of each phase."""
    return {
        int(job.phase_id): "fires"
        if job.status == "scheduled" and job.due_at <= now
        else job.status
        for job in ScheduledTransition.objects.all()
    }


class TestRecoveryPhases:
    def test_of_the_original_become_what_the_contract_wants(self):
        upcoming, overdue = upcoming_and_overdue(map_phases())

        assert standing() == STATUSES
        assert upcoming.counts["upcoming_phases_scheduled"] == 3
        assert upcoming.counts["unchanged_phases"] == 1
        assert overdue.counts == {"overdue_phases_processed": 4, "expired_phases": 1}

    def test_that_are_invalid_are_named_one_by_one(self):
        upcoming, _ = upcoming_and_overdue(map_phases())

        reasons = dict(upcoming.errors)
        assert reasons["30010"] == "its challenge is DRAFT, not ACTIVE"
        assert reasons["30011"] == "its challenge is COMPLETED, not ACTIVE"
        assert reasons["30012"].startswith("state: ")
        assert reasons["30013"].startswith("projectId: ")
        assert reasons[""].startswith("phaseId: ")
        assert reasons["30015"].startswith("phaseTypeName: ")
        assert reasons["30016"].startswith("operator: ")
        assert reasons["30017"].startswith("endTime: ")
        assert reasons["30018"] == "endTime: is required"
        # 30009 lies beyond 90 days: skipped without an error.
        assert upcoming.counts["skipped_phases"] == len(reasons) + 1 == 10

    def test_that_are_invalid_are_failures_where_none_is_skipped(self, recovery_settings):
        recovery_settings(skip_invalid_phases=False)

        upcoming, _ = upcoming_and_overdue(map_phases())

        assert upcoming.counts["failed_phases"] == 9
        assert standing() == STATUSES

    def test_given_twice_change_nothing_the_second_time(self):
        upcoming_and_overdue(map_phases())
        before = list(ScheduledTransition.objects.values())

        upcoming_and_overdue(map_phases())

        assert list(ScheduledTransition.objects.values()) == before

    def test_beyond_the_longest_advance_are_taken_up_later(self):
        upcoming_and_overdue(map_phases())

        upcoming_and_overdue(map_phases(), now=CLOCK + timedelta(days=2))

        assert standing(now=CLOCK)[30009] == "scheduled"

    @pytest.mark.timeout(60)
    def test_by_the_thousand_take_less_than_the_original_promised(self):
        base = given(FIXTURE["phases"][0])
        phases = [
            base
            | {
                "projectId": 40_000 + number,
                "phaseId": 50_000 + number,
                "endTime": (CLOCK + timedelta(seconds=60 * number)).isoformat(),
            }
            for number in range(1, FIXTURE["bulk"]["count"] + 1)
        ]
        began_at = time.monotonic()

        tally = schedule_upcoming(phases, now=CLOCK)

        assert tally.counts == {"upcoming_phases_scheduled": 1_000}
        assert time.monotonic() - began_at < 30

    def test_mean_the_same_under_every_host_time_zone(self, monkeypatch):
        for zone in ("Pacific/Kiritimati", "America/New_York"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            upcoming_and_overdue(map_phases())
        monkeypatch.undo()
        time.tzset()

        assert standing() == STATUSES


def map_phases():
    return [given(phase) for phase in FIXTURE["phases"]]


@pytest.fixture
def clock_now():
    return datetime.now(UTC).replace(microsecond=0)


def phase(now, *, due_in, **fields):
    return {
        "projectId": 5,
        "phaseId": 7,
        "phaseTypeName": "Review",
        "state": "END",
        "endTime": (now + timedelta(seconds=due_in)).isoformat(),
        "operator": "admin",
        "projectStatus": "ACTIVE",
        **fields,
    }


class TestScheduleUpcomingTransitions:
    def test_schedules_what_lies_ahead_and_leaves_the_rest(self, clock_now):
        told = schedule_upcoming_transitions(
            [phase(clock_now, due_in=60), phase(clock_now, due_in=-60, phaseId=8)]
        )

        assert standing(now=clock_now) == {7: "scheduled"}
        assert (told["totalPhasesProcessed"], told["upcomingPhasesScheduled"]) == (1, 1)
        assert told["errors"] == []

    def test_moves_a_job_that_stands_elsewhere(self, clock_now):
        schedule_upcoming_transitions([phase(clock_now, due_in=60)])

        told = schedule_upcoming_transitions([phase(clock_now, due_in=90)])

        assert told["rescheduledPhases"] == 1
        live = ScheduledTransition.objects.live().get()
        assert live.due_at == clock_now + timedelta(seconds=90)

    def test_takes_dataclasses_and_what_is_nothing_at_all(self, clock_now):
        data = scan_like(clock_now)

        told = schedule_upcoming_transitions([data, None, 5, {}])

        assert told["upcomingPhasesScheduled"] == 1
        assert told["skippedPhases"] == 3

    def test_names_one_given_twice_with_different_instants(self, clock_now):
        told = schedule_upcoming_transitions(
            [phase(clock_now, due_in=60), phase(clock_now, due_in=90)]
        )

        assert told["errors"] == [
            {"phaseId": 7, "reason": "it is given twice, with different instants"}
        ]
        assert ScheduledTransition.objects.count() == 1


def scan_like(now):
    return PhaseData(
        project_id="5",
        phase_id="7",
        phase_type_name="Review",
        state=TransitionKind.END,
        end_time=now + timedelta(seconds=60),
        operator="admin",
        project_status="ACTIVE",
    )


class TestProcessOverduePhases:
    def test_fires_in_due_order_with_the_original_instants(
        self, clock_now, recovery_settings
    ):
        recovery_settings(max_batch_size=2)
        phases = [
            phase(clock_now, due_in=-60 * number, phaseId=number)
            for number in (3, 1, 5, 2, 4)
        ]

        told = process_overdue_phases(phases)

        made = ScheduledTransition.objects.order_by("id")
        by_batch = [int(job.phase_id) for job in made]
        assert (set(by_batch[:2]), set(by_batch[2:4]), by_batch[4:]) == (
            {5, 4},
            {3, 2},
            [1],
        )
        assert told["overduePhasesProcessed"] == 5
        (entry,) = audit_of(made[0].job_id)
        assert entry.actor == "system:recovery"

    def test_leaves_what_is_settled_alone(self, clock_now):
        make_job(
            COMPLETED,
            now=clock_now,
            project_id="5",
            phase_id="7",
            due_at=clock_now - timedelta(seconds=60),
        )

        told = process_overdue_phases([phase(clock_now, due_in=-60)])

        assert told["unchangedPhases"] == 1
        assert ScheduledTransition.objects.count() == 1


class TestScanActivePhases:
    def test_returns_what_has_not_happened_in_due_order(self, upstream, now):
        upstream.add(2, phases=1, due_in=60)
        upstream.add(1, phases=2, due_in=600)

        phases = scan_active_phases()

        assert [(one.phase_id, one.state.value) for one in phases] == [
            (phase_id(2), "END"),
            (phase_id(1, 0), "END"),
            (phase_id(1, 1), "START"),
            (phase_id(1, 1), "END"),
        ]
        assert {one.project_status for one in phases} == {"ACTIVE"}

    def test_feeds_the_other_steps(self, upstream, now):
        upstream.add(1, phases=2, due_in=-60)

        phases = scan_active_phases()
        upcoming = schedule_upcoming_transitions(phases)
        overdue = process_overdue_phases(phases)

        assert upcoming["upcomingPhasesScheduled"] == 1
        assert overdue["overduePhasesProcessed"] == 2

    def test_returns_nothing_without_a_service(self):
        assert scan_active_phases() == []

    def test_raises_where_the_list_is_not_whole(self, upstream):
        upstream.add(1)
        upstream.service.script("/challenges", [Answer(status=500)])

        with pytest.raises(ServiceUnavailableError):
            scan_active_phases()
