"""One run at a time over all hosts, and what becomes of one whose process died."""

import threading
import uuid
from datetime import timedelta

import psycopg
import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from recovery.models import RecoveryRun
from recovery.results import RunStatus, Trigger
from recovery.services import batches, execute_startup_recovery, runs
from recovery.services.conduct import carry_out_run, conduct
from recovery.services.runs import (
    HeldRun,
    Request,
    RunLostError,
    ask_for_run,
    is_dead,
    take,
)
from recovery.services.write_breaker import write_breaker
from scheduling.adapters import breakers
from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner
from scheduling.adapters.patience import atomic_within
from scheduling.domain.actors import cli_actor
from scheduling.models import AuditEntry, CircuitBreaker, ScheduledTransition
from scheduling.services.breakers import reset_breaker
from tests.recovery.conftest import challenge_id, counts, everything
from tests.support.challenge_service import Answer

MANUAL = Request(trigger=Trigger.MANUAL)
STARTUP = Request(trigger=Trigger.STARTUP)
pytestmark = pytest.mark.django_db(transaction=True)


def begin(request=MANUAL):
    """Return a run that this process holds."""
    return take(ask_for_run(request))


def kill(held):
    """Leave the run as its process leaves it that was killed."""
    dead = Owner(host=Owner.current().host, process="1@0", session="")
    RecoveryRun.objects.filter(pk=held.run.pk).update(owner=str(dead))


class TestAskForRun:
    def test_makes_one_that_waits(self, operator):
        run = ask_for_run(Request(trigger=Trigger.MANUAL, actor=operator, project_id="5"))

        assert (run.status, run.trigger, run.project_id) == ("NOT_STARTED", "manual", "5")
        assert (run.actor, run.role) == ("user:olivia", "operator")
        assert run.result.startedAt is run.result.executionTime is None

    def test_returns_the_open_one_whatever_it_is(self):
        first = ask_for_run(MANUAL)
        waiting = ask_for_run(STARTUP)
        held = take(first)

        assert waiting == first
        assert ask_for_run(STARTUP) == held.run

    def test_makes_another_once_that_has_ended(self):
        conduct(begin())

        assert ask_for_run(MANUAL).status == "NOT_STARTED"

    def test_ends_a_dead_one_first(self):
        held = begin()
        kill(held)

        run = ask_for_run(MANUAL)

        held.run.refresh_from_db()
        assert held.run.status == "FAILED"
        assert "its process died" in held.run.errors[0]["reason"]
        assert (run.status, run.pk != held.run.pk) == ("NOT_STARTED", True)
        ended = AuditEntry.objects.get(action="recovery.finished")
        assert ended.changes["status"] == "FAILED"

    def test_goes_with_the_transaction_it_stands_in(self):
        with transaction.atomic():
            ask_for_run(MANUAL)
            transaction.set_rollback(True)

        assert not RecoveryRun.objects.exists()

    def test_by_two_at_once_makes_one(self):
        results = together(lambda: ask_for_run(MANUAL).run_id)

        assert len(set(results)) == 1
        assert RecoveryRun.objects.count() == 1


def together(work, times=2):
    """Return what the work returns in threads that begin at once."""
    barrier = threading.Barrier(times)
    results = []

    def run():
        try:
            barrier.wait(5)
            results.append(work())
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(times)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    return results


class TestConstraints:
    def test_allow_one_open_run(self):
        ask_for_run(MANUAL)

        with pytest.raises(IntegrityError):
            runs._new(MANUAL, status=RunStatus.NOT_STARTED)

    def test_allow_many_that_have_ended(self):
        for _ in range(3):
            conduct(begin())

        assert RecoveryRun.objects.filter(status="COMPLETED").count() == 3


class TestIsDead:
    def test_is_not_while_its_process_lives(self):
        assert not is_dead(begin().run)

    def test_is_once_its_process_does_not(self):
        held = begin()
        kill(held)
        held.run.refresh_from_db()

        assert is_dead(held.run)

    def test_is_once_its_lease_ran_out(self):
        held = begin()
        held.run.lease_until = database_now() - timedelta(seconds=1)

        assert is_dead(held.run)

    def test_is_not_while_it_waits(self):
        assert not is_dead(ask_for_run(MANUAL))


