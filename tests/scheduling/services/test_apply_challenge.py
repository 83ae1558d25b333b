"""What rows are left behind by what upstream tells of a challenge."""

import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import transaction

from scheduling.domain.actors import CONSUMER
from scheduling.domain.challenges import Challenge, Phase, Reading, Scope
from scheduling.domain.errors import OperationNotPermittedError, ServiceUnavailableError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.plan import Decision, Finding
from scheduling.models import AuditEntry, ScheduledTransition, SettledTransition
from scheduling.models import Challenge as ChallengeRow
from scheduling.models import Phase as PhaseRow
from scheduling.services import unproven
from scheduling.services.apply_challenge import (
    Verdict,
    apply_challenge,
    apply_challenges,
)
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import clean_up
from scheduling.services.schedule import schedule_transition
from scheduling.services.unproven import OutcomeUnknownError, prove_by_id
from scheduling.services.update import Update, update_transition
from tests.support.histories import (
    COMPLETED,
    EXPIRED,
    FAILED,
    RUNNING,
    SCHEDULED,
    UNPROVEN,
    audit_of,
    chain_breaks,
    columns,
    make_job,
)

S = TransitionStatus
PROJECT, CHALLENGE = "200", "100"
pytestmark = pytest.mark.django_db


def hours(number):
    return timedelta(hours=number)


def phase(phase_id="1", **fields):
    return Phase(phase_id=phase_id, name=f"Phase {phase_id}", **fields)


def reading(*phases, scope=Scope.ENDS, said_at=None, challenge_id=CHALLENGE, **fields):
    values = {"project_id": PROJECT, "status": "ACTIVE", "operator": "admin", **fields}
    challenge = Challenge(challenge_id=challenge_id, phases=phases, **values)
    return Reading(
        challenge=challenge,
        source="autopilot.challenge.update",
        scope=scope,
        said_at=said_at,
    )


@pytest.fixture
def apply(now):
    """Apply a reading now, as the consumer does."""

    def apply_now(one, *, at=now, **arguments):
        return apply_challenge(one, actor=CONSUMER, now=at, **arguments)

    return apply_now


def ends(now, *instants):
    """Return phases 1, 2, … with these ends, in hours from now."""
    return [
        phase(str(number), scheduled_end_at=now + hours(instant))
        for number, instant in enumerate(instants, start=1)
    ]


def jobs():
    """Return status, identity and instants of all jobs."""
    rows = ScheduledTransition.objects.order_by("phase_id", "state", "id")
    return [(row.phase_id, row.state, row.status, row.due_at) for row in rows]


def everything():
    """Return all jobs, and the keys of all audit entries."""
    rows = list(ScheduledTransition.objects.order_by("id").values())
    return rows, list(AuditEntry.objects.order_by("id").values_list("id", flat=True))


def what_was_read():
    """Return all that is kept of challenges and phases."""
    return list(ChallengeRow.objects.values()), list(PhaseRow.objects.values())


