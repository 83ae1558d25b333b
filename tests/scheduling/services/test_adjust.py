import json
import random
import time
import uuid
from datetime import datetime, timedelta

import pytest
from django.db import OperationalError, connection

from scheduling.domain.actors import RECOVERY, Role, user_actor
from scheduling.domain.adjustment_request import read_adjustment
from scheduling.domain.challenges import Challenge as ReadChallenge
from scheduling.domain.challenges import Phase as ReadPhase
from scheduling.domain.challenges import Reading
from scheduling.domain.errors import (
    ConflictError,
    OperationNotPermittedError,
    SchedulingError,
    ServiceUnavailableError,
)
from scheduling.domain.phases import format_instant
from scheduling.domain.plan import Finding
from scheduling.models import AdjustmentBatch, AuditEntry, ScheduledTransition
from scheduling.services import adjust as adjusting
from scheduling.services.adjust import adjust_schedules
from scheduling.services.adjustment_batches import KEPT, forget_old_batches
from scheduling.services.apply_challenge import apply_challenge
from scheduling.services.cancel import cancel_transition
from scheduling.services.schedule import schedule_many
from tests.support.claiming import claim_due
from tests.support.histories import (
    COMPLETED,
    RUNNING,
    UNPROVEN,
    audit_of,
    chain_breaks,
    columns,
    make_job,
    state_of,
)
from tests.support.threads import run_together
from tests.support.topic import cut_off, put_event

PROJECT, CHALLENGE = 501, 77
REASON = "the client asked for more time"


@pytest.fixture
def adjust(operator, now):
    """Adjust schedules and return the answer."""

    def make(*changes, actor=operator, at=now, **fields):
        body = {"changes": list(changes), "updateReason": REASON, **fields}
        return adjust_schedules(read_adjustment(body), actor=actor, now=at)

    return make


@pytest.fixture
def change(now):
    """Return a maker of changes: a phase's END, that many hours from now."""

    def make(phase_id, hours, **fields):
        return {
            "projectId": PROJECT,
            "phaseId": phase_id,
            "newEndTime": format_instant(now + timedelta(hours=hours)),
            **fields,
        }

    return make


@pytest.fixture
def read_chain(now):
    """Apply a reading of a challenge: phases 1, 2, 3 of two hours, one after the other."""

    def make(*, challenge=CHALLENGE, project=PROJECT, status="ACTIVE", first=1):
        phases = tuple(
            ReadPhase(
                phase_id=str(first + n),
                name=f"Phase {first + n}",
                scheduled_start_at=now + timedelta(hours=1 + 2 * n),
                scheduled_end_at=now + timedelta(hours=3 + 2 * n),
                predecessor=str(first + n - 1) if n else "",
            )
            for n in range(3)
        )
        reading = Reading(
            challenge=ReadChallenge(
                challenge_id=str(challenge),
                project_id=str(project),
                status=status,
                phases=phases,
            ),
            source="a test",
        )
        return apply_challenge(reading, actor=RECOVERY, now=now)

    return make


def live(now, **where):
    """Return the live jobs: `START 2` to the hours from now."""
    jobs = ScheduledTransition.objects.live().filter(**where).order_by("due_at", "id")
    return {
        f"{job.state} {job.phase_id}": (job.due_at - now) / timedelta(hours=1)
        for job in jobs
    }


def without_ids(answer):
    """Return an answer as a dry run gives it."""
    plain = json.loads(json.dumps(answer))
    for jobs in (plain["details"]["rescheduled"], plain["details"]["created"]):
        for job in jobs:
            job["newJobId"] = None
    return {**plain, "dryRun": True}


def everything():
    """Return all that a refused request must leave alone."""
    return (
        list(ScheduledTransition.objects.order_by("pk").values()),
        AuditEntry.objects.count(),
        AdjustmentBatch.objects.count(),
    )