class TestEndDead:
    def test_calls_a_late_one_of_the_start_timed_out(self, recovery_settings):
        held = begin(STARTUP)
        recovery_settings(startup_timeout=1_000)
        RecoveryRun.objects.update(started_at=database_now() - timedelta(seconds=2))
        kill(held)

        ask_for_run(MANUAL)

        held.run.refresh_from_db()
        assert held.run.status == "TIMED_OUT"

    def test_leaves_one_that_shows_life_after_all(self):
        held = begin()
        seen = RecoveryRun.objects.get()
        held.renew()

        runs.end_dead(seen)

        held.run.refresh_from_db()
        assert held.run.status == "IN_PROGRESS"


class TestHeldRun:
    def test_stores_its_progress(self):
        held = begin()
        held.tally.counts["skipped_phases"] = 7
        held.tally.name("5", "for a reason")

        held.renew()

        result = RecoveryRun.objects.get().result
        assert counts(result) == {"skippedPhases": 7}
        assert result.errors == [{"phaseId": 5, "reason": "for a reason"}]
        assert result.totalPhasesProcessed == 7

    def test_changes_nothing_once_its_place_is_taken(self):
        held = begin()
        kill(held)
        other = take(ask_for_run(MANUAL))
        before = everything(), RecoveryRun.objects.get(pk=other.run.pk).result

        with pytest.raises(RunLostError):
            held.renew()
        with pytest.raises(RunLostError):
            held.finish(RunStatus.COMPLETED)

        assert before == (everything(), RecoveryRun.objects.get(pk=other.run.pk).result)

    def test_is_taken_by_one_only(self):
        run = ask_for_run(MANUAL)

        taken = together(lambda: take(RecoveryRun.objects.get(pk=run.pk)))

        assert sum(isinstance(one, HeldRun) for one in taken) == 1


class TestConduct:
    def test_stops_where_its_place_is_taken_in_the_middle(
        self, upstream, recovery_settings, monkeypatch
    ):
        recovery_settings(max_batch_size=1)
        for number in range(1, 6):
            upstream.add(number, phases=1)
        held = begin()
        real = HeldRun.renew
        calls = []

        def renew(self):
            calls.append(1)
            if len(calls) == 3:
                RecoveryRun.objects.update(token=uuid.uuid4())
            real(self)

        monkeypatch.setattr(HeldRun, "renew", renew)

        run = conduct(held)

        assert run.status == "IN_PROGRESS"
        assert ScheduledTransition.objects.count() == 2

    def test_ends_a_run_that_is_to_stop(self, upstream):
        upstream.add(1)

        run = conduct(begin(), is_stopping=lambda: True)

        assert run.status == "FAILED"
        assert "told to stop" in run.errors[0]["reason"]

    def test_marks_a_run_that_breaks_and_raises(self, monkeypatch):
        def break_down(self):
            raise ZeroDivisionError

        monkeypatch.setattr("recovery.services.reconcile.Reconciliation.run", break_down)

        with pytest.raises(ZeroDivisionError):
            conduct(begin())

        run = RecoveryRun.objects.get()
        assert (run.status, run.errors[0]["reason"]) == (
            "FAILED",
            "it ended with ZeroDivisionError",
        )

    def test_shows_its_progress_while_it_runs(self, upstream, recovery_settings):
        recovery_settings(max_batch_size=1)
        for number in range(1, 4):
            upstream.add(number, phases=1)
        held = begin()
        seen = []
        real = held.tally.find

        def find(*arguments, **more):
            stored = RecoveryRun.objects.get()
            seen.append((stored.status, stored.result.upcomingPhasesScheduled))
            real(*arguments, **more)

        held.tally.find = find
        conduct(held)

        # Each batch stores what the ones before have done.
        assert seen[-1] == ("IN_PROGRESS", 2)