class TestApplyEnds:
    def test_schedules_an_end_for_each_phase(self, apply, now):
        applied = apply(reading(*ends(now, 5, 7)))

        assert jobs() == [
            ("1", "END", "scheduled", now + hours(5)),
            ("2", "END", "scheduled", now + hours(7)),
        ]
        assert applied.verdict is Verdict.PLANNED
        assert applied.counts == {Finding.SCHEDULE: 2}

    def test_makes_jobs_with_all_that_upstream_tells(self, apply, now):
        apply(reading(*ends(now, 5)))

        job = ScheduledTransition.objects.get()
        assert (job.project_id, job.challenge_id, job.key) == (
            PROJECT,
            CHALLENGE,
            CHALLENGE,
        )
        assert (job.phase_type_name, job.operator) == ("Phase 1", "admin")
        assert (job.project_status, job.metadata) == ("ACTIVE", {})
        assert job.upstream_at == job.due_at == now + hours(5)
        (entry,) = audit_of(job.job_id)
        assert (entry.action, entry.actor) == ("transition.scheduled", "system:consumer")
        assert entry.reason == "autopilot.challenge.update, by admin"

    def test_moves_live_jobs_to_their_new_ends(self, apply, now):
        apply(reading(*ends(now, 5, 7, 9)))

        applied = apply(reading(*ends(now, 77, 79, 81)))

        live = ScheduledTransition.objects.live()
        assert {job.due_at for job in live} == {now + hours(h) for h in (77, 79, 81)}
        assert applied.counts == {Finding.MOVE: 3}
        for job in live:
            (old,) = ScheduledTransition.objects.filter(job_id=job.replaces)
            assert (old.status, old.replaced_by) == ("cancelled", job.job_id)
            moved = audit_of(old.job_id)[-1]
            assert moved.action == "transition.updated"
            assert moved.changes["replacedBy"] == job.job_id
            assert "by admin" in moved.reason
            assert chain_breaks(old.job_id) + chain_breaks(job.job_id) == []
            assert job.upstream_at == job.due_at

    def test_moves_a_job_that_a_person_scheduled(self, apply, now, phase_data, operator):
        data = phase_data(projectId=int(PROJECT), phaseId=1)
        old = schedule_transition(data, actor=operator, now=now).job

        apply(reading(*ends(now, 5)))

        assert columns(old)["status"] == "cancelled"
        assert ScheduledTransition.objects.live().get().due_at == now + hours(5)

    def test_changes_nothing_the_second_time(self, apply, now):
        apply(reading(*ends(now, 5, -1, -80)))
        before = everything()

        for _ in range(10):
            applied = apply(reading(*ends(now, 5, -1, -80)))

        assert everything() == before
        assert applied.counts == {Finding.UNCHANGED: 2, Finding.SETTLED: 1}

    @pytest.mark.parametrize(
        ("due", "status"),
        [(-1, "scheduled"), (-71, "scheduled"), (-73, "expired")],
    )
    def test_gives_what_is_past_a_job_of_its_original_instant(
        self, apply, now, due, status
    ):
        apply(reading(*ends(now, due)))

        job = ScheduledTransition.objects.get()
        assert (job.status, job.due_at) == (status, now + hours(due))
        assert job.ready_at == job.event_at == job.due_at
        assert [one.new_status for one in audit_of(job.job_id)] == [status]

    def test_moves_a_live_job_into_the_past(self, apply, now):
        apply(reading(*ends(now, 5)))

        apply(reading(*ends(now, -1)))

        job = ScheduledTransition.objects.live().get()
        assert (job.due_at, job.ready_at) == (now - hours(1), now - hours(1))

    def test_schedules_within_the_minimum_advance(self, apply, now):
        instant = now + timedelta(milliseconds=1)

        apply(reading(phase(scheduled_end_at=instant)))

        assert ScheduledTransition.objects.get().due_at == instant

    def test_skips_what_is_too_far_ahead_with_a_line(self, apply, now, caplog):
        with caplog.at_level(logging.INFO, "autopilot.planning"):
            applied = apply(reading(*ends(now, 24 * 90 + 1)))

        assert jobs() == []
        assert applied.counts == {Finding.TOO_FAR: 1}
        assert "SCHEDULER_MAX_SCHEDULE_ADVANCE" in caplog.text

    def test_moves_a_live_job_however_far(self, apply, now):
        apply(reading(*ends(now, 5)))

        apply(reading(*ends(now, 24 * 100)))

        assert ScheduledTransition.objects.live().get().due_at == now + hours(2400)

    def test_without_phases_marks_the_challenge_to_be_read(self, apply, now):
        applied = apply(reading())

        row = ChallengeRow.objects.get()
        assert (applied.verdict, row.must_be_read_since) == (Verdict.RECORDED, now)

    def test_keeps_the_first_instant_since_when_it_must_be_read(self, apply, now):
        apply(reading())

        apply(reading(), at=now + hours(1))

        assert ChallengeRow.objects.get().must_be_read_since == now