@pytest.mark.django_db
class TestAdjustSchedules:
    def test_replaces_a_job_as_an_update_does(self, adjust, change, now):
        old = make_job(
            now=now,
            project_id=str(PROJECT),
            phase_id="9",
            challenge_id="7",
            metadata={"a": 1},
            due_in=3600,
        )

        answer = adjust(change(9, 2))

        was, new = columns(old), ScheduledTransition.objects.live().get()
        assert (was["status"], was["replaced_by"]) == ("cancelled", new.job_id)
        assert was["finalized_at"] == was["updated_at"] == now
        assert new.due_at == new.event_at == new.ready_at == now + timedelta(hours=2)
        assert new.replaces == old.job_id
        assert new.event_id != old.event_id
        kept = ["challenge_id", "key", "metadata", "phase_type_name", "operator"]
        assert [getattr(new, name) for name in kept] == [was[name] for name in kept]
        assert answer == {
            "success": True,
            "dryRun": False,
            "adjustedCount": 1,
            "unchangedCount": 0,
            "rescheduledCount": 1,
            "createdCount": 0,
            "cancelledCount": 0,
            "conflicts": [],
            "errors": [],
            "details": {
                "rescheduled": [
                    {
                        "oldJobId": old.job_id,
                        "newJobId": new.job_id,
                        "phaseId": 9,
                        "oldEndTime": format_instant(old.due_at),
                        "newEndTime": format_instant(new.due_at),
                    }
                ],
                "created": [],
                "cancelled": [],
            },
            "batchId": None,
        }

    def test_audits_both_jobs_as_an_update_does(self, adjust, change, now):
        old = make_job(now=now, project_id=str(PROJECT), phase_id="9")

        adjust(change(9, 2))

        new = ScheduledTransition.objects.live().get()
        last, (first,) = audit_of(old.job_id)[-1], audit_of(new.job_id)
        assert (last.action, last.old_status) == ("transition.updated", "scheduled")
        assert last.changes == {
            "endTime": [format_instant(old.due_at), format_instant(new.due_at)],
            "replacedBy": new.job_id,
        }
        assert first.changes["replaces"] == old.job_id
        assert {one.actor for one in (last, first)} == {"user:olivia"}
        assert {one.reason for one in (last, first)} == {REASON}
        assert chain_breaks(old.job_id) == chain_breaks(new.job_id) == []

    def test_gives_each_change_its_own_reason(self, adjust, change, now):
        for phase in ("8", "9"):
            make_job(now=now, project_id=str(PROJECT), phase_id=phase)

        adjust(change(8, 2, changeReason="a holiday"), change(9, 2))

        told = AuditEntry.objects.filter(actor="user:olivia").order_by("phase_id", "id")
        assert [one.reason for one in told] == ["a holiday"] * 2 + [REASON] * 2

    def test_makes_a_job_where_there_is_none(self, adjust, change, now):
        answer = adjust(change(9, 2, state="START", phaseTypeName="Review"))

        job = ScheduledTransition.objects.get()
        assert answer["createdCount"] == answer["adjustedCount"] == 1
        assert answer["details"]["created"] == [
            {
                "newJobId": job.job_id,
                "projectId": PROJECT,
                "phaseId": 9,
                "state": "START",
                "newEndTime": format_instant(job.due_at),
            }
        ]
        assert (job.phase_type_name, job.project_status) == ("Review", "ACTIVE")
        assert (job.operator, job.challenge_id) == ("olivia", None)
        assert not job.is_overridden
        assert [one.action for one in audit_of(job.job_id)] == ["transition.scheduled"]

    def test_takes_what_a_new_job_lacks_from_what_was_last_read(
        self, adjust, change, read_chain
    ):
        read_chain(status="DRAFT")

        adjust(change(2, 5, phaseTypeName="Review"), operator="manager")

        job = ScheduledTransition.objects.live().get()
        assert (job.project_status, job.challenge_id) == ("DRAFT", str(CHALLENGE))
        assert (job.key, job.operator) == (str(CHALLENGE), "manager")

    def test_takes_it_from_the_phase_s_other_job_where_nothing_was_read(
        self, adjust, change, now
    ):
        make_job(
            now=now,
            project_id=str(PROJECT),
            phase_id="9",
            challenge_id="7",
            project_status="DRAFT",
        )

        adjust(change(9, 0.5, state="START", phaseTypeName="Review"))

        job = ScheduledTransition.objects.get(state="START")
        assert (job.project_status, job.challenge_id) == ("DRAFT", "7")

    def test_makes_a_job_for_what_a_person_cancelled(self, adjust, change, now, operator):
        job = make_job(now=now, project_id=str(PROJECT), phase_id="9")
        cancel_transition(job_id=job.job_id, actor=operator, reason="no", now=now)

        assert adjust(change(9, 2, phaseTypeName="Review"))["createdCount"] == 1

    def test_makes_a_job_again_for_what_was_completed(self, adjust, change, now):
        make_job(COMPLETED, now=now, project_id=str(PROJECT), phase_id="9")

        assert adjust(change(9, 2))["code"] == "job_not_found"
        assert adjust(change(9, 2, phaseTypeName="Review"))["createdCount"] == 1

    def test_gives_an_id_of_its_own_to_each_end_of_a_phase(self, adjust, change, now):
        adjust(
            change(9, 2, state="START", phaseTypeName="Review"),
            change(9, 3, phaseTypeName="Review"),
        )

        plain = f"job-{int(now.timestamp() * 1000)}-{PROJECT}-9"
        ids = ScheduledTransition.objects.values_list("job_id", flat=True)
        assert set(ids) == {plain, f"{plain}-2"}

    def test_leaves_what_stands_there_already_alone(self, adjust, change, now):
        job = make_job(now=now, project_id=str(PROJECT), phase_id="9", due_in=7200)
        before = state_of(job)

        answer = adjust(change(9, 2))

        assert (answer["unchangedCount"], answer["adjustedCount"]) == (1, 0)
        assert state_of(job) == before

    def test_moves_by_a_millisecond(self, adjust, change, now):
        make_job(now=now, project_id=str(PROJECT), phase_id="9", due_in=7200)
        later = format_instant(now + timedelta(seconds=7200, milliseconds=1))

        assert adjust(change(9, 2, newEndTime=later))["rescheduledCount"] == 1

    def test_shifts_what_follows_as_last_read(self, adjust, change, read_chain, now):
        read_chain()

        answer = adjust(change(1, 4), onConflict="shift")

        assert live(now) == {
            "START 1": 1,
            "END 1": 4,
            "START 2": 4,
            "END 2": 6,
            "START 3": 6,
            "END 3": 8,
        }
        assert (answer["success"], answer["rescheduledCount"]) == (True, 5)
        told = AuditEntry.objects.filter(action="transition.updated")
        assert {one.reason for one in told} == {REASON}

    def test_refuses_that_by_default_and_changes_nothing(
        self, adjust, change, read_chain, now
    ):
        read_chain()
        before = everything()

        answer = adjust(change(1, 4), change(9, 3, phaseTypeName="Review"), batchId="b")

        assert (answer["success"], answer["code"]) == (False, "schedule_conflict")
        (conflict,) = answer["conflicts"]
        assert conflict["type"] == "successor_before_predecessor"
        assert (conflict["phaseId"], conflict["conflictsWith"]) == (2, 1)
        assert everything() == before

    def test_without_atomic_makes_what_can_be_made(self, adjust, change, now):
        make_job(now=now, project_id=str(PROJECT), phase_id="9")

        answer = adjust(change(8, 2), change(9, 2), atomic=False)

        assert (answer["success"], answer["rescheduledCount"]) == (True, 1)
        assert [one["code"] for one in answer["errors"]] == ["job_not_found"]
        assert live(now) == {"END 9": 2}

    def test_a_running_job_is_a_conflict(self, adjust, change, now):
        job = make_job(RUNNING, now=now, project_id=str(PROJECT), phase_id="9", due_in=-1)
        before = state_of(job)

        answer = adjust(change(9, 2))

        (conflict,) = answer["conflicts"]
        assert (conflict["type"], conflict["conflictsWith"]) == ("job_running", job.job_id)
        assert state_of(job) == before

    def test_the_past_is_a_conflict_unless_it_is_allowed(
        self, adjust, change, now, settings
    ):
        make_job(now=now, project_id=str(PROJECT), phase_id="9")

        refused = adjust(change(9, -1))
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"allow_past_scheduling": True}
        )
        allowed = adjust(change(9, -1))

        assert [one["type"] for one in refused["conflicts"]] == ["past_time"]
        assert allowed["rescheduledCount"] == 1
        assert live(now) == {"END 9": -1}

    def test_what_a_person_moves_upstream_does_not_move_back(
        self, adjust, change, read_chain, now
    ):
        read_chain()

        adjust(change(3, 9))

        job = ScheduledTransition.objects.live().get(phase_id="3", state="END")
        assert job.is_overridden
        assert job.upstream_at == now + timedelta(hours=7)
        again = read_chain()
        assert again.counts[Finding.OVERRIDDEN] == 1
        assert again.counts[Finding.MOVE] == 0

    def test_notes_upstream_s_instant_also_where_the_job_does_not_know_it(
        self, adjust, change, read_chain, now
    ):
        read_chain()
        ScheduledTransition.objects.filter(phase_id="3").update(upstream_at=None)

        adjust(change(3, 9))

        old, new = ScheduledTransition.objects.filter(phase_id="3", state="END")
        assert old.upstream_at == new.upstream_at == now + timedelta(hours=7)
        assert old.is_overridden

    def test_what_an_automatism_moves_is_no_override(self, adjust, change, now):
        make_job(now=now, project_id=str(PROJECT), phase_id="9")

        adjust(change(9, 2), actor=RECOVERY)

        jobs = ScheduledTransition.objects.values_list("is_overridden", flat=True)
        assert list(jobs) == [False, False]

    def test_is_not_for_viewers(self, adjust, change, viewer):
        with pytest.raises(OperationNotPermittedError):
            adjust(change(9, 2, phaseTypeName="Review"), actor=viewer)

    def test_keeps_to_projects_and_challenges(self, adjust, change, read_chain, now):
        read_chain()
        read_chain(project=502, challenge=78)

        adjust(change(1, 4), onConflict="shift")

        assert live(now, project_id="502")["START 2"] == 3

    def test_needs_few_statements_for_a_thousand(
        self, adjust, change, operator, now, phase_data, django_assert_max_num_queries
    ):
        phases = range(1, 1_001)
        items = [phase_data(projectId=PROJECT, phaseId=n) for n in phases]
        schedule_many(items, actor=operator, now=now)
        changes = [change(n, 2, changeReason=f"reason {n}") for n in phases]
        # SQLite takes fewer values by one statement, and has no round trips to save.
        most = 30 if connection.vendor == "postgresql" else 100

        with django_assert_max_num_queries(most):
            answer = adjust(*changes, at=now + timedelta(seconds=1))

        assert answer["rescheduledCount"] == 1_000
        assert set(live(now).values()) == {2}