class TestStartupTimeout:
    def test_ends_the_run_of_the_start_and_keeps_what_was_read(
        self, upstream, recovery_settings
    ):
        recovery_settings(startup_timeout=1_500, challenge_service_timeout=20_000)
        upstream.service.most_per_page = 1
        for number in (1, 2):
            upstream.add(number, phases=1)
        upstream.service.script("/challenges", [Answer(), Answer(delay=8)])

        run = carry_out_run(STARTUP)

        assert run.status == "TIMED_OUT"
        assert counts(run.result) == {"upcomingPhasesScheduled": 1, "unchangedPhases": 1}
        assert "RECOVERY_STARTUP_TIMEOUT" in run.errors[0]["reason"]

    def test_binds_no_other_run(self, upstream, recovery_settings):
        recovery_settings(startup_timeout=1_000, challenge_service_timeout=20_000)
        upstream.add(1, phases=1)
        upstream.service.script("/challenges", [Answer(delay=1.5)])

        assert carry_out_run(MANUAL).status == "COMPLETED"


class TestPhaseTimeout:
    def test_ends_a_batch_that_waits_for_the_database(self, upstream, recovery_settings):
        recovery_settings(phase_timeout=1_000)
        upstream.add(1, phases=1)
        execute_startup_recovery()
        upstream[1]["phases"][0]["scheduledEndDate"] = "2030-01-01T00:00:00Z"
        locked, done = threading.Event(), threading.Event()

        def hold():
            with transaction.atomic():
                list(ScheduledTransition.objects.select_for_update())
                AuditEntry.objects.create(
                    at=database_now(), action="access.refused", actor="x"
                )
                locked.set()
                done.wait(20)
            connection.close()

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            locked.wait(5)
            if connection.vendor == "sqlite":
                # There the whole database is held, the run's own row too.
                run = None
                with (
                    pytest.raises(OperationalError, match="locked"),
                    atomic_within(timedelta(seconds=1)),
                ):
                    pass
            else:
                run = carry_out_run(MANUAL)
        finally:
            done.set()
            holder.join(10)

        if run is not None:
            assert counts(run.result) == {"failedPhases": 2}
            assert "timeout" in run.errors[0]["reason"]

    def test_ends_a_challenge_that_is_read_singly(self, upstream, recovery_settings):
        recovery_settings(phase_timeout=1_000, challenge_service_timeout=20_000)
        upstream.add(1, phases=1)
        execute_startup_recovery()
        upstream[1]["status"] = "COMPLETED"
        upstream.service.script(f"/challenges/{challenge_id(1)}", [Answer(delay=5)])

        run = carry_out_run(MANUAL)

        assert run.result.executionTime < 4_000
        assert run.status == "COMPLETED_WITH_ERRORS"
        assert ScheduledTransition.objects.live().count() == 1


