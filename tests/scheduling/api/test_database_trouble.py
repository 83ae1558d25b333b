"""What the database can't do now is not half done, and answered with "ask again later"."""

import threading
import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, transaction

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from tests.scheduling.api.support import TRANSITIONS, assert_problem
from tests.support.full_disk import full_disk, integrity
from tests.support.histories import state_of
from tests.support.threads import run_together

pytestmark = pytest.mark.django_db(transaction=True)
MOST_TRIES = 5
_LOCK = "SELECT 1 FROM scheduling_scheduledtransition WHERE id = %s FOR UPDATE"


def counts():
    """Return how many jobs and audit entries there are."""
    return ScheduledTransition.objects.count(), AuditEntry.objects.count()


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a server's disk is its own")
class TestFullDisk:
    def test_refuses_what_can_not_be_kept_whole(self, as_operator, phase_data):
        bulk = {"transitions": [phase_data(phaseId=number) for number in range(1, 301)]}
        before = counts()

        with full_disk():
            refused = as_operator.post(f"{TRANSITIONS}bulk/", bulk, format="json")
        meanwhile = counts()
        accepted = as_operator.post(f"{TRANSITIONS}bulk/", bulk, format="json")

        assert_problem(refused, 503, "service_unavailable")
        assert refused.headers["Retry-After"]
        assert meanwhile == before
        assert accepted.json()["created"] == 300
        assert integrity() == "ok"


@pytest.mark.postgres
@pytest.mark.skipif(connection.vendor != "postgresql", reason="a file has no sessions")
class TestPause:
    def test_in_a_transaction_is_no_fault_of_the_request(
        self, as_operator, phase_data, monkeypatch
    ):
        def pause(*args, **kwargs):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 20")
                time.sleep(0.3)
                cursor.execute("SELECT 1")

        monkeypatch.setattr("scheduling.api.views.schedule_transition", pause)

        answer = as_operator.post(TRANSITIONS, phase_data(), format="json")

        assert_problem(answer, 503, "service_unavailable")
        assert answer.headers["Retry-After"]


@pytest.mark.postgres
@pytest.mark.skipif(connection.vendor != "postgresql", reason="a file has no row locks")
class TestDeadlock:
    def test_of_a_batch_leaves_nothing_half_done(self, as_operator, add_job, now):
        first, second = (add_job(phaseId=number) for number in (1, 2))

        def adjust(later):
            changes = [
                {
                    "projectId": 12345,
                    "phaseId": number,
                    "newEndTime": format_instant(later),
                }
                for number in (1, 2)
            ]
            body = {"changes": changes, "updateReason": "more time"}
            return as_operator.post("/api/v1/schedule-adjustments/", body, format="json")

        for attempt in range(MOST_TRIES):
            later = now + timedelta(hours=3 + attempt)
            before = state_of(first), state_of(second)
            was_hit, answer = self.cross(first, second, lambda at=later: adjust(at))
            if not was_hit:
                break
            # PostgreSQL ended the other one: nothing is shown, and the jobs are new ones.
            first, second = self.live_jobs()
        untouched = state_of(first), state_of(second)
        accepted = adjust(later)

        assert_problem(answer, 503, "service_unavailable")
        assert answer.headers["Retry-After"]
        assert untouched == before
        assert accepted.json()["adjustedCount"] == 2

    def live_jobs(self):
        """Return the jobs that took the others' places."""
        live = ScheduledTransition.objects.filter(status="scheduled")
        return live.order_by("phase_id")

    def cross(self, first, second, ask):
        """Let a request and another session each wait for the other; return who was hit.

        Returns:
            Whether the other session was ended, and the request's answer.
        """
        is_locked = threading.Event()

        def lock_in_the_opposite_order():
            with connection.cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute(_LOCK, [second.pk])
                is_locked.set()
                while not _is_waited_for(cursor):
                    time.sleep(0.02)
                # PostgreSQL ends whoever has waited for a second: that is the request,
                # unless this session is slow to get here.
                try:
                    cursor.execute(_LOCK, [first.pk])
                except OperationalError:
                    return True
                finally:
                    cursor.execute("ROLLBACK")
                return False

        def take_part(index):
            if index == 0:
                return lock_in_the_opposite_order()
            is_locked.wait(10)
            return ask()

        return run_together(2, take_part)


def _is_waited_for(cursor):
    """Tell whether somebody waits for what the cursor's transaction holds."""
    cursor.execute(
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted"
        " AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
    )
    return cursor.fetchone()[0]