@pytest.mark.django_db
class TestDryRun:
    @pytest.mark.parametrize("seed", range(12))
    def test_answers_as_the_real_run_and_changes_nothing(
        self, adjust, change, read_chain, now, seed
    ):
        rng = random.Random(seed)
        read_chain()
        make_job(RUNNING, now=now, project_id=str(PROJECT), phase_id="4", due_in=-1)
        changes = [
            change(
                rng.randint(1, 5),
                rng.choice([-1, 1, 2, 3, 4.5, 5, 8, 9_000]),
                state=rng.choice(["START", "END"]),
                **rng.choice([{}, {"phaseTypeName": "Review"}]),
            )
            for _ in range(rng.randint(1, 4))
        ]
        how = {
            "onConflict": rng.choice(["reject", "skip", "shift"]),
            "atomic": rng.random() < 0.5,
            "batchId": "b",
        }
        before = everything()

        dry = adjust(*changes, dryRun=True, **how)

        assert everything() == before
        assert dry == without_ids(adjust(*changes, **how))

    def test_of_an_accepted_batch_is_its_first_answer(self, adjust, change, now):
        wanted = change(9, 2, phaseTypeName="Review")
        first = adjust(wanted, batchId="b")

        again = adjust(wanted, batchId="b", dryRun=True)

        assert again == {**first, "dryRun": True}
        with pytest.raises(ConflictError):
            adjust(change(9, 3), batchId="b", dryRun=True)


