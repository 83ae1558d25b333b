"""The process beside each cluster: which run it carries out, and when."""

import os
import threading
from datetime import timedelta

import pytest

from recovery import services
from recovery.caretaker import KIND, Caretaker
from recovery.models import RecoveryRun
from recovery.results import Trigger
from recovery.services.runs import Request, ask_for_run, take
from recovery.tasks import expire_overdue
from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner, host_identity
from scheduling.models import ProcessState
from tests.recovery.services.test_runs import kill
from tests.support.histories import audit_of, columns, make_job

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def caretaker():
    """Return a caretaker as a cluster starts it."""
    return Caretaker(threading.Event())


@pytest.fixture
def neighbour(caretaker):
    """Return a maker of other caretakers, alive unless told otherwise."""

    def make(*, seconds_ago=0, owner=None, host="elsewhere"):
        now = database_now() - timedelta(seconds=seconds_ago)
        return ProcessState.objects.create(
            kind=KIND,
            host=host,
            pid=4711,
            started_at=now,
            seen_at=now,
            figures={"owner": str(owner or Owner.current())},
        )

    return make


def runs():
    """Return trigger and status of all runs, oldest first."""
    return list(RecoveryRun.objects.order_by("id").values_list("trigger", "status"))


class TestStart:
    def test_carries_out_the_run_of_the_start(self, caretaker, recovery_settings):
        caretaker.look()

        assert runs() == [("startup", "COMPLETED")]

    def test_does_so_once(self, caretaker, recovery_settings):
        for _ in range(3):
            caretaker.look()

        assert runs() == [("startup", "COMPLETED")]

    def test_is_the_start_of_all_hosts(self, caretaker, neighbour, recovery_settings):
        recovery_settings(sync_interval=0)
        neighbour()

        caretaker.look()

        assert runs() == []

    @pytest.mark.parametrize(
        "fields",
        [
            {"seconds_ago": 60},
            {"owner": Owner(host=host_identity(), process="1@0", session="")},
        ],
        ids=["not seen for a minute", "dead"],
    )
    def test_counts_the_living_only(self, caretaker, neighbour, recovery_settings, fields):
        neighbour(**fields)

        caretaker.look()

        assert runs() == [("startup", "COMPLETED")]

    def test_says_that_it_lives(self, caretaker, recovery_settings):
        caretaker.look()

        (state,) = ProcessState.objects.filter(kind=KIND)
        assert state.pid == os.getpid()
        assert Owner.parse(state.figures["owner"]) == Owner.current()

    def test_waits_for_the_run_that_is_in_progress(self, caretaker, recovery_settings):
        held = take(ask_for_run(Request(trigger=Trigger.MANUAL)))
        caretaker.look()
        during = runs()

        held.finish(services.RunStatus.COMPLETED)
        caretaker.look()

        assert during == [("manual", "IN_PROGRESS")]
        assert runs() == [("manual", "COMPLETED"), ("startup", "COMPLETED")]


class TestSync:
    @pytest.fixture(autouse=True)
    def another_cluster(self, neighbour):
        """Keep the run of the start away."""
        neighbour()

    def age(self, **interval):
        now = database_now()
        RecoveryRun.objects.update(started_at=now - timedelta(**interval))

    def test_follows_after_the_interval(self, caretaker, recovery_settings):
        caretaker.look()
        self.age(seconds=181)
        caretaker._ran_at -= 181
        caretaker.look()

        assert runs() == [("sync", "COMPLETED")] * 2

    def test_does_not_follow_before(self, caretaker, recovery_settings):
        caretaker.look()
        self.age(seconds=178)
        caretaker.look()

        assert runs() == [("sync", "COMPLETED")]

    def test_asks_one_question_a_second_in_between(
        self, caretaker, recovery_settings, django_assert_num_queries
    ):
        caretaker.look()
        caretaker.look()

        with django_assert_num_queries(1):
            caretaker.look()

    def test_counts_from_any_run_over_everything(self, caretaker, recovery_settings):
        services.execute_startup_recovery(trigger="manual")
        caretaker.look()

        assert runs() == [("manual", "COMPLETED")]

    @pytest.mark.parametrize("part", [{"dry_run": True}, {"project_id": 5}])
    def test_does_not_count_from_a_part(self, caretaker, recovery_settings, part):
        services.execute_startup_recovery(trigger="manual", **part)
        caretaker.look()

        assert runs() == [("manual", "COMPLETED"), ("sync", "COMPLETED")]

    def test_is_off_at_0(self, caretaker, recovery_settings):
        recovery_settings(sync_interval=0)
        caretaker.look()

        assert runs() == []


class TestOtherRuns:
    def test_that_wait_are_carried_out_as_asked_for(
        self, caretaker, recovery_settings, operator
    ):
        run = ask_for_run(
            Request(trigger=Trigger.MANUAL, actor=operator, dry_run=True, project_id="5")
        )

        caretaker.look()

        run.refresh_from_db()
        assert (run.status, run.dry_run, run.project_id) == ("COMPLETED", True, "5")
        assert run.actor == "user:olivia"

    def test_whose_process_died_are_begun_again(self, caretaker, neighbour):
        neighbour()
        held = take(ask_for_run(Request(trigger=Trigger.STARTUP)))
        kill(held)

        caretaker.look()

        assert runs() == [("startup", "FAILED"), ("startup", "COMPLETED")]

    def test_that_only_looked_are_not_begun_again(
        self, caretaker, neighbour, recovery_settings
    ):
        recovery_settings(sync_interval=0)
        neighbour()
        kill(take(ask_for_run(Request(trigger=Trigger.MANUAL, dry_run=True))))

        caretaker.look()

        assert runs() == [("manual", "FAILED")]


class TestAttend:
    @pytest.mark.timeout(20)
    def test_leaves_in_order(self, recovery_settings):
        stop = threading.Event()
        threading.Timer(0.5, stop.set).start()

        Caretaker(stop).attend()

        assert not ProcessState.objects.filter(kind=KIND).exists()
        assert runs() == [("startup", "COMPLETED")]


class TestExpireOverdue:
    def test_is_left_to_an_open_run(self, now, recovery_settings):
        old = make_job(now=now, due_in=-73 * 3600)
        held = take(ask_for_run(Request(trigger=Trigger.MANUAL)))

        during = expire_overdue()
        held.finish(services.RunStatus.COMPLETED)

        assert (during, expire_overdue()) == (0, 1)
        assert audit_of(old.job_id)[-1].actor == "system:recovery"

    def test_is_housekeeping_where_recovery_is_disabled(self, now, recovery_settings):
        recovery_settings(enabled=False)
        old = make_job(now=now, due_in=-73 * 3600)

        assert expire_overdue() == 1
        assert columns(old)["status"] == "expired"
        assert audit_of(old.job_id)[-1].actor == "system:scheduler"
