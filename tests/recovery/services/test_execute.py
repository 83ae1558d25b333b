"""What a run finds upstream, and what it leaves behind."""

import re
from datetime import timedelta
from itertools import repeat

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from recovery.models import RecoveryRun
from recovery.services import execute_startup_recovery
from scheduling.adapters.challenge_service import close_challenge_service
from scheduling.domain.actors import RECOVERY
from scheduling.domain.errors import InvalidRequestError, OperationNotPermittedError
from scheduling.domain.phases import format_instant, parse_instant
from scheduling.models import AuditEntry, Challenge, Phase, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import clean_up
from scheduling.services.update import Update, update_transition
from tests.recovery.conftest import (
    challenge_id,
    counts,
    everything,
    jobs,
    phase_id,
    statuses,
)
from tests.support.challenge_service import TOKEN_PATH, Answer, Drop, bomb
from tests.support.histories import (
    COMPLETED,
    FAILED,
    RUNNING,
    UNPROVEN,
    audit_of,
    chain_breaks,
    columns,
    make_job,
)
from tests.support.topic import cut_off, put_event

LIST = "/challenges"


def hours(number):
    return timedelta(hours=number)


def job_of(number, place=0, state="END"):
    return ScheduledTransition.objects.filter(
        phase_id=phase_id(number, place), state=state
    ).latest("id")


def move(phase, by, *ends):
    for end in ends:
        phase[end] = format_instant(parse_instant(phase[end]) + by)


class TestWhatShouldExist:
    def test_gets_a_start_and_an_end_for_what_has_not_happened(
        self, upstream, recover, now
    ):
        upstream.add(1, phases=2, due_in=3600)

        result = recover()

        assert jobs() == [
            (phase_id(1, 0), "END", "scheduled", now + hours(1)),
            (phase_id(1, 1), "END", "scheduled", now + hours(2)),
            (phase_id(1, 1), "START", "scheduled", now + hours(1)),
        ]
        assert counts(result) == {"upcomingPhasesScheduled": 3, "unchangedPhases": 1}
        assert (result.status, result.totalPhasesProcessed) == ("COMPLETED", 4)

    def test_is_told_in_the_contract_s_names(self, upstream, recover):
        upstream.add(1)

        result = recover()

        assert result["runId"] == result.runId == str(RecoveryRun.objects.get().run_id)
        assert (result.trigger, result.dryRun, result.errors) == ("manual", False, [])
        assert result.startedAt.endswith("Z")
        assert result.finishedAt >= result.startedAt
        assert result.executionTime >= 0

    def test_starts_no_phase_before_its_predecessor_ends(self, upstream, recover, now):
        challenge = upstream.add(1, phases=2, due_in=9 * 3600)
        challenge["phases"][1]["scheduledStartDate"] = format_instant(now + hours(2))

        recover()

        assert job_of(1, 1, "START").due_at == now + hours(9)

    def test_is_audited_as_recovery_s_work(self, upstream, recover):
        upstream.add(1)

        result = recover()

        (entry,) = audit_of(job_of(1).job_id)
        assert (entry.actor, entry.role) == ("system:recovery", "system")
        assert entry.request_id == result.runId
        assert f"recovery run {result.runId}" in entry.reason

    def test_is_moved_where_upstream_moved_it(self, upstream, recover, now):
        challenge = upstream.add(1, phases=1)
        recover()
        move(challenge["phases"][0], hours(5), "scheduledEndDate")

        result = recover()

        assert counts(result) == {"rescheduledPhases": 1, "unchangedPhases": 1}
        new = job_of(1)
        assert (new.due_at, new.is_overridden) == (now + hours(6), False)
        old = ScheduledTransition.objects.get(job_id=new.replaces)
        assert (old.status, old.replaced_by) == ("cancelled", new.job_id)
        assert chain_breaks(old.job_id) + chain_breaks(new.job_id) == []

    def test_lies_not_beyond_the_longest_advance(self, upstream, recover):
        upstream.add(1, phases=1, due_in=100 * 86_400)

        result = recover()

        assert counts(result) == {"skippedPhases": 1, "unchangedPhases": 1}
        assert (result.status, result.errors, jobs()) == ("COMPLETED", [], [])

    def test_is_scheduled_however_soon(self, upstream, recover):
        upstream.add(1, phases=1, due_in=0.9)

        assert counts(recover())["upcomingPhasesScheduled"] == 1

    def test_may_be_of_one_project_only(self, upstream, recover):
        upstream.add(1)
        upstream.add(2)

        result = recover(project_id=70_002)

        assert {job.project_id for job in ScheduledTransition.objects.all()} == {"70002"}
        assert (result.projectId, result.totalPhasesProcessed) == (70_002, 4)