@pytest.mark.django_db(transaction=True)
class TestUnknownOutcome:
    def test_searches_the_topic_before_it_moves_a_job(self, adjust, change, now, kafka):
        job = make_job(UNPROVEN, now=now, project_id=str(PROJECT), phase_id="9")

        answer = adjust(change(9, 2))

        assert answer["rescheduledCount"] == 1
        assert columns(job)["status"] == "cancelled"
        assert columns(job)["unproven_since"] is None

    @pytest.mark.parametrize("name", [None, "Review"])
    def test_completes_what_is_found_there(self, adjust, change, now, kafka, name):
        job = make_job(UNPROVEN, now=now, project_id=str(PROJECT), phase_id="9")
        put_event(job, at=now)
        wanted = change(9, 2, phaseTypeName=name)

        dry = adjust(wanted, dryRun=True)
        still = columns(job)["status"]
        answer = adjust(wanted)

        assert still == "scheduled"
        assert columns(job)["status"] == "completed"
        assert dry == without_ids(answer)
        if name:
            assert answer["createdCount"] == 1
        else:
            assert answer["code"] == "job_not_found"

    @pytest.mark.parametrize("is_dry", [True, False])
    def test_can_t_be_answered_while_the_topic_can_t_be_searched(
        self, adjust, change, now, settings, is_dry
    ):
        job = make_job(UNPROVEN, now=now, project_id=str(PROJECT), phase_id="9")
        cut_off(settings)
        before = everything()

        with pytest.raises(ServiceUnavailableError):
            adjust(change(9, 2), batchId="b", dryRun=is_dry)

        assert everything() == before
        assert columns(job)["unproven_since"] is not None

    def test_of_a_job_that_stays_is_not_asked_for(self, adjust, change, now, settings):
        make_job(UNPROVEN, now=now, project_id=str(PROJECT), phase_id="8", due_in=3600)
        make_job(now=now, project_id=str(PROJECT), phase_id="9")
        cut_off(settings)

        answer = adjust(change(8, 1), change(9, 2))

        assert (answer["unchangedCount"], answer["rescheduledCount"]) == (1, 1)