class TestApplyWhole:
    def whole(self, *phases, **fields):
        return reading(*phases, scope=Scope.WHOLE, **fields)

    def test_schedules_starts_and_ends(self, apply, now):
        first = phase(
            "1",
            template_id="71",
            scheduled_start_at=now - hours(1),
            actual_start_at=now - hours(1),
            scheduled_end_at=now + hours(5),
        )
        second = phase(
            "2",
            scheduled_start_at=now + hours(4),
            scheduled_end_at=now + hours(9),
            predecessor="71",
        )

        apply(self.whole(first, second))

        assert jobs() == [
            ("1", "END", "scheduled", now + hours(5)),
            ("2", "END", "scheduled", now + hours(9)),
            ("2", "START", "scheduled", now + hours(5)),
        ]

    def test_keeps_what_was_read(self, apply, now):
        one = phase(
            "1",
            template_id="71",
            scheduled_start_at=now,
            scheduled_end_at=now + hours(5),
            actual_start_at=now + hours(1),
            predecessor="70",
        )
        apply(reading())

        apply(self.whole(phase("9"), one, name="A challenge", said_at=now))

        row = ChallengeRow.objects.get()
        assert (row.challenge_id, row.project_id, row.name) == (
            CHALLENGE,
            PROJECT,
            "A challenge",
        )
        assert (row.status, row.read_at, row.newest_message_at) == ("ACTIVE", now, now)
        assert row.must_be_read_since is None
        kept = PhaseRow.objects.get(challenge=row, phase_id="1")
        assert (kept.name, kept.template_id, kept.position) == ("Phase 1", "71", 1)
        assert (kept.scheduled_start_at, kept.scheduled_end_at) == (now, now + hours(5))
        assert (kept.actual_start_at, kept.actual_end_at) == (now + hours(1), None)
        assert kept.predecessor == "70"

    def test_of_ends_later_only_moves_the_ends(self, apply, now):
        apply(self.whole(phase(scheduled_start_at=now, predecessor="70")))

        apply(reading(phase(scheduled_end_at=now + hours(5))))

        kept = PhaseRow.objects.get()
        assert (kept.scheduled_start_at, kept.predecessor) == (now, "70")
        assert kept.scheduled_end_at == now + hours(5)

    def test_reports_an_end_without_instant(self, apply, now):
        applied = apply(self.whole(phase(scheduled_start_at=now + hours(1))))

        assert applied.counts == {Finding.SCHEDULE: 1, Finding.UNDATED: 1}
        assert [row[1] for row in jobs()] == ["START"]

    def test_cancels_the_jobs_of_what_has_happened(self, apply, now):
        instants = {"scheduled_start_at": now, "scheduled_end_at": now + hours(5)}
        apply(self.whole(phase("1", **instants), phase("2", **instants)))

        applied = apply(
            self.whole(
                phase("1", actual_start_at=now, **instants),
                phase("2", actual_start_at=now, actual_end_at=now, **instants),
            )
        )

        assert [row[:3] for row in jobs()] == [
            ("1", "END", "scheduled"),
            ("1", "START", "cancelled"),
            ("2", "END", "cancelled"),
            ("2", "START", "cancelled"),
        ]
        assert applied.counts == {Finding.CANCEL: 3, Finding.UNCHANGED: 1}
        cancelled = ScheduledTransition.objects.filter(status="cancelled")
        for job in cancelled:
            assert "happened already" in audit_of(job.job_id)[-1].reason
            assert not job.is_overridden

    def test_cancels_nothing_of_a_phase_that_is_missing(self, apply, now):
        apply(self.whole(*ends(now, 5, 7)))

        apply(self.whole(*ends(now, 5)))

        assert [row[2] for row in jobs()] == ["scheduled", "scheduled"]

    def test_of_an_empty_list_cancels_nothing(self, apply, now):
        apply(self.whole(*ends(now, 5)))
        before = everything()

        applied = apply(self.whole())

        assert (everything(), applied.verdict) == (before, Verdict.RECORDED)
        assert ChallengeRow.objects.get().must_be_read_since == now