class TestOverdue:
    def test_fires_with_its_original_instant(self, upstream, recover, now):
        upstream.add(1, phases=1, due_in=-71 * 3600)

        result = recover()

        job = job_of(1)
        assert (job.status, job.due_at, job.ready_at) == (
            "scheduled",
            now - hours(71),
            now - hours(71),
        )
        assert counts(result) == {"overduePhasesProcessed": 1, "unchangedPhases": 1}

    def test_is_expired_beyond_the_age_limit(self, upstream, recover, now):
        upstream.add(1, phases=1, due_in=-73 * 3600)

        result = recover()

        assert (job_of(1).status, job_of(1).due_at) == ("expired", now - hours(73))
        assert counts(result) == {"expiredPhases": 1, "unchangedPhases": 1}

    def test_is_made_in_due_order_over_all_pages(
        self, upstream, recover, recovery_settings
    ):
        recovery_settings(max_batch_size=3)
        upstream.service.most_per_page = 4
        for number in range(1, 21):
            upstream.add(number, phases=1, due_in=-(number * 37 % 20) * 60 - 1)

        recover()

        made = list(ScheduledTransition.objects.order_by("created_at", "due_at"))
        assert len(made) == 20
        assert [job.due_at for job in made] == sorted(job.due_at for job in made)

    def test_is_left_to_a_person_where_processing_is_off(
        self, upstream, recover, recovery_settings, now
    ):
        recovery_settings(process_overdue_phases=False)
        upstream.add(1, phases=1, due_in=-60)
        live = make_job(now=now, due_in=-60)

        result = recover()

        assert job_of(1).status == "expired"
        assert audit_of(job_of(1).job_id)[0].reason.endswith("a person decides")
        assert columns(live)["status"] == "scheduled"
        assert counts(result) == {
            "expiredPhases": 1,
            "overduePhasesProcessed": 1,
            "unchangedPhases": 1,
        }

    def test_with_a_job_is_counted_once_and_left_to_fire(self, upstream, recover, now):
        challenge = upstream.add(1, phases=1, due_in=5)
        recover()
        move(challenge["phases"][0], -hours(1), "scheduledEndDate")
        recover()
        before = everything()

        result = recover()

        assert counts(result) == {"overduePhasesProcessed": 1, "unchangedPhases": 1}
        assert everything() == before

    def test_fires_once_only(self, upstream, recover, now):
        upstream.add(1, phases=1, due_in=-60)
        recover()

        assert [recover() and len(jobs()) for _ in range(3)] == [1, 1, 1]


class TestNothingNew:
    def test_writes_nothing(self, upstream, recover):
        for number in range(1, 6):
            upstream.add(number, phases=3, due_in=number * 600)
        upstream.add(7, phases=1, due_in=-90 * 3600)
        upstream.add(8, phases=1, due_in=100 * 86_400)
        recover()
        before = everything()

        with CaptureQueriesContext(connection) as seen:
            result = recover(trigger="sync")

        assert everything() == before
        writes = re.compile(r"^\s*(INSERT|UPDATE|DELETE|COPY|WITH|NOTIFY)\b")
        written = [one["sql"] for one in seen.captured_queries if writes.match(one["sql"])]
        assert [one for one in written if "recovery_recoveryrun" not in one] == []
        assert counts(result) == {"unchangedPhases": 33, "skippedPhases": 1}
        assert not AuditEntry.objects.filter(
            action__startswith="recovery.", request_id=result.runId
        ).exists()