@pytest.mark.django_db
class TestBatchId:
    def test_repeated_changes_nothing_and_gives_the_first_answer(self, adjust, change, now):
        make_job(now=now, project_id=str(PROJECT), phase_id="9")
        first = adjust(change(9, 2), batchId="b")
        before = everything()

        again = adjust(change(9, 2), batchId="b", at=now + timedelta(hours=20))

        assert again == first
        assert first["batchId"] == "b"
        assert everything() == before

    def test_is_known_whatever_the_spelling_and_the_sender(self, adjust, change, now):
        wanted = change(9, 2, phaseTypeName="Review")
        first = adjust(wanted, batchId="b")
        instant = datetime.fromisoformat(wanted["newEndTime"]).isoformat()
        other = user_actor("oscar", role=Role.ADMIN)

        again = adjust(
            {**wanted, "newEndTime": instant, "state": "END"},
            batchId="b",
            onConflict="reject",
            actor=other,
        )

        assert again == first

    @pytest.mark.parametrize(
        "other",
        [
            {"atomic": False},
            {"onConflict": "skip"},
            {"operator": "admin"},
            {"updateReason": "another"},
            {"changes": []},
        ],
    )
    def test_with_another_body_is_a_conflict(self, adjust, change, now, other):
        wanted = change(9, 2, phaseTypeName="Review")
        adjust(wanted, batchId="b")
        before = everything()

        with pytest.raises(ConflictError):
            adjust(wanted, batchId="b", **other)

        assert everything() == before

    def test_of_a_refused_batch_is_free_again(self, adjust, change, now):
        refused = adjust(change(9, 2), batchId="b")

        accepted = adjust(change(9, 2, phaseTypeName="Review"), batchId="b")

        assert (refused["success"], accepted["success"]) == (False, True)

    def test_is_not_taken_by_a_dry_run(self, adjust, change):
        wanted = change(9, 2, phaseTypeName="Review")
        adjust(wanted, batchId="b", dryRun=True)

        assert adjust(wanted, batchId="b")["createdCount"] == 1

    @pytest.mark.parametrize(("age", "is_kept"), [(-1, True), (0, False)])
    def test_is_kept_for_30_days(self, adjust, change, now, age, is_kept):
        first = adjust(change(9, 2, phaseTypeName="Review"), batchId="b")
        then = now + KEPT + timedelta(seconds=age)
        ScheduledTransition.objects.all().delete()
        wanted = change(9, 2, phaseTypeName="Review")

        again = adjust(wanted, batchId="b", at=then)

        # The instant has passed by then: handled again, it is refused.
        assert again["success"] is is_kept
        assert (again == first) is is_kept

    def test_is_forgotten_by_the_chore(self, adjust, change, now):
        adjust(change(8, 2, phaseTypeName="Review"), batchId="old")
        adjust(
            change(9, 2, phaseTypeName="Review"),
            batchId="new",
            at=now + timedelta(minutes=1),
        )

        forgotten = forget_old_batches(now=now + KEPT)

        assert forgotten == 1
        assert [one.batch_id for one in AdjustmentBatch.objects.all()] == ["new"]


