"""What a cluster tells of itself, and how the rows of the dead go."""

import os
import socket
from datetime import timedelta

import pytest

from scheduling.adapters import heartbeat, vitals
from scheduling.adapters.clock import database_now
from scheduling.adapters.heartbeat import Heartbeat, forget_dead
from scheduling.adapters.owner import Owner
from scheduling.domain.phases import parse_instant
from scheduling.models import ProcessState

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def signs(monkeypatch):
    """Return the signs of life that the heartbeat reads, none given yet."""
    fresh = vitals.Vitals()
    monkeypatch.setattr(heartbeat, "process_vitals", fresh)
    return fresh


@pytest.fixture
def add_process(now):
    """Return a maker of rows of other processes."""

    def make(*, pid, seen=1.0, owner=None, kind="consumer"):
        return ProcessState.objects.create(
            kind=kind,
            host=socket.gethostname(),
            pid=pid,
            started_at=now - timedelta(days=1),
            seen_at=database_now() - timedelta(seconds=seen),
            figures={"owner": owner} if owner else {},
        )

    return make


class TestBeat:
    def test_names_the_cluster_by_its_command(self, signs, settings):
        Heartbeat().beat()

        row = ProcessState.objects.get(kind="cluster")
        assert (row.pid, row.host) == (os.getppid(), socket.gethostname())
        assert row.figures["workers"] == settings.SITE.cluster_workers
        assert row.figures["restarts"] == 0
        assert row.figures["lastLookAt"] is None

    def test_tells_when_it_last_looked_and_claimed(self, signs):
        signs.note_look()
        signs.note_claim()
        signs.note_restart()

        Heartbeat().beat()

        row = ProcessState.objects.get(kind="cluster")
        assert row.figures["restarts"] == 1
        for name in ("lastLookAt", "lastClaimAt"):
            age = row.seen_at - parse_instant(row.figures[name])
            assert timedelta(0) <= age < timedelta(seconds=5)

    def test_tells_a_step_of_the_clock_until_it_is_over(self, signs):
        beat = Heartbeat()
        signs.note_clock(step_seconds=-3_600.0)
        beat.beat()
        stepped = ProcessState.objects.get().figures["clockStepSeconds"]
        signs.note_clock(step_seconds=0.0)

        beat.beat()

        assert stepped == -3_600
        assert ProcessState.objects.get().figures["clockStepSeconds"] == 0

    def test_keeps_one_row_with_its_beginning(self, signs):
        beat = Heartbeat()
        beat.beat()
        first = ProcessState.objects.get()

        beat.beat()

        again = ProcessState.objects.get()
        assert again.started_at == first.started_at
        assert again.seen_at > first.seen_at

    def test_costs_few_questions(self, signs, django_assert_max_num_queries):
        beat = Heartbeat()
        beat.beat()

        with django_assert_max_num_queries(9):
            beat.beat()

    def test_the_row_goes_with_a_cluster_that_ends_in_order(self, signs):
        beat = Heartbeat()
        beat.beat()

        beat.leave()

        assert not ProcessState.objects.exists()


class TestForgetDead:
    def test_takes_away_what_is_proven_dead_here(self, add_process):
        alive = add_process(pid=1, owner=str(Owner.of_process(os.getpid())))
        host = str(Owner.of_process(os.getpid())).split("|")[0]
        add_process(pid=2, owner=f"{host}|999999999@1|")

        assert forget_dead(now=database_now()) == 1

        assert ProcessState.objects.get() == alive

    def test_leaves_a_silent_one_elsewhere_for_an_hour(self, add_process):
        silent = add_process(pid=1, seen=3_500, owner="elsewhere|5@1|")
        add_process(pid=2, seen=3_700, owner="elsewhere|6@1|")

        forget_dead(now=database_now())

        assert ProcessState.objects.get() == silent