class TestCancel:
    @pytest.mark.parametrize("status", ["COMPLETED", "DELETED", "CANCELLED_CLIENT_REQUEST"])
    def test_follows_when_a_challenge_was_read_to_be_over(
        self, upstream, recover, now, status
    ):
        upstream.add(1)
        upstream.add(2)
        recover()
        upstream[1]["status"] = status

        result = recover()

        assert counts(result) == {"cancelledJobs": 3, "unchangedPhases": 4}
        assert statuses() == {"cancelled": 3, "scheduled": 3}
        assert Challenge.objects.get(challenge_id=challenge_id(1)).status == status
        assert status in audit_of(job_of(1).job_id)[-1].reason

    def test_follows_when_a_phase_was_read_to_have_ended(self, upstream, recover, now):
        challenge = upstream.add(1)
        recover()
        challenge["phases"][0]["actualEndDate"] = format_instant(now)

        result = recover()

        assert job_of(1, 0).status == "cancelled"
        assert counts(result)["cancelledJobs"] == 1

    def test_does_not_follow_from_a_404(self, upstream, recover):
        upstream.add(1)
        recover()
        before = everything()
        upstream.remove(1)

        result = recover()

        assert everything() == before
        assert (result.status, counts(result)) == ("COMPLETED", {"unchangedPhases": 3})

    def test_does_not_follow_from_another_status(self, upstream, recover):
        upstream.add(1)
        recover()
        upstream[1]["status"] = "DRAFT"

        result = recover()

        assert statuses() == {"scheduled": 3}
        assert "cancelledJobs" not in counts(result)

    def test_does_not_follow_from_a_phase_that_is_missing(self, upstream, recover):
        challenge = upstream.add(1)
        recover()
        del challenge["phases"][1]

        recover()

        assert statuses() == {"scheduled": 3}

    def test_leaves_the_challenges_of_other_projects_alone(self, upstream, recover):
        upstream.add(1)
        upstream.add(2)
        recover()
        upstream[1]["status"] = "COMPLETED"

        recover(project_id=70_002)

        assert statuses() == {"scheduled": 6}

    def test_reads_no_more_at_once_than_it_may(self, upstream, recover, recovery_settings):
        recovery_settings(max_concurrent_phases=2)
        for number in range(1, 9):
            upstream.add(number, phases=1)
        recover()
        running, most = [0], [0]

        def answer(seen):
            running[0] += 1
            most[0] = max(most[0], running[0])
            return Leaving(running)

        for number in range(1, 9):
            upstream[number]["status"] = "COMPLETED"
            upstream.service.script(f"/challenges/{challenge_id(number)}", [answer])

        result = recover()

        assert counts(result) == {"cancelledJobs": 8}
        assert most[0] == 2


class Leaving(Answer):
    """An answer that takes a moment, and tells when it is given."""

    def __init__(self, running):
        super().__init__(delay=0.1)
        object.__setattr__(self, "running", running)

    def __getattribute__(self, name):
        if name == "drip":
            # Asked for as the last bytes go out.
            object.__getattribute__(self, "running")[0] -= 1
        return super().__getattribute__(name)


FAULTS = {
    "no connection": (LIST, [Drop()]),
    "500": (LIST, [Answer(status=500)]),
    "503": (LIST, [Answer(status=503)]),
    "429": (LIST, [Answer(status=429, headers={"Retry-After": "60"})]),
    "401": (LIST, [Answer(status=401)] * 2),
    "403": (LIST, [Answer(status=403)]),
    "404": (LIST, [Answer(status=404)]),
    "redirect": (LIST, [Answer(status=302, headers={"Location": "/v6/challenges"})]),
    "no token": (TOKEN_PATH, repeat(Answer(status=500))),
    "too slow": (LIST, [Answer(delay=3)]),
    "half sent": (LIST, [Answer(cut=100)]),
    "no JSON": (LIST, [Answer(body=b"<html>")]),
    "no list": (LIST, [Answer(body={"message": "hm"})]),
    "an object too many": (LIST, [Answer(headers={"X-Total": "1"})]),
    "an empty list that claims more": (LIST, [Answer(body=[])]),
    "no totals": (LIST, [Answer(headers={"X-Total": None})]),
    "a bomb": (LIST, [Answer(body=bomb(), headers={"Content-Encoding": "gzip"})]),
}