# --- Real concurrency -----------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
class TestConcurrently:
    def test_twins_of_one_batch_have_one_effect_and_one_answer(self, change, operator, now):
        jobs = [
            make_job(now=now, project_id=str(PROJECT), phase_id=str(n))
            for n in range(1, 21)
        ]
        body = {
            "changes": [change(n, 2) for n in range(1, 21)],
            "updateReason": REASON,
            "batchId": "b",
        }

        answers = run_together(
            6, lambda _: adjust_schedules(read_adjustment(body), actor=operator, now=now)
        )

        assert answers[0]["rescheduledCount"] == 20
        assert all(answer == answers[0] for answer in answers)
        assert set(live(now).values()) == {2}
        assert ScheduledTransition.objects.count() == 2 * len(jobs)

    def test_others_without_a_batch_make_each_move_once(self, change, operator, now):
        """Opposite orders of one batch: nobody waits for the other for ever."""
        for n in range(1, 11):
            make_job(now=now, project_id=str(PROJECT), phase_id=str(n))

        def move(index):
            order = range(1, 11) if index % 2 else range(10, 0, -1)
            body = {
                "changes": [change(n, 2 + index) for n in order],
                "updateReason": REASON,
            }
            return adjust_schedules(read_adjustment(body), actor=operator, now=now)

        answers = run_together(5, move)

        done = [one for one in answers if isinstance(one, dict) and one["success"]]
        assert done
        for one in answers:
            assert isinstance(one, dict | ServiceUnavailableError), repr(one)
        assert len(set(live(now).values())) == 1
        assert len(live(now)) == 10
        for job in ScheduledTransition.objects.all():
            assert chain_breaks(job.job_id) == []

    def test_a_job_is_moved_or_fired_and_never_both(self, operator, now, settings):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"min_schedule_advance": 0}
        )
        jobs = [
            make_job(now=now, project_id=str(PROJECT), phase_id=str(n), due_in=-1)
            for n in range(1, 41)
        ]
        later = now + timedelta(hours=2)

        def work(index):
            if index == 0:
                return [claim_due(limit=7)[1] for _ in range(8)]
            time.sleep(0.003 * index)
            return [
                adjust_schedules(
                    read_adjustment(
                        {
                            "changes": [
                                {
                                    "projectId": PROJECT,
                                    "phaseId": n,
                                    "newEndTime": format_instant(later),
                                }
                            ],
                            "updateReason": REASON,
                        }
                    ),
                    actor=operator,
                    now=now,
                )
                for n in range(41 - index, 0, -2)
            ]

        claimed, *adjusted = run_together(3, work)

        assert all(isinstance(one, list) for one in (claimed, *adjusted)), (
            claimed,
            adjusted,
        )
        fired = {job.job_id for batch in claimed for job in batch}
        moved = set(
            ScheduledTransition.objects.exclude(replaced_by="").values_list(
                "job_id", flat=True
            )
        )
        assert fired & moved == set()
        assert fired | moved == {job.job_id for job in jobs}
        refused = [one for some in adjusted for one in some if not one["success"]]
        assert {one["conflicts"][0]["type"] for one in refused} <= {"job_running"}
        running = ScheduledTransition.objects.filter(status="running")
        assert {job.job_id for job in running} == fired

    def test_a_claim_between_the_look_and_the_hold_is_a_conflict(
        self, adjust, change, now, monkeypatch
    ):
        job = make_job(now=now, project_id=str(PROJECT), phase_id="9", due_in=-1)
        hold = adjusting.hold_scheduled

        def claim_first(jobs, **options):
            ScheduledTransition.objects.filter(pk=job.pk).update(
                status="running",
                claim_token=uuid.uuid4(),
                lease_until=now + timedelta(seconds=10),
                started_at=now,
            )
            return hold(jobs, **options)

        monkeypatch.setattr(adjusting, "hold_scheduled", claim_first)
        answer = adjust(change(9, 2))

        assert answer["code"] == "schedule_conflict"
        assert [one["type"] for one in answer["conflicts"]] == ["job_running"]

    def test_begins_afresh_where_another_change_came_in_between(
        self, adjust, change, now, monkeypatch
    ):
        make_job(now=now, project_id=str(PROJECT), phase_id="9")
        tries = []
        hold = adjusting.hold_scheduled

        def nothing_the_first_time(jobs, **options):
            tries.append(len(jobs))
            return {} if len(tries) == 1 else hold(jobs, **options)

        monkeypatch.setattr(adjusting, "hold_scheduled", nothing_the_first_time)
        answer = adjust(change(9, 2), batchId="b")

        assert tries == [1, 1]
        assert answer["rescheduledCount"] == 1
        assert live(now) == {"END 9": 2}

    def test_gives_up_where_that_does_not_end(self, adjust, change, now, monkeypatch):
        make_job(now=now, project_id=str(PROJECT), phase_id="9")
        monkeypatch.setattr(adjusting, "hold_scheduled", lambda jobs, **_: {})

        with pytest.raises(ServiceUnavailableError):
            adjust(change(9, 2), batchId="b")

        assert live(now) == {"END 9": 1}
        assert not AdjustmentBatch.objects.exists()

    def test_with_cancels_each_job_ends_once(self, change, operator, now):
        jobs = [
            make_job(now=now, project_id=str(PROJECT), phase_id=str(n))
            for n in range(1, 21)
        ]

        def work(index):
            if index:
                body = {
                    "changes": [change(n, 2) for n in range(20, 0, -1)],
                    "updateReason": REASON,
                    "atomic": False,
                }
                return adjust_schedules(read_adjustment(body), actor=operator, now=now)
            ended = []
            for job in jobs:
                try:
                    cancel_transition(
                        job_id=job.job_id, actor=operator, reason="no", now=now
                    )
                    ended.append(job.job_id)
                except SchedulingError:
                    continue
            return ended

        cancelled, answer = run_together(2, work)

        assert isinstance(cancelled, list), repr(cancelled)
        assert isinstance(answer, dict), repr(answer)
        moved = {one["oldJobId"] for one in answer["details"]["rescheduled"]}
        assert moved & set(cancelled) == set()
        assert len(live(now)) == len(moved)
        for job in jobs:
            assert columns(job)["status"] == "cancelled"
            assert chain_breaks(job.job_id) == []

    def test_two_ends_of_a_relation_are_not_moved_past_each_other(
        self, change, operator, now, read_chain
    ):
        """Each alone is fine; both together would begin 2 before 1 ends."""
        read_chain()
        for job in list(ScheduledTransition.objects.filter(phase_id="2")):
            job.due_at = job.ready_at = job.due_at + timedelta(hours=2)
            job.save()
        wanted = [change(1, 4.5), change(2, 3.5, state="START")]

        answers = run_together(
            2,
            lambda index: adjust_schedules(
                read_adjustment({"changes": [wanted[index]], "updateReason": REASON}),
                actor=operator,
                now=now,
            ),
        )

        assert sorted(one["success"] for one in answers) == [False, True]
        standing = live(now)
        assert standing["END 1"] <= standing["START 2"]

    def test_a_failure_in_the_middle_leaves_nothing(self, adjust, change, now, monkeypatch):
        for n in (8, 9):
            make_job(now=now, project_id=str(PROJECT), phase_id=str(n))
        before = everything()

        def fail(*_, **__):
            raise OperationalError("the database went away")

        monkeypatch.setattr(adjusting, "insert_jobs", fail)
        with pytest.raises(OperationalError):
            adjust(change(8, 2), change(9, 2), batchId="b")

        assert everything() == before