class TestApplyStatus:
    @pytest.mark.parametrize(
        "status", ["COMPLETED", "DELETED", "CANCELLED", "CANCELLED_ZERO_SUBMISSIONS"]
    )
    def test_cancels_the_jobs_of_a_challenge_that_is_over(self, apply, now, status):
        own = make_job(now=now, project_id=PROJECT, challenge_id=CHALLENGE)
        nameless = make_job(now=now, project_id=PROJECT)
        elsewhere = make_job(now=now, project_id="999", challenge_id=CHALLENGE)
        others = [
            make_job(now=now, project_id=PROJECT, challenge_id="101"),
            make_job(now=now, project_id="999"),
            make_job(RUNNING, now=now, project_id=PROJECT, challenge_id=CHALLENGE),
            make_job(FAILED, now=now, project_id=PROJECT, challenge_id=CHALLENGE),
        ]
        before = [columns(job) for job in others]

        applied = apply(reading(*ends(now, 5), status=status))

        over = [own, nameless, elsewhere]
        assert [columns(job)["status"] for job in over] == ["cancelled"] * 3
        assert sorted(applied.cancelled) == sorted(job.job_id for job in over)
        assert applied.verdict is Verdict.OVER
        assert [columns(job) for job in others] == before
        for job in over:
            last = audit_of(job.job_id)[-1]
            assert (last.actor, last.action) == ("system:consumer", "transition.cancelled")
            assert status in last.reason

    @pytest.mark.parametrize("status", ["DRAFT", "NEW", "APPROVED", "active", "COMPLETE"])
    def test_neither_schedules_nor_cancels_where_it_is_not_active(self, apply, now, status):
        job = make_job(now=now, project_id=PROJECT, challenge_id=CHALLENGE)
        before = everything()

        applied = apply(reading(*ends(now, 5), status=status))

        assert (everything(), applied.verdict) == (before, Verdict.RECORDED)
        assert ChallengeRow.objects.get().status == status
        assert columns(job)["status"] == "scheduled"

    @pytest.mark.parametrize("scope", Scope)
    def test_makes_no_jobs_once_it_was_over(self, apply, now, scope):
        apply(reading(status="CANCELLED", said_at=now))

        later = reading(*ends(now, 5), scope=scope, said_at=now + hours(1))
        for _ in range(2):
            applied = apply(later)

        assert (jobs(), applied.verdict) == ([], Verdict.RECORDED)
        assert ChallengeRow.objects.get().status == "CANCELLED"


class TestApplyStale:
    def test_a_message_from_the_far_future_does_not_make_later_ones_old(self, apply, now):
        apply(reading(*ends(now, 5), said_at=now + timedelta(days=3000)))

        applied = apply(
            reading(status="COMPLETED", said_at=now + timedelta(milliseconds=1))
        )

        assert applied.verdict is Verdict.OVER
        assert not ScheduledTransition.objects.live().exists()

    def test_changes_nothing(self, apply, now):
        apply(reading(*ends(now, 5), said_at=now))
        before = everything(), what_was_read()

        applied = apply(
            reading(*ends(now, 9), status="ACTIVE", said_at=now - timedelta(milliseconds=1))
        )

        assert applied.verdict is Verdict.STALE
        assert before == (everything(), what_was_read())

    def test_does_not_cancel(self, apply, now):
        apply(reading(*ends(now, 5), said_at=now))

        apply(reading(status="CANCELLED", said_at=now - hours(1)))

        assert [row[2] for row in jobs()] == ["scheduled"]

    @pytest.mark.parametrize("later", [timedelta(), timedelta(milliseconds=1)])
    def test_is_not_what_was_said_at_the_same_time_or_later(self, apply, now, later):
        apply(reading(*ends(now, 5), said_at=now))

        apply(reading(*ends(now, 9), said_at=now + later))

        assert ScheduledTransition.objects.live().get().due_at == now + hours(9)

    def test_concerns_one_challenge_only(self, apply, now):
        apply(reading(*ends(now, 5), said_at=now))

        applied = apply(
            reading(
                *ends(now, 9), said_at=now - hours(1), challenge_id="101", project_id="1"
            )
        )

        assert applied.verdict is Verdict.PLANNED