class TestUpstreamFault:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_cancels_nothing_and_is_named(self, upstream, hasty, recover, now, fault):
        for number in range(1, 4):
            upstream.add(number, phases=1)
        recover()
        old = make_job(now=now, due_in=-73 * 3600)
        before = everything()[0]
        path, steps = FAULTS[fault]
        if path == TOKEN_PATH:
            close_challenge_service()
        upstream.service.script(path, steps)

        result = recover()

        rows = everything()[0]
        assert [row for row in rows if row["id"] != old.pk] == before[:-1]
        assert columns(old)["status"] == "expired"
        assert result.status == "COMPLETED_WITH_ERRORS"
        assert counts(result) == {"expiredPhases": 1}
        (error,) = result.errors
        assert error["phaseId"] is None
        assert "service" in error["reason"]

    def test_uses_the_pages_read_before_it(self, upstream, recover):
        upstream.service.most_per_page = 2
        for number in range(1, 6):
            upstream.add(number, phases=1)
        make_pages = [Answer(), Answer(status=500)]
        upstream.service.script(LIST, make_pages)

        result = recover()

        assert counts(result) == {"upcomingPhasesScheduled": 2, "unchangedPhases": 2}
        assert result.status == "COMPLETED_WITH_ERRORS"

    def test_of_an_empty_list_cancels_nothing(self, upstream, recover):
        upstream.add(1)
        recover()
        before = everything()
        upstream.service.script(LIST, [Answer(body=[], headers={"X-Total": "0"})])

        result = recover()

        assert everything() == before
        assert "cancelledJobs" not in counts(result)

    def test_in_a_single_answer_concerns_that_challenge_only(self, upstream, recover):
        for number in (1, 2):
            upstream.add(number, phases=1)
        recover()
        for number in (1, 2):
            upstream[number]["status"] = "COMPLETED"
        upstream.service.script(f"/challenges/{challenge_id(1)}", [Answer(status=500)])

        result = recover()

        assert counts(result) == {"cancelledJobs": 1, "failedPhases": 1}
        assert [job_of(n).status for n in (1, 2)] == ["scheduled", "cancelled"]
        assert challenge_id(1) in result.errors[0]["reason"]


class TestWithoutUpstream:
    def test_does_the_local_part(self, recover, now):
        old = make_job(now=now, due_in=-73 * 3600)
        overdue = make_job(now=now, due_in=-60)
        make_job(now=now, due_in=60)

        result = recover()

        assert (result.status, result.errors) == ("COMPLETED", [])
        assert counts(result) == {"expiredPhases": 1, "overduePhasesProcessed": 1}
        assert columns(old)["status"] == "expired"
        assert audit_of(old.job_id)[-1].actor == "system:recovery"
        assert columns(overdue)["status"] == "scheduled"

    def test_rescues_the_jobs_of_dead_workers(self, recover, now):
        claimed = make_job(RUNNING, now=now, lease_until=now - timedelta(seconds=1))
        alive = make_job(RUNNING, now=now, lease_until=now + hours(1))

        result = recover()

        assert result.rescuedJobs == 1
        assert columns(claimed)["status"] == "scheduled"
        assert columns(alive)["status"] == "running"

    def test_keeps_to_its_project(self, recover, now):
        old = make_job(now=now, due_in=-73 * 3600, project_id="5")
        other = make_job(now=now, due_in=-73 * 3600, project_id="6")

        result = recover(project_id=5)

        assert counts(result) == {"expiredPhases": 1}
        assert [columns(one)["status"] for one in (old, other)] == ["expired", "scheduled"]


