"""Recovery in processes of its own: killed in the middle, on two hosts, beside firing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from recovery.models import RecoveryRun
from recovery.results import Trigger
from recovery.services.runs import Request, ask_for_run
from scheduling.domain.actors import RECOVERY
from scheduling.domain.challenges import Reading
from scheduling.messages import read_api_challenge
from scheduling.models import ProcessState, ScheduledTransition
from scheduling.services.apply_challenge import apply_challenges
from tests.faults.conftest import ROOT, wait_for
from tests.recovery.conftest import Upstream, counts, phase_id
from tests.support.histories import make_job

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]
CHALLENGES = 60
KILLS = 20 if os.environ.get("DATABASE_URL", "").startswith("postgres") else 6


@pytest.fixture
def upstream(challenge_api, now):
    """Return the Challenge service in force."""
    return Upstream(challenge_api, now)


@pytest.fixture
def environment(process_environment, upstream):
    """Return the environment of processes that read the scripted service."""
    return process_environment | upstream.service.environment()


@pytest.fixture
def start_recover(environment):
    """Return a starter of `manage.py recover`; what still runs at the end is ended."""
    started = []

    def start(*arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, "manage.py", "recover", "--json", *arguments],
            cwd=ROOT,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def fill(upstream):
    """Show challenges whose jobs are missing, overdue, or too old."""
    for number in range(1, CHALLENGES + 1):
        due_in = {0: -60 - number, 1: -80 * 3600}.get(number % 6, 3600 + number)
        upstream.add(number, phases=2, due_in=due_in)


def shape():
    """Return what stands, without what differs from run to run."""
    rows = ScheduledTransition.objects.order_by("phase_id", "state", "due_at", "status")
    return [(job.phase_id, job.state, job.status, job.due_at) for job in rows]


class TestKilledRun:
    @pytest.mark.long
    @pytest.mark.timeout(240)
    def test_leaves_the_rows_of_an_undisturbed_one_after_many_kills(
        self,
        start_recover,
        upstream,
        now,
    ):
        fill(upstream)
        slow = {"RECOVERY_MAX_BATCH_SIZE": "1", "RECOVERY_BATCH_DELAY": "20"}
        kills = 0
        for _ in range(KILLS):
            process = start_recover(**slow)
            before = ScheduledTransition.objects.count()
            wait_for(
                lambda count=before, one=process: (
                    ScheduledTransition.objects.count() > count or one.poll() is not None
                ),
                seconds=30,
                what="the run's first rows",
            )
            time.sleep(random.uniform(0, 0.15))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.communicate()
            if process.returncode == 0:
                break
        last = start_recover()
        out, err = last.communicate(timeout=60)
        assert last.returncode == 0, err
        after_kills = shape()

        assert kills >= KILLS / 4
        assert json.loads(out)["status"] == "COMPLETED"
        dead = RecoveryRun.objects.filter(status="FAILED")
        # The last may have been through when it was killed.
        assert kills - 1 <= dead.count() <= kills
        assert all("process died" in run.errors[-1]["reason"] for run in dead)
        assert RecoveryRun.objects.open().count() == 0
        # Each transition once, as one run without a disturbance makes them.
        keys = [row[:2] for row in after_kills]
        assert len(keys) == len(set(keys)) == 3 * CHALLENGES
        assert {row[2] for row in after_kills} == {"scheduled", "expired"}
        again = start_recover("--dry-run")
        out, _ = again.communicate(timeout=60)
        assert json.loads(out)["plan"] == []


class TestTwoHosts:
    @pytest.mark.timeout(90)
    def test_that_start_at_once_run_one_recovery(
        self,
        start_cluster,
        environment,
        upstream,
    ):
        fill(upstream)

        clusters = [start_cluster(**environment) for _ in range(2)]
        wait_for(
            lambda: RecoveryRun.objects.filter(status="COMPLETED").exists(),
            seconds=30,
            what="the run of the start",
        )
        wait_for(
            lambda: ProcessState.objects.filter(kind="recovery").count() == 2,
            seconds=30,
            what="both caretakers",
        )
        time.sleep(2)

        assert list(RecoveryRun.objects.values_list("trigger", flat=True)) == ["startup"]
        assert [cluster.stop() for cluster in clusters] == [0, 0]
        assert not ProcessState.objects.filter(kind="recovery").exists()


class TestOverdueAtStart:
    @pytest.mark.timeout(90)
    def test_fires_in_due_order_and_is_acknowledged(
        self,
        start_cluster,
        environment,
        upstream,
        topic,
        now,
    ):
        """The case order_overdue_at_start: overdue by 5 s, 30 min, 20 h, 71 h, 73 h."""
        ages = [5, 1800, 20 * 3600, 71 * 3600, 73 * 3600]
        # One project: one key, so one order on the topic.
        for number, age in enumerate(ages, start=1):
            upstream.add(number, phases=1, due_in=-age)
        with_job = make_job(now=now, due_in=-30)

        start_cluster(**environment)
        wait_for(
            lambda: ScheduledTransition.objects.filter(status="completed").count() == 5,
            seconds=40,
            what="what is overdue to fire",
        )

        fired = [
            record
            for record in topic.records()
            if record.job_id
            in set(ScheduledTransition.objects.values_list("job_id", flat=True))
        ]
        assert len(fired) == 5
        assert with_job.job_id in {record.job_id for record in fired}
        assert ScheduledTransition.objects.get(phase_id=phase_id(5)).status == "expired"
        claimed = ScheduledTransition.objects.filter(
            status="completed", challenge_id__isnull=False
        )
        # One claim takes them together, row by row within microseconds.
        in_order = sorted(
            claimed, key=lambda job: (job.started_at.replace(microsecond=0), job.due_at)
        )
        assert [job.due_at for job in in_order] == sorted(job.due_at for job in claimed)

    @pytest.mark.timeout(90)
    def test_after_five_minutes_of_silence_only_what_differs_changes(
        self,
        start_cluster,
        environment,
        upstream,
        now,
    ):
        for number in range(1, 9):
            # Of 1 and 2 the end has come while nothing ran.
            upstream.add(number, phases=1, due_in=-150 if number < 3 else 3600)
        prepare(upstream, now=now - timedelta(minutes=5))
        untouched = set(ids(range(6, 9)))
        for number in (3, 4, 5):
            upstream[number]["phases"][0]["scheduledEndDate"] = (
                now + timedelta(hours=2)
            ).isoformat()

        start_cluster(**environment)
        wait_for(
            lambda: (
                RecoveryRun.objects.filter(status="COMPLETED").exists()
                and ScheduledTransition.objects.filter(status="completed").count() == 2
            ),
            seconds=40,
            what="the run and the firing",
        )

        (run,) = RecoveryRun.objects.all()
        found = counts(run.result)
        assert found["rescheduledPhases"] == 3
        # The two fire by themselves, before the run looks or while it does.
        assert found["unchangedPhases"] + found.get("overduePhasesProcessed", 0) == 13
        assert run.result.totalPhasesProcessed == 16
        assert set(ids(range(6, 9))) == untouched
        live = ScheduledTransition.objects.live()
        assert live.count() == 6
        assert live.filter(replaces__gt="").count() == 3


def prepare(upstream, *, now):
    """Leave the jobs that a run of that instant made."""
    readings = [
        Reading(challenge=read_api_challenge(one), source="before")
        for one in upstream.service.challenges.values()
    ]
    apply_challenges(readings, actor=RECOVERY, now=now)


def ids(numbers):
    """Return the live job ids of challenges."""
    return list(
        ScheduledTransition.objects.live()
        .filter(phase_id__in=[phase_id(number) for number in numbers])
        .values_list("job_id", flat=True)
    )


class TestCaretaker:
    @pytest.mark.timeout(90)
    def test_is_started_again_when_it_is_killed_and_firing_goes_on(
        self,
        start_cluster,
        plant,
        environment,
        upstream,
    ):
        cluster = start_cluster(**environment)
        state = wait_for(
            lambda: ProcessState.objects.filter(kind="recovery").first(),
            seconds=20,
            what="the caretaker",
        )
        sentinel = cluster.sentinel().pid
        job_ids = plant(20, seconds=2, starts_in=1)

        os.kill(state.pid, signal.SIGKILL)
        wait_for(
            lambda: (
                ProcessState.objects.filter(kind="recovery").exclude(pid=state.pid).exists()
            ),
            seconds=20,
            what="another caretaker",
        )

        done = ScheduledTransition.objects.filter(job_id__in=job_ids, status="completed")
        wait_for(lambda: done.count() == 20, seconds=20, what="the firing")
        assert cluster.sentinel().pid == sentinel

    @pytest.mark.timeout(60)
    def test_carries_out_what_is_asked_for_by_hand(
        self,
        start_cluster,
        environment,
        upstream,
    ):
        upstream.add(1)
        start_cluster(**environment | {"RECOVERY_SYNC_INTERVAL": "0"})
        wait_for(
            lambda: RecoveryRun.objects.filter(status="COMPLETED").exists(),
            seconds=30,
            what="the run of the start",
        )

        run = ask_for_run(Request(trigger=Trigger.MANUAL))
        began_at = datetime.now(UTC)
        wait_for(
            lambda: RecoveryRun.objects.filter(pk=run.pk, status="COMPLETED").exists(),
            seconds=10,
            what="the run by hand",
        )

        run.refresh_from_db()
        assert run.started_at - began_at < timedelta(seconds=5)
        assert counts(run.result) == {"unchangedPhases": 4}

    @pytest.mark.timeout(60)
    def test_is_not_there_where_recovery_is_disabled(
        self,
        start_cluster,
        environment,
        upstream,
    ):
        upstream.add(1)

        cluster = start_cluster(**environment | {"RECOVERY_ENABLED": "false"})
        time.sleep(3)

        assert not RecoveryRun.objects.exists()
        assert not ScheduledTransition.objects.exists()
        assert cluster.stop() == 0