class TestApplySettled:
    @pytest.mark.parametrize("history", [COMPLETED, FAILED, EXPIRED])
    def test_makes_nothing_again_for_the_same_instant(self, apply, now, history):
        done = make_job(history, now=now, project_id=PROJECT, phase_id="1", due_in=-60)
        before = everything()

        applied = apply(reading(phase(scheduled_end_at=done.due_at)))

        assert everything() == before
        assert applied.counts == {Finding.SETTLED: 1}

    @pytest.mark.parametrize("history", [COMPLETED, FAILED, EXPIRED])
    def test_makes_a_job_for_another_instant(self, apply, now, history):
        make_job(history, now=now, project_id=PROJECT, phase_id="1", due_in=-60)

        apply(reading(*ends(now, 5)))

        assert ScheduledTransition.objects.live().get().due_at == now + hours(5)

    def test_leaves_what_a_person_cancelled_until_upstream_shows_another_instant(
        self, apply, now, operator
    ):
        apply(reading(*ends(now, 5)))
        job = ScheduledTransition.objects.get()
        cancel_transition(job_id=job.job_id, actor=operator, reason="no", now=now)

        apply(reading(*ends(now, 5)))
        left = ScheduledTransition.objects.live().count()
        apply(reading(*ends(now, 6)))

        assert left == 0
        assert ScheduledTransition.objects.live().get().due_at == now + hours(6)

    def test_leaves_what_a_person_moved_until_upstream_shows_another_instant(
        self, apply, now, operator
    ):
        apply(reading(*ends(now, 5)))
        job = ScheduledTransition.objects.get()
        update = Update(end_time=now + hours(8))
        moved = update_transition(job_id=job.job_id, update=update, actor=operator, now=now)

        first = apply(reading(*ends(now, 5)))
        stayed = columns(moved)["status"]
        apply(reading(*ends(now, 6)))

        assert first.counts == {Finding.OVERRIDDEN: 1}
        assert stayed == "scheduled"
        assert ScheduledTransition.objects.live().get().due_at == now + hours(6)

    @pytest.mark.parametrize("is_person", [True, False])
    def test_remembers_after_clean_up(self, apply, now, operator, is_person):
        apply(reading(*ends(now, 5)))
        job = ScheduledTransition.objects.get()
        if is_person:
            cancel_transition(job_id=job.job_id, actor=operator, reason="no", now=now)
        else:
            job.delete()
            make_job(COMPLETED, now=now, project_id=PROJECT, phase_id="1", due_in=5 * 3600)
        clean_up(now=now + hours(2))

        applied = apply(reading(*ends(now, 5)))

        assert SettledTransition.objects.count() == 1
        assert (jobs(), applied.counts) == ([], {Finding.SETTLED: 1})

    def test_leaves_a_running_job_to_finish(self, apply, now):
        job = make_job(RUNNING, now=now, project_id=PROJECT, phase_id="1", due_in=-1)
        before = everything()

        applied = apply(reading(*ends(now, 5)))

        assert (everything(), applied.counts) == (before, {Finding.RUNNING: 1})
        assert columns(job)["status"] == "running"


class TestApplyUnproven:
    @pytest.fixture
    def job(self, now):
        return make_job(UNPROVEN, now=now, project_id=PROJECT, phase_id="1", due_in=-5)

    @pytest.fixture
    def topic(self, monkeypatch):
        """Play the topic: what is found there, or that it can't be searched."""
        found = {}

        def find_events(wanted, *, timeout_seconds):
            assert not transaction.get_connection().in_atomic_block
            if "down" in found:
                raise ServiceUnavailableError("down")
            return {event: place for event, place in found.items() if event in wanted}

        monkeypatch.setattr(unproven, "find_events", find_events)
        return found

    @pytest.mark.parametrize("status", ["ACTIVE", "CANCELLED"])
    def test_changes_nothing_before_the_topic_was_searched(self, apply, now, job, status):
        before = everything()

        with pytest.raises(OutcomeUnknownError) as refusal:
            apply(reading(*ends(now, 5), status=status))

        assert refusal.value.job_ids == [job.job_id]
        assert everything() == before
        assert not ChallengeRow.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestProveOutcomes(TestApplyUnproven):
    def test_lets_a_job_be_moved_that_is_not_on_the_topic(self, apply, now, job, topic):
        proven = prove_by_id([job.job_id], now=now)

        apply(reading(*ends(now, 5)), proven=proven)

        assert ScheduledTransition.objects.live().get().due_at == now + hours(5)
        assert columns(job)["status"] == "cancelled"
        assert chain_breaks(job.job_id) == []

    def test_lets_a_job_be_cancelled_that_is_not_on_the_topic(self, apply, now, job, topic):
        proven = prove_by_id([job.job_id], now=now)

        apply(reading(status="CANCELLED"), proven=proven)

        assert columns(job)["status"] == "cancelled"

    def test_completes_a_job_that_is(self, apply, now, job, topic):
        topic[job.event_id] = unproven.FoundEvent(0, 7, now)

        proven = prove_by_id([job.job_id], now=now)
        apply(reading(*ends(now, 5)), proven=proven)

        assert columns(job)["status"] == "completed"
        assert ScheduledTransition.objects.live().get().due_at == now + hours(5)

    def test_counts_for_the_attempt_that_was_searched_for_only(
        self, apply, now, job, topic
    ):
        proven = prove_by_id([job.job_id], now=now)
        ScheduledTransition.objects.filter(pk=job.pk).update(unproven_since=now + hours(1))

        with pytest.raises(OutcomeUnknownError):
            apply(reading(*ends(now, 5)), proven=proven)

    def test_says_so_where_the_topic_can_not_be_searched(self, now, job, topic):
        topic["down"] = True

        with pytest.raises(ServiceUnavailableError):
            prove_by_id([job.job_id], now=now)

    def test_passes_over_a_job_that_is_gone(self, now):
        assert prove_by_id(["job-1-2-3"], now=now) == {}