class TestWriteBreaker:
    """The breaker named recovery; three failures open it."""

    @pytest.fixture
    def slow_database(self, monkeypatch):
        """Let no write of a challenge end in time."""

        def time_out(*_, **__):
            # As PostgreSQL's driver has it: the session goes on.
            cause = psycopg.errors.QueryCanceled("statement timeout")
            raise OperationalError(
                "canceling statement due to statement timeout"
            ) from cause

        monkeypatch.setattr(batches, "apply_challenges", time_out)

    def test_spares_a_database_that_takes_no_writes(
        self, upstream, recovery_settings, slow_database
    ):
        recovery_settings(max_batch_size=1, batch_delay=0)
        for number in range(1, 7):
            upstream.add(number, phases=1)

        run = carry_out_run(MANUAL)

        assert run.status == "COMPLETED_WITH_ERRORS"
        assert counts(run.result) == {"failedPhases": 12}
        said = [error["reason"] for error in run.errors]
        assert sum("statement timeout" in one for one in said) == 3
        # Three challenges, and what would have to be expired.
        assert sum("the circuit breaker recovery is open" in one for one in said) == 4
        assert CircuitBreaker.objects.get(name="recovery").state == "open"

    def test_is_no_matter_of_challenges_that_are_broken(
        self, upstream, recovery_settings, monkeypatch
    ):
        recovery_settings(max_batch_size=1, batch_delay=0)
        for number in range(1, 7):
            upstream.add(number, phases=1)

        def break_down(*_, **__):
            raise ValueError("this challenge")

        monkeypatch.setattr(batches, "apply_challenges", break_down)

        run = carry_out_run(MANUAL)

        assert counts(run.result) == {"failedPhases": 12}
        assert not CircuitBreaker.objects.exclude(failure_count=0).exists()

    def test_keeps_no_run_from_what_it_can_do_once_reset(
        self, upstream, recovery_settings, monkeypatch, operator
    ):
        recovery_settings(max_batch_size=1, batch_delay=0)
        upstream.add(1, phases=1)
        for _ in range(3):
            write_breaker().report(OperationalError("away"))
        run = carry_out_run(MANUAL)
        assert counts(run.result) == {"failedPhases": 2}
        assert not ScheduledTransition.objects.exists()

        admin = cli_actor("sara")
        reset_breaker("recovery", actor=admin, reason="back", now=database_now())
        monkeypatch.setattr(breakers, "TROUBLE_TTL_SECONDS", 0.0)
        run = carry_out_run(MANUAL)

        assert run.result.upcomingPhasesScheduled == 1
        assert run.result.failedPhases == 0


class TestBatches:
    def test_hold_no_more_challenges_than_they_may(
        self, upstream, recovery_settings, monkeypatch
    ):
        recovery_settings(max_batch_size=4)
        sizes = []
        real = batches.apply_challenges

        def apply(readings, **arguments):
            sizes.append(len(readings))
            return real(readings, **arguments)

        monkeypatch.setattr(batches, "apply_challenges", apply)
        for number in range(1, 11):
            upstream.add(number, phases=1)

        carry_out_run(MANUAL)

        assert sizes == [4, 4, 2]

    def test_are_apart_by_the_delay(self, upstream, recovery_settings):
        recovery_settings(max_batch_size=2, batch_delay=300)
        for number in range(1, 7):
            upstream.add(number, phases=1)

        first = carry_out_run(MANUAL).result.executionTime
        second = carry_out_run(MANUAL).result.executionTime

        # Nothing changes the second time, so nothing pauses.
        assert first >= 600
        assert second < first - 300


class TestDatabaseOutage:
    @pytest.mark.skipif(
        connection.vendor == "sqlite", reason="a file has no session that could break"
    )
    def test_in_the_middle_is_waited_out(self, upstream, recovery_settings, monkeypatch):
        recovery_settings(max_batch_size=1)
        for number in range(1, 6):
            upstream.add(number, phases=1)
        real = batches.apply_challenges
        tries = []

        def apply(readings, **arguments):
            tries.append(1)
            if len(tries) == 3:
                # The session breaks in the middle of a batch.
                break_session()
            return real(readings, **arguments)

        monkeypatch.setattr(batches, "apply_challenges", apply)

        run = carry_out_run(MANUAL)

        assert (run.status, run.errors) == ("COMPLETED", [])
        assert ScheduledTransition.objects.live().count() == 5


def break_session():
    """Break this thread's session, as a server does that is restarted."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    other.close()


class TestForgetting:
    def test_keeps_the_newest_runs(self, monkeypatch):
        monkeypatch.setattr(runs, "KEPT_RUNS", 3)

        kept = [conduct(begin()).pk for _ in range(6)]

        assert sorted(RecoveryRun.objects.values_list("pk", flat=True)) == kept[-3:]


class TestTwoHosts:
    def test_that_start_at_once_make_one_run(self, upstream, recovery_settings):
        for number in range(1, 41):
            upstream.add(number, phases=2, due_in=-60 if number % 2 else 600)

        results = together(execute_startup_recovery, times=3)

        assert {one.runId for one in results if one.status == "COMPLETED"} == {
            str(run.run_id) for run in RecoveryRun.objects.all()
        }
        rows = ScheduledTransition.objects.values_list("phase_id", "state")
        assert len(rows) == len(set(rows)) == 120
