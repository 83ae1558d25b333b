from datetime import timedelta

import pytest

from scheduling.domain.actors import RECOVERY
from scheduling.domain.errors import OperationNotPermittedError
from scheduling.services.cancel import cancel_transition
from scheduling.services.expire import expire_too_old
from scheduling.services.run_now import run_transition_now
from tests.support.histories import (
    CANCELLED,
    COMPLETED,
    FAILED,
    RUNNING,
    UNPROVEN,
    audit_of,
    chain_breaks,
    columns,
    make_job,
    state_of,
)
from tests.support.topic import cut_off, put_event

LIMIT = timedelta(hours=72)
BEYOND = timedelta(milliseconds=1)


@pytest.mark.django_db
class TestExpireTooOld:
    def test_expires_what_is_overdue_by_more_than_the_limit(self, now):
        job = make_job(now=now, due_at=now - LIMIT - BEYOND, last_error="no broker")

        assert expire_too_old(now=now) == 1

        stored = columns(job)
        assert stored["status"] == "expired"
        assert stored["finalized_at"] == stored["updated_at"] == now
        assert stored["last_error"] == "no broker"
        last = audit_of(job.job_id)[-1]
        assert (last.action, last.actor) == ("transition.expired", "system:scheduler")
        assert (last.old_status, last.new_status) == ("scheduled", "expired")
        assert last.reason

    def test_leaves_what_is_exactly_at_the_limit(self, now):
        job = make_job(now=now, due_at=now - LIMIT)

        assert expire_too_old(now=now) == 0
        assert columns(job)["status"] == "scheduled"

    def test_leaves_what_an_operator_demanded(self, now):
        job = make_job(now=now, due_at=now - 2 * LIMIT, forced_at=now, ready_at=now)

        assert expire_too_old(now=now) == 0
        assert columns(job)["status"] == "scheduled"

    def test_goes_by_the_due_instant_and_not_by_the_next_attempt(self, now):
        later = now + timedelta(minutes=1)
        job = make_job(
            now=now, due_at=now - LIMIT - BEYOND, ready_at=later, next_attempt_at=later
        )

        assert expire_too_old(now=now) == 1
        assert columns(job)["next_attempt_at"] is None

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED, FAILED, CANCELLED])
    def test_leaves_what_is_not_scheduled(self, now, history):
        job = make_job(history, now=now, due_at=now - 2 * LIMIT)
        before = state_of(job)

        assert expire_too_old(now=now) == 0
        assert state_of(job) == before

    def test_follows_the_age_limit(self, now, settings):
        settings.RECOVERY = settings.RECOVERY.model_copy(update={"max_phase_age_hours": 1})
        old = make_job(now=now, due_at=now - timedelta(hours=1) - BEYOND)
        young = make_job(now=now, due_at=now - timedelta(hours=1))

        assert expire_too_old(now=now) == 1
        assert [columns(job)["status"] for job in (old, young)] == ["expired", "scheduled"]

    @pytest.mark.parametrize("verb", [run_transition_now, cancel_transition])
    def test_leaves_what_an_operator_decided_meanwhile(
        self, now, operator, monkeypatch, verb
    ):
        job = make_job(now=now, due_at=now - 2 * LIMIT)
        decided = []

        def decide_meanwhile(jobs, *, now):
            verb(job_id=job.job_id, actor=operator, reason="x", now=now)
            decided.append(state_of(job))
            return {}

        monkeypatch.setattr("scheduling.services.expire.prove_outcomes", decide_meanwhile)

        assert expire_too_old(now=now) == 0
        assert [state_of(job)] == decided

    def test_names_who_asked_and_refuses_people(self, now, operator):
        job = make_job(now=now, due_at=now - 2 * LIMIT)

        with pytest.raises(OperationNotPermittedError):
            expire_too_old(now=now, actor=operator)
        assert columns(job)["status"] == "scheduled"

        expire_too_old(now=now, actor=RECOVERY)
        assert audit_of(job.job_id)[-1].actor == "system:recovery"

    def test_repeats_without_effect(self, now):
        make_job(now=now, due_at=now - 2 * LIMIT)

        assert [expire_too_old(now=now), expire_too_old(now=now)] == [1, 0]


@pytest.mark.django_db
class TestExpireOfUnknownOutcome:
    def test_completes_what_is_on_the_topic_and_expires_the_rest(self, now, kafka):
        found = make_job(UNPROVEN, now=now, due_at=now - 2 * LIMIT)
        lost = make_job(UNPROVEN, now=now, due_at=now - 2 * LIMIT)
        put_event(found, at=now)

        assert expire_too_old(now=now) == 1

        assert columns(found)["status"] == "completed"
        assert columns(lost)["status"] == "expired"
        assert columns(lost)["unproven_since"] is None
        assert chain_breaks(found.job_id) == chain_breaks(lost.job_id) == []

    @pytest.mark.timeout(10)
    def test_leaves_them_for_later_while_the_topic_can_not_be_searched(
        self, now, settings, monkeypatch
    ):
        # Each search takes its whole time: one has to do for all of them.
        monkeypatch.setattr("scheduling.services.unproven.SEARCH_SECONDS", 1.0)
        unknown = [make_job(UNPROVEN, now=now, due_at=now - 2 * LIMIT) for _ in range(12)]
        known = make_job(now=now, due_at=now - LIMIT - BEYOND)
        before = [state_of(job) for job in unknown]
        cut_off(settings)

        assert expire_too_old(now=now) == 1

        assert columns(known)["status"] == "expired"
        assert [state_of(job) for job in unknown] == before