class TestApplyChallenges:
    def test_applies_many_by_few_statements(self, now, django_assert_max_num_queries):
        readings = [
            reading(*ends(now, 5, 7), challenge_id=str(n), project_id=str(n))
            for n in range(1, 101)
        ]

        with django_assert_max_num_queries(40):
            applied = apply_challenges(readings, actor=CONSUMER, now=now)

        assert ScheduledTransition.objects.live().count() == 200
        assert [one.reading for one in applied] == readings

    def test_keeps_each_apart(self, now):
        first = reading(*ends(now, 5), challenge_id="1", project_id="1")
        over = reading(challenge_id="2", project_id="2", status="COMPLETED")
        third = reading(*ends(now, 9), challenge_id="3", project_id="3", operator="cleo")
        job = make_job(SCHEDULED, now=now, project_id="2", challenge_id="2")

        verdicts = [
            one.verdict
            for one in apply_challenges([first, over, third], actor=CONSUMER, now=now)
        ]

        assert verdicts == [Verdict.PLANNED, Verdict.OVER, Verdict.PLANNED]
        assert columns(job)["status"] == "cancelled"
        live = ScheduledTransition.objects.live()
        assert {(row.project_id, row.operator) for row in live} == {
            ("1", "admin"),
            ("3", "cleo"),
        }

    def test_refuses_an_actor_who_may_not_schedule(self, now, viewer):
        with pytest.raises(OperationNotPermittedError):
            apply_challenges([reading(*ends(now, 5))], actor=viewer, now=now)

        assert not ChallengeRow.objects.exists()

    @pytest.mark.parametrize(
        ("decision", "status", "reason"),
        [
            (Decision.FIRE, "scheduled", ""),
            (Decision.EXPIRE, "expired", ": found overdue by more than the age limit"),
            (Decision.ASK, "expired", ": found overdue: a person decides"),
        ],
    )
    def test_does_with_what_is_overdue_as_is_decided(self, now, decision, status, reason):
        (applied,) = apply_challenges(
            [reading(*ends(now, -1))], actor=CONSUMER, now=now, decide=lambda _: decision
        )

        assert applied.counts == {Finding(decision.value): 1}
        assert [row[2] for row in jobs()] == [status]
        (entry,) = audit_of(ScheduledTransition.objects.get().job_id)
        assert entry.reason == f"autopilot.challenge.update, by admin{reason}"

    def test_tells_a_message_of_another_operator_from_the_first(self, now):
        one = reading(*ends(now, 5))

        apply_challenge(one, actor=CONSUMER, now=now)
        other = replace(one, challenge=replace(one.challenge, operator="cleo"))
        applied = apply_challenge(other, actor=CONSUMER, now=now)

        assert applied.counts == {Finding.UNCHANGED: 1}
        assert ScheduledTransition.objects.get().operator == "admin"
