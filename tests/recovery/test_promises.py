"""Where the original hurt: one test for each property in which recovery must be better.

The properties are those derived from the original's history; each is looked at from
recovery's side, beside the tests of the part that it belongs to.
"""

import logging
import threading
import time
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection

from recovery.models import RecoveryRun
from scheduling.domain.actors import CONSUMER
from scheduling.domain.challenges import Challenge, Reading
from scheduling.domain.phases import format_instant, parse_instant
from scheduling.messages import read_given_command
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.queries import list_jobs, show_job
from scheduling.services import apply_changes
from scheduling.services.apply_challenge import apply_challenge
from scheduling.services.cancel import cancel_transition
from scheduling.services.commands import handle_command
from scheduling.services.schedule import schedule_transition
from tests.recovery.conftest import challenge_id, counts, everything, jobs, phase_id
from tests.support.challenge_service import CLIENT_SECRET, TOKEN_PATH, Answer
from tests.support.topic import cut_off


def live(number, place=0, state="END"):
    return ScheduledTransition.objects.live().get(
        phase_id=phase_id(number, place), state=state
    )


def set_end(upstream, number, instant):
    upstream[number]["phases"][0]["scheduledEndDate"] = format_instant(instant)


class TestPromises:
    def test_one_live_job_for_each_transition_whoever_makes_it_at_once(
        self, upstream, recover, phase_data, operator, now
    ):
        for number in range(1, 21):
            upstream.add(number, phases=1)
        barrier = threading.Barrier(2)

        def schedule():
            barrier.wait(5)
            try:
                for number in range(1, 21):
                    data = phase_data(projectId=70_000 + number, phaseId=phase_id(number))
                    schedule_transition(data, actor=operator, now=now)
            finally:
                connection.close()

        other = threading.Thread(target=schedule)
        other.start()
        barrier.wait(5)
        result = recover()
        other.join(20)

        rows = ScheduledTransition.objects.live().values_list("phase_id", "state")
        assert len(rows) == len(set(rows)) == 20
        assert "failedPhases" not in counts(result)

    def test_a_bad_date_breaks_no_list(self, upstream, recover, now):
        upstream.add(1, phases=2)["phases"][0]["scheduledEndDate"] = "2026-06-31T00:00:00Z"

        result = recover()

        shown = [show_job(job) for job in list_jobs({}, now=now)]
        assert [job["phaseId"] for job in shown] == [phase_id(1, 1)] * 2
        assert result.errors[0]["phaseId"] == phase_id(1, 0)

    def test_a_restart_keeps_the_newest_date_and_cancelling_works_after_it(
        self, upstream, recover, operator, now
    ):
        upstream.add(1, phases=1)
        recover()
        set_end(upstream, 1, now + timedelta(hours=9))
        recover(trigger="startup")
        job = live(1)

        cancel_transition(job_id=job.job_id, actor=operator, reason="no", now=now)
        recover(trigger="startup")

        assert job.due_at == now + timedelta(hours=9)
        assert not ScheduledTransition.objects.live().exists()

    @pytest.mark.parametrize("limit", [72, 1])
    def test_what_is_overdue_is_processed_within_the_configured_age(
        self, upstream, recover, recovery_settings, limit
    ):
        recovery_settings(max_phase_age_hours=limit)
        ages = [5, 1_800, 20 * 3600, 71 * 3600, 73 * 3600]
        for number, age in enumerate(ages, start=1):
            upstream.add(number, phases=1, due_in=-age)

        result = recover()

        young = sum(age <= limit * 3600 for age in ages)
        assert result.overduePhasesProcessed == young
        assert result.expiredPhases == len(ages) - young
        assert [job[2] for job in sorted(jobs(), key=lambda job: job[3])] == ["expired"] * (
            len(ages) - young
        ) + ["scheduled"] * young

    def test_a_move_that_fails_loses_no_job(self, upstream, recover, monkeypatch, now):
        upstream.add(1, phases=1)
        recover()
        before = jobs()
        set_end(upstream, 1, now + timedelta(hours=9))

        def insert_jobs(*_, **__):
            raise IntegrityError("taken")

        monkeypatch.setattr(apply_changes, "insert_jobs", insert_jobs)

        result = recover()

        assert jobs() == before
        assert counts(result) == {"failedPhases": 2}

    def test_a_broker_outage_loses_no_transition(self, upstream, recover, settings):
        cut_off(settings)
        for number in range(1, 6):
            upstream.add(number, phases=1, due_in=-60)

        result = recover()

        assert result.overduePhasesProcessed == 5
        assert {job[2] for job in jobs()} == {"scheduled"}

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(status=500),
            Answer(body=[], headers={"X-Total": "0", "X-Total-Pages": "0"}),
            Answer(body=[]),
        ],
        ids=["outage", "empty answer", "empty answer of a list that is not"],
    )
    def test_an_upstream_outage_or_an_empty_answer_cancels_nothing(
        self, upstream, recover, answer
    ):
        for number in range(1, 4):
            upstream.add(number)
        recover()
        before = everything()
        upstream.service.script("/challenges", [answer])

        recover()

        assert everything() == before

    def test_what_can_not_be_decoded_is_named_with_its_reason_and_the_list_goes_on(
        self, upstream, recover
    ):
        for number in range(1, 4):
            upstream.add(number, phases=1)
        upstream[2]["phases"][0]["scheduledEndDate"] = float("nan")

        result = recover()

        assert {job[0] for job in jobs()} == {phase_id(1), phase_id(3)}
        assert len(result.errors) == 1
        assert result.errors[0]["reason"]

    @pytest.mark.parametrize("project_id", ["12345", 0, -1, 1.5, True, None, 2**53])
    def test_input_is_validated_as_http_input_is(self, upstream, recover, project_id):
        upstream.add(1, phases=1)["projectId"] = project_id

        result = recover()

        assert jobs() == []
        assert "projectId" in result.errors[0]["reason"]

    def test_what_is_stale_does_not_win(self, upstream, recover, now):
        """A record of the challenge's end came in before a list that still shows it."""
        upstream.add(1)
        recover()
        over = Challenge(
            challenge_id=challenge_id(1), project_id="70001", status="COMPLETED"
        )
        apply_challenge(
            Reading(challenge=over, source="record", said_at=now), actor=CONSUMER, now=now
        )

        recover()

        assert not ScheduledTransition.objects.live().exists()

    @pytest.mark.parametrize("named_by", ["id", "phaseId"])
    def test_a_start_respects_its_predecessor(self, upstream, recover, now, named_by):
        first, second = upstream.add(1, phases=2, due_in=7200)["phases"]
        second["predecessor"] = first[named_by]
        second["scheduledStartDate"] = format_instant(now + timedelta(hours=1))

        recover()

        assert live(1, 1, "START").due_at == now + timedelta(hours=2)

    @pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York", "UTC"])
    def test_instants_are_the_same_under_every_host_time_zone(
        self, upstream, recover, monkeypatch, zone
    ):
        # An hour that New York's clocks show twice.
        instant = "2026-11-01T01:30:00.000-04:00"
        upstream.add(1, phases=1)["phases"][0]["scheduledEndDate"] = instant
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            recover()
        finally:
            monkeypatch.undo()
            time.tzset()

        job = ScheduledTransition.objects.get()
        assert job.due_at == parse_instant(instant)
        assert format_instant(job.due_at) == "2026-11-01T05:30:00.000Z"

    def test_what_lies_more_than_24_8_days_ahead_does_not_fire_early(
        self, upstream, recover, now
    ):
        upstream.add(1, phases=1, due_in=30 * 86_400)

        recover()

        job = live(1)
        assert job.ready_at == job.due_at == now + timedelta(days=30)

    def test_a_run_shows_its_numbers_and_the_cause_of_its_failure(self, upstream, recover):
        upstream.add(1)
        upstream.service.script("/challenges", [Answer(status=503)])

        recover()

        (error,) = RecoveryRun.objects.get().result.errors
        assert "HTTP 503" in error["reason"]

    @pytest.mark.parametrize(
        ("operator", "code"), [("admin", ""), ("eve", "permission_denied")]
    )
    def test_the_command_is_authorised_audited_and_answered(
        self, transactional_db, now, operator, code
    ):
        given = read_given_command(
            {"command": "recover", "operator": operator, "correlationId": "c-1"}
        )

        result = handle_command(given, now=now)

        assert (result.code, result.correlation_id) == (code, "c-1")
        assert AuditEntry.objects.filter(
            actor=f"kafka:{operator}",
            action="command.refused" if code else "command.done",
        ).exists()
        assert RecoveryRun.objects.count() == (0 if code else 1)

    def test_the_limits_are_kept_to(self, upstream, recover, settings):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"max_schedule_advance": 3_600_000}
        )
        upstream.add(1, phases=1, due_in=3_500)
        upstream.add(2, phases=1, due_in=3_700)
        upstream.add(3, phases=1, due_in=-73 * 3600)

        result = recover()

        assert counts(result) == {
            "upcomingPhasesScheduled": 1,
            "skippedPhases": 1,
            "expiredPhases": 1,
            "unchangedPhases": 3,
        }

    def test_no_secret_is_told(self, upstream, recover, caplog):
        upstream.add(1)
        upstream.service.script(TOKEN_PATH, [Answer(status=401), Answer(status=500)])

        with caplog.at_level(logging.DEBUG):
            results = [recover(), recover()]

        told = caplog.text + str([dict(result) for result in results])
        assert CLIENT_SECRET not in told
        assert "Bearer" not in told

    def test_repeated_work_is_measured_and_there_is_none(self, upstream, recover):
        for number in range(1, 6):
            upstream.add(number)
        first = recover(trigger="sync")

        again = [recover(trigger="sync") for _ in range(3)]

        assert first.upcomingPhasesScheduled == 15
        assert [counts(one) for one in again] == [{"unchangedPhases": 20}] * 3
