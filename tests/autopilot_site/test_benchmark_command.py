"""`manage.py benchmark`: it measures, leaves nothing behind, and knows when not to run."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command

from autopilot_site.benchmarks import jobs, run
from autopilot_site.benchmarks.machine import Control, spread
from autopilot_site.verification import verify
from scheduling.adapters.clock import database_now
from scheduling.domain.actors import cli_actor
from scheduling.models import (
    AuditEntry,
    Challenge,
    DeadLetter,
    InboxMessage,
    OutgoingRecord,
    ProcessState,
    ScheduledTransition,
)
from scheduling.services.schedule import schedule_transition

SARA = cli_actor("sara")
TINY = (
    *("--jobs", "20", "--window", "1", "--pending", "30", "--idle-seconds", "1"),
    *("--force", "--json", "--actor", "sara"),
)


@pytest.fixture
def start(process_environment, tmp_path):
    """Return what starts the command in a process of its own; it is ended in any case."""
    started = []
    output = tmp_path / "output"

    def start(*arguments):
        with output.open("w") as out, (tmp_path / "errors").open("w") as errors:
            started.append(
                subprocess.Popen(
                    [sys.executable, "manage.py", "benchmark", *TINY, *arguments],
                    cwd=django_settings.BASE_DIR,
                    env=process_environment,
                    stdout=out,
                    stderr=errors,
                )
            )
        return started[-1]

    start.output = output.read_text
    start.errors = (tmp_path / "errors").read_text
    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def all_hold():
    """Return what is broken once a benchmark is over."""
    report = verify(now=database_now(), with_topic=False)
    return [
        (invariant.id, invariant.violations, invariant.unchecked)
        for invariant in report.invariants.values()
        if not invariant.holds
    ]


@pytest.mark.first_start
@pytest.mark.processes
@pytest.mark.timeout(460)
@pytest.mark.django_db(transaction=True)
class TestBenchmarkCommand:
    @pytest.mark.long
    def test_measures_everything_and_leaves_no_row(self, start):
        process = start()

        assert process.wait(400) == 0, start.errors()
        document = json.loads(start.output())

        results = document["results"]
        assert set(results) == {
            *("schedule", "lateness", "burst", "burst-one-key"),
            *("consume", "api", "recover", "restart", "pending"),
        }
        for name in ("lateness", "burst", "burst-one-key", "api", "restart"):
            assert results[name]["completed"] == results[name]["audited"] == 20
            assert results[name]["early"] == 0
        assert results["burst-one-key"]["onTheTopic"] == 20
        assert results["burst-one-key"]["orderViolations"] == 0
        assert results["lateness"]["latenessMs"]["p50"] > 0
        assert results["api"]["postMs"]["count"] >= 50
        assert results["api"]["bulkMs"]["p50"] > 0
        assert results["api"]["listMs"]["none"]["p50"] > 0
        assert results["pending"][0]["cpuSecondsPerMinute"] >= 0
        assert results["pending"][0]["pssMb"] > 10
        assert document["problems"] == []
        assert not ScheduledTransition.objects.exists()
        assert all_hold() == []

    def test_measures_the_consumer_and_leaves_nothing_of_its_records(self, start):
        process = start("--only", "consume")

        assert process.wait(200) == 0, start.errors()
        figures = json.loads(start.output())["results"]["consume"]

        assert figures["updates"]["handled"] == figures["garbage"]["handled"] == 20
        assert figures["updates"]["jobs"] == 40
        assert figures["updates"]["recordsPerSecond"] > 0
        assert figures["updates"]["cpuMsPerRecord"] > 0
        assert min(figures["updates"]["memoryMb"]) > 10
        assert figures["garbage"]["deadLetters"] == 20
        assert figures["garbage"]["deadLettersSent"] == 20
        for model in (
            *(Challenge, DeadLetter, InboxMessage, OutgoingRecord, ProcessState),
            ScheduledTransition,
        ):
            assert not model.objects.exists(), model
        assert all_hold() == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_clears_away_and_ends_its_cluster_when_it_is_interrupted(self, start, number):
        process = start("--only", "idle", "--idle-seconds", "100")
        cluster = wait_for(lambda: descendants_of(process, "qcluster"), seconds=90)
        wait_for(lambda: ScheduledTransition.objects.count() == 30, seconds=90)

        process.send_signal(number)

        assert process.wait(40) == 1
        assert "interrupted" in start.errors()
        assert start.output() == ""
        assert not any(child.is_running() for child in cluster)
        assert not ScheduledTransition.objects.exists()
        assert all_hold() == []

    def test_ends_its_cluster_when_it_is_killed(self, start):
        process = start("--only", "idle", "--idle-seconds", "100")
        cluster = wait_for(lambda: descendants_of(process, "qcluster"), seconds=90)

        process.kill()
        process.wait()

        wait_for(lambda: not any(is_alive(child) for child in cluster), seconds=10)


@pytest.mark.django_db(transaction=True)
class TestRefusal:
    def test_refuses_a_database_with_live_jobs(self, phase_data, now):
        schedule_transition(phase_data(), actor=SARA, now=now)

        with pytest.raises(CommandError, match="1 live jobs") as refusal:
            call_command("benchmark", "--jobs", "1")

        assert refusal.value.returncode == 1

    def test_refuses_a_database_with_the_rest_of_another_benchmark(self):
        workload = jobs.Workload(run="earlier", actor=SARA)
        workload.schedule([workload.far_ahead()], tick=lambda _: None)

        with pytest.raises(CommandError, match="1 rows of an earlier benchmark"):
            call_command("benchmark", "--jobs", "1")

    @pytest.mark.parametrize(
        ("arguments", "cause"),
        [
            (("--only", "speed"), "'speed' is none of"),
            (("--jobs", "0"), "'0' is no whole number above 0"),
            (("--pending", "10,x"), "'x' is no whole number above 0"),
        ],
    )
    def test_refuses_arguments_it_does_not_know(self, arguments, cause):
        with pytest.raises(CommandError, match=cause):
            call_command("benchmark", *arguments)


@pytest.mark.django_db(transaction=True)
class TestRemove:
    def test_takes_only_the_jobs_of_benchmarks(self, phase_data, now):
        other = schedule_transition(phase_data(), actor=SARA, now=now).job
        workload = jobs.Workload(run="now", actor=SARA)
        workload.schedule([workload.far_ahead()] * 3, tick=lambda _: None)

        removed = workload.remove(tick=lambda _: None)

        assert removed == 3
        assert [job.job_id for job in ScheduledTransition.objects.all()] == [other.job_id]
        assert AuditEntry.objects.filter(action="transition.cancelled").count() == 3
        assert all_hold() == []


class TestProblems:
    def test_names_what_must_never_be_seen(self):
        figures = {"jobs": 5, "completed": 4, "audited": 3, "early": 2, "onTheTopic": 1}

        problems = list(run._problems({"burst": {**figures, "orderViolations": 6}}))

        assert problems == [
            "burst: 1 jobs were not published in time",
            "burst: 3 of 4 completions are in the audit",
            "burst: 2 jobs were published early",
            "burst: 6 records are out of order",
            "burst: 1 of 4 jobs are on the topic",
        ]


class TestProblemsOfConsuming:
    def test_are_records_without_their_effect(self):
        figures = {
            "updates": {"records": 5, "handled": 4, "jobs": 9},
            "garbage": {
                "records": 5,
                "handled": 5,
                "deadLetters": 3,
                "deadLettersSent": 2,
            },
        }

        problems = list(run._problems({"consume": figures}))

        assert problems == [
            "consume: 4 of 5 updates were handled",
            "consume: 9 jobs were made of 5 updates",
            "consume: 3 of 5 were set aside",
            "consume: 2 dead letters are on their topic",
        ]


class TestSpread:
    def test_takes_percentiles_by_rank(self):
        assert spread(range(1, 201)) == {"count": 200, "p50": 100, "p99": 198, "max": 200}

    def test_of_nothing_is_nothing(self):
        assert spread([]) == {"count": 0, "p50": None, "p99": None, "max": None}


class TestControl:
    def test_tells_how_late_a_bare_timer_is(self):
        with Control() as control:
            time.sleep(0.3)

        assert control.result()["timerMs"]["count"] >= 5
        assert 0 <= control.result()["timerMs"]["p50"] < 1_000


def descendants_of(process, word):
    """Return the process below it whose command has the word, with all below that."""
    for child in psutil.Process(process.pid).children():
        if word in child.cmdline():
            below = child.children(recursive=True)
            return [child, *below] if len(below) >= 4 else []
    return []


def is_alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for(condition, *, seconds):
    """Return the condition's first true value."""
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"it did not come true within {seconds} s, {os.getloadavg()}")