class TestSettled:
    def test_stays_where_a_person_cancelled_it(self, upstream, recover, operator, now):
        upstream.add(1, phases=1)
        recover()
        cancel_transition(job_id=job_of(1).job_id, actor=operator, reason="no", now=now)

        result = recover()

        assert statuses() == {"cancelled": 1}
        assert counts(result) == {"unchangedPhases": 2}

    def test_stays_where_a_person_moved_it(self, upstream, recover, operator, now):
        challenge = upstream.add(1, phases=1)
        recover()
        update_transition(
            job_id=job_of(1).job_id,
            update=Update(end_time=now + hours(3)),
            actor=operator,
            now=now,
        )

        recover()
        stayed = job_of(1).due_at
        move(challenge["phases"][0], hours(5), "scheduledEndDate")
        recover()

        assert (stayed, job_of(1).due_at) == (now + hours(3), now + hours(6))

    @pytest.mark.parametrize("history", [COMPLETED, FAILED])
    def test_is_not_made_again(self, upstream, recover, now, history):
        upstream.add(1, phases=1, due_in=-60)
        make_job(history, now=now, project_id="70001", phase_id=phase_id(1), due_in=-60)

        result = recover()

        assert len(jobs()) == 1
        assert counts(result) == {"unchangedPhases": 2}

    def test_is_not_made_again_after_clean_up(self, upstream, recover, now):
        upstream.add(1, phases=1, due_in=-60)
        make_job(COMPLETED, now=now, project_id="70001", phase_id=phase_id(1), due_in=-60)
        clean_up(now=now + hours(2))

        recover()

        assert jobs() == []

    def test_is_not_undone_by_a_run_that_a_person_asked_for(
        self, upstream, recover, operator, now
    ):
        challenge = upstream.add(1, phases=1)
        recover(actor=operator)
        move(challenge["phases"][0], hours(5), "scheduledEndDate")

        recover(actor=operator)

        assert job_of(1).due_at == now + hours(6)
        assert not ScheduledTransition.objects.filter(is_overridden=True).exists()


class TestMessages:
    def test_told_after_the_list_was_asked_for_win(self, upstream, recover, now):
        upstream.add(1, phases=1)
        recover()
        # As a record that comes in meanwhile leaves it.
        Challenge.objects.update(read_at=now + hours(1))
        Phase.objects.update(scheduled_end_at=now + hours(9))
        move(upstream[1]["phases"][0], hours(5), "scheduledEndDate")

        result = recover()

        assert job_of(1).due_at == now + hours(1)
        assert counts(result) == {"unchangedPhases": 2}

    def test_clear_the_mark_that_a_challenge_must_be_read(self, upstream, recover, now):
        upstream.add(1, phases=1)
        Challenge.objects.create(
            challenge_id=challenge_id(1),
            project_id="70001",
            status="ACTIVE",
            must_be_read_since=now - hours(1),
        )

        recover()

        assert Challenge.objects.get().must_be_read_since is None

    def test_never_mark_a_challenge_that_was_read_without_phases(self, upstream, recover):
        upstream.add(1, phases=0)

        recover()

        assert Challenge.objects.get().must_be_read_since is None


