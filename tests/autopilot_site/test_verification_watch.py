"""The verification that runs by itself: when, how much of it, and what it leaves."""

from datetime import timedelta

import pytest

from autopilot_site.verification import watch
from scheduling.adapters.clock import database_now
from scheduling.models import (
    AuditEntry,
    AuditSeal,
    Housekeeping,
    ScheduledTransition,
    VerificationResult,
)
from scheduling.services.seals import Sealer
from tests.support.histories import COMPLETED, make_job
from tests.support.tampering import restore_triggers, tampering

pytestmark = pytest.mark.django_db(transaction=True)


def seal(*, now):
    """Write an entry and seal it."""
    AuditEntry.objects.create(at=now, action="access.logged_in", actor="user:x", role="")
    Sealer().seal_next(now=now)


class TestLook:
    def test_leaves_its_result_for_others_to_read(self, now):
        seal(now=now)

        watch.look()

        result = VerificationResult.objects.get(name="scheduled")
        assert result.is_ok
        assert result.violations == {str(number): 0 for number in range(1, 11)}
        assert (result.unchecked, result.findings) == ([], [])
        assert result.seal_digest == AuditSeal.objects.get().digest

    def test_runs_again_only_after_its_interval(self, now):
        watch.look()
        first = VerificationResult.objects.get()

        watch.look()
        assert VerificationResult.objects.get() == first
        assert VerificationResult.objects.get().started_at == first.started_at

        past = now - watch.EVERY - timedelta(seconds=30)
        Housekeeping.objects.update(last_run_at=past)
        VerificationResult.objects.update(started_at=past, finished_at=past)
        watch.look()
        assert VerificationResult.objects.get().started_at > first.started_at

    def test_runs_the_more_seldom_the_longer_it_takes(self, now):
        past = now - timedelta(minutes=30)
        VerificationResult.objects.create(
            name="scheduled",
            is_ok=True,
            started_at=past,
            finished_at=past + timedelta(seconds=7),
        )

        watch.look()

        assert VerificationResult.objects.get().started_at == past


class TestRun:
    def test_tells_what_it_found(self, now, caplog):
        job = make_job(now=now)
        ScheduledTransition.objects.update(attempts=3)

        result = watch.run(None, now=database_now())

        assert not result.is_ok
        assert result.violations["8"] == 1
        assert result.findings == [
            {
                "id": 8,
                "jobId": job.job_id,
                "detail": "has 3 attempts, but the audit counts 0",
            }
        ]
        assert "violations of invariants 8" in caplog.text

    def test_proves_older_seals_again_in_turn(self, now, monkeypatch):
        monkeypatch.setattr(watch, "OLD_SEALS", 2)
        for number in range(5):
            seal(now=now - timedelta(days=9 - number))

        results, last = [], None
        for _ in range(4):
            last = watch.run(last, now=now)
            results.append((last.rechecked_to, last.is_ok))

        assert results == [(2, True), (4, True), (0, True), (2, True)]

    def test_looks_at_a_broken_seal_again_for_a_day(self, now, monkeypatch):
        monkeypatch.setattr(watch, "OLD_SEALS", 2)
        for number in range(5):
            seal(now=now - timedelta(days=9 - number))

        results, last = [], None
        with tampering():
            AuditEntry.objects.filter(pk=AuditEntry.objects.earliest("id").pk).update(
                actor="user:y"
            )
            restore_triggers()
            for hours in (0, 1, 23, 25, 26):
                last = watch.run(last, now=now + timedelta(hours=hours))
                is_found = any("match" in one["detail"] for one in last.findings)
                results.append((last.rechecked_to, is_found))

        assert results == [(0, True), (0, True), (0, True), (2, True), (4, False)]

    def test_tells_of_a_broken_row_until_it_is_mended(self, now):
        job = make_job(COMPLETED, now=now, due_in=-60)
        broken = ScheduledTransition.objects.filter(pk=job.pk)
        last = watch.run(None, now=now)
        assert last.is_ok
        broken.update(attempts=3)

        soon = [now + timedelta(minutes=minutes) for minutes in (1, 6, 11, 16, 600)]
        found = []
        for at in soon:
            last = watch.run(last, now=at)
            found.append(last.violations["8"])
        assert found == [1] * 5
        assert last.broken_since == soon[0]

        broken.update(attempts=1)
        last = watch.run(last, now=soon[-1] + timedelta(minutes=5))
        assert last.is_ok
        assert last.broken_since is None
        last = watch.run(last, now=soon[-1] + timedelta(minutes=10))
        assert last.looked_since == soon[-1] + timedelta(minutes=5) - watch.OVERLAP

    def test_tells_of_a_chain_that_was_cut_off_for_a_day(self, now):
        seal(now=now)
        last = watch.run(None, now=now)
        with tampering():
            AuditSeal.objects.all()._raw_delete("default")
            AuditEntry.objects.all()._raw_delete("default")
            restore_triggers()
            seal(now=now + timedelta(seconds=1))
            found = []
            for hours in (1, 2, 27, 28):
                last = watch.run(last, now=now + timedelta(hours=hours))
                said = [one["detail"] for one in last.findings]
                found.append("seal 1 is not the one that it was" in said)

        assert found == [True, True, True, False]

    def test_notices_a_chain_that_was_cut_off(self, now):
        seal(now=now)
        last = watch.run(None, now=now)

        with tampering():
            AuditSeal.objects.all()._raw_delete("default")
            AuditEntry.objects.all()._raw_delete("default")
            result = watch.run(last, now=now)

        details = [one["detail"] for one in result.findings]
        assert "seal 1 is not the one that it was" in details
