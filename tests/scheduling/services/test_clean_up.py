from datetime import timedelta

import pytest

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition, SettledTransition
from scheduling.services.clean_up import clean_up
from tests.support.histories import (
    CANCELLED,
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

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
INSTANT = timedelta(milliseconds=1)


def remaining():
    return set(ScheduledTransition.objects.values_list("job_id", flat=True))


@pytest.mark.django_db
class TestCleanUp:
    @pytest.mark.parametrize("history", [COMPLETED, CANCELLED])
    def test_takes_what_was_finished_for_an_hour(self, now, history):
        old = make_job(history, now=now, finalized_at=now - HOUR)
        young = make_job(history, now=now, finalized_at=now - HOUR + INSTANT)

        assert clean_up(now=now) == 1
        assert remaining() == {young.job_id}
        assert audit_of(old.job_id)[-1].action == "transition.archived"

    def test_takes_failed_ones_that_were_retried_after_a_day(self, now):
        old = make_job(FAILED, now=now, finalized_at=now - DAY, replaced_by="job-1-2-3")
        young = make_job(
            FAILED, now=now, finalized_at=now - DAY + INSTANT, replaced_by="job-1-2-3"
        )

        assert clean_up(now=now) == 1
        assert remaining() == {young.job_id}
        assert old.job_id not in remaining()

    @pytest.mark.parametrize("history", [FAILED, EXPIRED, SCHEDULED, RUNNING, UNPROVEN])
    def test_never_takes_what_is_live_or_what_nobody_dealt_with(self, now, history):
        old = now - timedelta(days=3650)
        finalized = {"finalized_at": old} if history in (FAILED, EXPIRED) else {}
        job = make_job(history, now=now, created_at=old, due_at=old, **finalized)

        assert clean_up(now=now) == 0
        assert remaining() == {job.job_id}

    def test_the_ages_follow_their_settings(self, now, settings):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"max_completed_job_age": 5_000, "max_failed_job_age": 1_000}
        )
        age = timedelta(seconds=3)
        failed = make_job(FAILED, now=now, finalized_at=now - age, replaced_by="job-1-2-3")
        completed = make_job(COMPLETED, now=now, finalized_at=now - age)

        assert clean_up(now=now) == 1
        assert remaining() == {completed.job_id}
        assert failed.job_id not in remaining()

    def test_leaves_the_whole_row_in_the_audit_first(self, now):
        job = make_job(
            COMPLETED,
            now=now,
            finalized_at=now - HOUR,
            challenge_id="7",
            metadata={"ä": ["😀", 1.5, None]},
            upstream_at=now,
            replaces="job-1-2-3",
        )
        row = columns(job)

        clean_up(now=now)

        last = audit_of(job.job_id)[-1]
        assert (last.action, last.actor) == ("transition.archived", "system:scheduler")
        assert (last.old_status, last.new_status) == ("completed", "completed")
        assert last.at == now
        held = last.changes["job"]
        assert held.keys() == row.keys()
        for name, value in row.items():
            if hasattr(value, "isoformat"):
                assert held[name] == format_instant(value)
            elif name == "event_id":
                assert held[name] == str(value)
            else:
                assert held[name] == value
        assert chain_breaks(job.job_id) == []

    def test_takes_more_than_one_batch(self, now, monkeypatch):
        monkeypatch.setattr("scheduling.services.clean_up.BATCH", 10)
        for _ in range(25):
            make_job(COMPLETED, now=now, finalized_at=now - HOUR)

        assert clean_up(now=now) == 25
        assert remaining() == set()
        assert AuditEntry.objects.filter(action="transition.archived").count() == 25

    def test_takes_more_than_five_hundred(self, now):
        job = make_job(COMPLETED, now=now, finalized_at=now - HOUR)
        row = {**columns(job)}
        del row["id"]
        ScheduledTransition.objects.bulk_create(
            ScheduledTransition(
                **row | {"job_id": f"job-{number}", "phase_id": str(number + 1)}
            )
            for number in range(600)
        )

        assert clean_up(now=now) == 601
        assert remaining() == set()
        assert SettledTransition.objects.count() == 601

    def test_changes_nothing_when_the_audit_can_not_be_written(self, now, monkeypatch):
        job = make_job(COMPLETED, now=now, finalized_at=now - HOUR)

        def refuse(rows):
            raise RuntimeError("the disk is full")

        monkeypatch.setattr("scheduling.services.clean_up.insert_rows", refuse)
        with pytest.raises(RuntimeError):
            clean_up(now=now)

        assert remaining() == {job.job_id}

    def test_repeats_without_effect(self, now):
        make_job(COMPLETED, now=now, finalized_at=now - HOUR)

        assert [clean_up(now=now), clean_up(now=now)] == [1, 0]


@pytest.mark.django_db
class TestSettledAfterCleanUp:
    SAME = {"project_id": "1", "phase_id": "2"}

    def test_a_completed_transition_is_remembered(self, now):
        job = make_job(
            COMPLETED, now=now, finalized_at=now - HOUR, upstream_at=now, **self.SAME
        )

        clean_up(now=now)

        settled = SettledTransition.objects.get()
        assert (settled.project_id, settled.phase_id, settled.state) == ("1", "2", "END")
        assert settled.job_id == job.job_id
        assert settled.due_at == job.due_at
        assert settled.upstream_at == settled.settled_at == now

    def test_what_a_person_cancelled_is_remembered(self, now):
        shown = now + HOUR
        make_job(
            CANCELLED,
            now=now,
            finalized_at=now - HOUR,
            is_overridden=True,
            upstream_at=shown,
        )

        clean_up(now=now)

        assert SettledTransition.objects.get().upstream_at == shown

    def test_what_an_automatism_cancelled_is_not(self, now):
        make_job(CANCELLED, now=now, finalized_at=now - HOUR)

        clean_up(now=now)

        assert not SettledTransition.objects.exists()

    def test_what_was_replaced_is_the_matter_of_its_successor(self, now):
        make_job(
            CANCELLED,
            now=now,
            finalized_at=now - HOUR,
            is_overridden=True,
            replaced_by="job-1-2-3",
        )

        clean_up(now=now)

        assert not SettledTransition.objects.exists()

    @pytest.mark.parametrize("is_one_run", [True, False])
    def test_an_older_settlement_is_not_forgotten_for_a_newer(self, now, is_one_run):
        older = make_job(COMPLETED, now=now, finalized_at=now - 3 * HOUR, **self.SAME)
        if not is_one_run:
            clean_up(now=now - HOUR)
        newer = make_job(
            COMPLETED, now=now, due_in=7200, finalized_at=now - 2 * HOUR, **self.SAME
        )

        clean_up(now=now)

        settled = dict(SettledTransition.objects.values_list("job_id", "due_at"))
        assert settled == {older.job_id: older.due_at, newer.job_id: newer.due_at}
        assert SettledTransition.objects.get(job_id=newer.job_id).settled_at == now

    def test_start_and_end_are_remembered_apart(self, now):
        for state in ("START", "END"):
            make_job(COMPLETED, now=now, state=state, finalized_at=now - HOUR, **self.SAME)

        clean_up(now=now)

        states = SettledTransition.objects.values_list("state", flat=True)
        assert sorted(states) == ["END", "START"]