class TestInvalid:
    def test_challenge_is_counted_and_named_and_stops_no_other(self, upstream, recover):
        for number in range(1, 121):
            upstream.add(number, phases=1)
        upstream[60]["projectId"] = 0
        upstream.service.challenges["x"] = "no challenge at all"

        result = recover()

        assert counts(result) == {
            "upcomingPhasesScheduled": 119,
            "unchangedPhases": 119,
            "failedPhases": 2,
        }
        reasons = " ".join(error["reason"] for error in result.errors)
        assert challenge_id(60) in reasons
        assert result.status == "COMPLETED_WITH_ERRORS"

    @pytest.mark.parametrize(
        "change",
        [
            {"scheduledEndDate": "not-a-date"},
            {"scheduledEndDate": "2026-03-01T00:00:00"},
            {"scheduledEndDate": 5},
            {"scheduledStartDate": "2031-01-01T00:00:00Z", "actualStartDate": None},
            {"scheduledEndDate": None},
        ],
        ids=["no date", "no zone", "wrong type", "ends before it starts", "no end"],
    )
    def test_phase_is_left_out_and_named(self, upstream, recover, change):
        challenge = upstream.add(1, phases=2)
        challenge["phases"][0].update(change)
        upstream.add(2, phases=1)

        result = recover()

        made = {(job[0], job[1]) for job in jobs()}
        assert (phase_id(1, 0), "END") not in made
        assert {(phase_id(1, 1), "END"), (phase_id(2, 0), "END")} <= made
        assert [error["phaseId"] for error in result.errors] == [phase_id(1, 0)]
        assert result.skippedPhases >= 1
        assert result.totalPhasesProcessed == sum(counts(result).values()) == 6

    @pytest.mark.parametrize("wrong", [0, -4, "abc", 1.5, True, None])
    def test_ids_are_left_out(self, upstream, recover, wrong):
        challenge = upstream.add(1, phases=2)
        challenge["phases"][0]["id"] = wrong

        result = recover()

        assert result.skippedPhases == 2
        assert result.errors[0]["phaseId"] is None
        assert {job[0] for job in jobs()} == {phase_id(1, 1)}

    def test_phase_keeps_its_challenge_from_being_touched_where_none_is_skipped(
        self, upstream, recover, recovery_settings
    ):
        recovery_settings(skip_invalid_phases=False)
        upstream.add(1, phases=3)["phases"][0]["scheduledEndDate"] = "never"
        wrong = upstream.add(2, phases=1)["phases"][0]
        wrong.update(scheduledStartDate="2031-01-01T00:00:00Z", actualStartDate=None)
        upstream.add(3, phases=1)

        result = recover()

        assert {job[0] for job in jobs()} == {phase_id(3, 0)}
        assert counts(result) == {
            "failedPhases": 8,
            "upcomingPhasesScheduled": 1,
            "unchangedPhases": 1,
        }
        assert {error["phaseId"] for error in result.errors} == {
            phase_id(1, 0),
            phase_id(1, 1),
            phase_id(1, 2),
            phase_id(2, 0),
        }

    def test_phases_leave_their_live_jobs_alone(self, upstream, recover):
        challenge = upstream.add(1, phases=1)
        recover()
        before = jobs()
        challenge["phases"][0]["scheduledStartDate"] = "2031-01-01T00:00:00Z"
        del challenge["phases"][0]["actualStartDate"]

        recover()

        assert jobs() == before

    def test_phase_that_breaks_in_the_database_stops_no_other(
        self, upstream, recover, monkeypatch
    ):
        from recovery.services import batches

        real = batches.apply_challenges

        def apply(readings, **arguments):
            if any(one.challenge.challenge_id == challenge_id(7) for one in readings):
                raise ZeroDivisionError
            return real(readings, **arguments)

        monkeypatch.setattr(batches, "apply_challenges", apply)
        for number in range(1, 21):
            upstream.add(number, phases=1)

        result = recover()

        assert counts(result) == {
            "upcomingPhasesScheduled": 19,
            "unchangedPhases": 19,
            "failedPhases": 2,
        }
        (error,) = result.errors
        assert error["phaseId"] == phase_id(7)
        assert "ZeroDivisionError" in error["reason"]


class TestUnknownOutcome:
    def test_is_searched_for_before_a_job_is_moved(self, upstream, recover, kafka, now):
        upstream.add(1, phases=1, due_in=7200)
        place = {"project_id": "70001", "phase_id": phase_id(1)}
        job = make_job(UNPROVEN, now=now, due_in=3600, **place)
        put_event(job, at=now)

        recover()

        assert columns(job)["status"] == "completed"
        assert job_of(1).due_at == now + hours(2)

    def test_fails_its_challenge_while_the_topic_is_away(
        self, upstream, recover, settings, monkeypatch, now
    ):
        monkeypatch.setattr("scheduling.services.unproven.SEARCH_SECONDS", 0.5)
        for number in range(1, 5):
            upstream.add(number, phases=1, due_in=7200)
        place = {"project_id": "70001", "phase_id": phase_id(1)}
        job = make_job(UNPROVEN, now=now, due_in=3600, **place)
        cut_off(settings)

        result = recover()

        assert columns(job)["due_at"] == now + hours(1)
        assert counts(result) == {
            "failedPhases": 2,
            "upcomingPhasesScheduled": 3,
            "unchangedPhases": 3,
        }


class TestDryRun:
    def test_counts_the_same_and_writes_nothing(self, upstream, recover, operator, now):
        for number in range(1, 6):
            upstream.add(number, phases=2)
        recover()
        move(upstream[1]["phases"][0], hours(5), "scheduledEndDate")
        upstream[2]["phases"][0]["actualEndDate"] = format_instant(now)
        upstream[3]["status"] = "COMPLETED"
        upstream.add(6, phases=1, due_in=-60)
        upstream.add(7, phases=1, due_in=-80 * 3600)
        upstream.add(8, phases=1, due_in=95 * 86_400)
        upstream.add(9, phases=2)
        upstream[9]["phases"][0]["scheduledEndDate"] = "never"
        make_job(now=now, due_in=-73 * 3600)
        make_job(now=now, due_in=-60)
        make_job(RUNNING, now=now, lease_until=now - timedelta(seconds=1))
        before = everything()

        dry = recover(dry_run=True)
        untouched = everything() == before
        real = recover()

        assert untouched
        assert dry.dryRun
        assert counts(dry) == counts(real)
        assert dry.errors == real.errors
        assert {"rescheduledPhases", "cancelledJobs", "rescuedJobs"} <= counts(dry).keys()


class TestRequest:
    def test_is_refused_to_a_viewer(self, transactional_db, viewer):
        with pytest.raises(OperationNotPermittedError):
            execute_startup_recovery(trigger="manual", actor=viewer)

        assert not RecoveryRun.objects.exists()

    @pytest.mark.parametrize("project_id", [0, -1, True, 1.5, "12345", "x", ""])
    def test_names_a_project_that_can_be_none(self, recover, project_id):
        with pytest.raises(InvalidRequestError, match="projectId"):
            recover(project_id=project_id)

    def test_names_a_trigger_that_is_none(self, recover):
        with pytest.raises(InvalidRequestError, match="trigger"):
            recover(trigger="whim")

    def test_finds_recovery_disabled(self, upstream, recover, recovery_settings, now):
        recovery_settings(enabled=False)
        upstream.add(1)
        old = make_job(now=now, due_in=-73 * 3600)

        result = recover()

        assert (result.status, counts(result)) == ("DISABLED", {})
        assert columns(old)["status"] == "scheduled"
        assert len(jobs()) == 1

    def test_is_audited_with_who_asked_and_what_came_of_it(
        self, upstream, recover, operator
    ):
        upstream.add(1, phases=1)

        result = recover(actor=operator)

        began, ended = AuditEntry.objects.filter(action__startswith="recovery.")
        assert [began.action, ended.action] == ["recovery.started", "recovery.finished"]
        assert {began.actor, ended.actor} == {"user:olivia"}
        assert ended.changes["runId"] == result.runId
        assert ended.changes["status"] == "COMPLETED"
        assert ended.changes["counts"]["upcomingPhasesScheduled"] == 1


class TestMockMode:
    def test_reads_the_samples(self, recover, recovery_settings):
        recovery_settings(challenge_service_mock_mode=True)

        result = recover(actor=RECOVERY)

        assert result.status == "COMPLETED"
        assert ScheduledTransition.objects.count() > 5

    def test_moves_nothing_the_second_time(self, recover, recovery_settings):
        recovery_settings(challenge_service_mock_mode=True)
        recover()
        before = {row["job_id"] for row in everything()[0]}

        recover()

        assert {row["job_id"] for row in everything()[0]} == before
