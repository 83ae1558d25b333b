"""What the facts mean: each trouble shows by itself, with its cause in words."""

from datetime import timedelta

import pytest

from autopilot_site.health.facts import (
    DatabaseFacts,
    DiskFacts,
    Facts,
    ProcessFacts,
    RunFacts,
)
from autopilot_site.health.judgement import CheckStatus, HealthStatus, judge
from recovery.results import RunStatus
from scheduling.adapters.broker_probe import BrokerAnswer
from scheduling.conf import RecoverySettings
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import ProcessState
from scheduling.queries.statistics import FiringFigures, JobFigures, OutgoingFigures

UP, DEGRADED, DOWN = CheckStatus.UP, CheckStatus.DEGRADED, CheckStatus.DOWN
GIB = 1024**3
NO_BROKER = BrokerAnswer(
    brokers=0, error="sasl://joe@10.0.0.7:9092/1: Connect failed: Connection refused"
)


@pytest.fixture
def process(now):
    """Return a maker of processes that said their last word some seconds ago."""

    def make(kind="cluster", *, silent=1.0, looked=0.5, dead=False, pid=7, **figures):
        if kind == "cluster":
            instant = format_instant(now - timedelta(seconds=silent + looked))
            figures = {"workers": 2, "restarts": 0, "lastLookAt": instant, **figures}
        state = ProcessState(
            kind=kind,
            host="here",
            pid=pid,
            started_at=now - timedelta(hours=1),
            seen_at=now - timedelta(seconds=silent),
            figures=figures,
        )
        return ProcessFacts(state=state, silent_seconds=silent, is_proven_dead=dead)

    return make


@pytest.fixture
def run(now):
    """Return a maker of ended runs."""

    def make(status=RunStatus.COMPLETED, *, ago=60.0):
        ended = now - timedelta(seconds=ago)
        return RunFacts(
            status=status,
            started_at=ended - timedelta(seconds=2),
            finished_at=ended,
            reason="",
        )

    return make


@pytest.fixture
def health(now, process):
    """Return a judge of a system in which all is well but for what is given."""

    def find(
        *,
        processes=None,
        overdue=0.0,
        runs=(),
        skew=0.2,
        unsent=0.0,
        broker=None,
        disk=None,
        database=True,
        enabled=True,
    ):
        jobs = JobFigures(
            by_status=dict.fromkeys(TransitionStatus, 3),
            overdue=int(overdue > 0),
            oldest_overdue_seconds=overdue,
        )
        firing = FiringFigures(
            lateness_p50_ms=4.0,
            lateness_p99_ms=9.0,
            lateness_max_ms=11.0,
            average_execution_time_ms=6.0,
            last_claim_at=None,
        )
        known = DatabaseFacts(
            now=now,
            skew_ms=skew,
            took_ms=3.0,
            jobs=jobs,
            firing=firing,
            processes=(
                [process(), process("consumer", lag={})] if processes is None else processes
            ),
            outgoing=OutgoingFigures(unsent=int(unsent > 0), oldest_unsent_seconds=unsent),
            runs=list(runs),
        )
        facts = Facts(
            database=known if database else None,
            database_error="" if database else "it can't be reached",
            broker=broker or BrokerAnswer(brokers=3),
            disk=disk or DiskFacts(free_bytes=5 * GIB, total_bytes=50 * GIB),
        )
        return judge(facts, now=now, recovery=RecoverySettings(enabled=enabled))

    return find


def says(health, name, status, *words):
    """Tell whether a check has that status and its cause has those words."""
    check = health.checks[name]
    return check.status is status and all(word in check.detail for word in words)


class TestAllIsWell:
    def test_every_check_is_up(self, health, run):
        found = health(runs=[run()])

        assert found.status is HealthStatus.OK
        assert {check.status for check in found.checks.values()} == {UP}
        assert found.causes == []

    @pytest.mark.parametrize("subject", ["scheduler", "recovery", "kafka"])
    def test_each_subject_is_well_too(self, health, subject):
        assert health().about(subject).status is HealthStatus.OK

    def test_tells_the_figures_of_the_contract(self, health):
        checks = health().show()["checks"]

        assert {
            "activeJobs",
            "runningJobs",
            "overdueJobs",
            "oldestOverdueSeconds",
            "completedJobs",
            "failedJobs",
            "averageExecutionTimeMs",
            "latenessMs",
            "workers",
            "lastClaimAt",
            "clockSkewMs",
            "processes",
        } <= set(checks["scheduler"])
        assert {
            "lastRun",
            "lastStatus",
            "lastDurationMs",
            "successRate",
            "isRecoveryEnabled",
        } <= set(checks["recovery"])
        assert {"brokers", "producer", "consumer", "consumerLag"} <= set(checks["kafka"])
        assert checks["scheduler"]["workers"] == 2


class TestDatabase:
    def test_without_it_the_whole_is_an_error(self, health):
        found = health(database=False)

        assert found.is_failed
        assert says(found, "database", DOWN, "can't be reached")

    @pytest.mark.parametrize("subject", ["scheduler", "recovery"])
    def test_without_it_nothing_is_known_of_what_is_in_it(self, health, subject):
        assert health(database=False).about(subject).is_failed

    def test_kafka_is_judged_without_it(self, health):
        assert not health(database=False).about("kafka").is_failed


class TestCluster:
    def test_no_cluster_at_all_fires_nothing(self, health, process):
        found = health(processes=[process("consumer")])

        assert found.status is HealthStatus.DEGRADED
        assert says(found, "scheduler", DOWN, "no cluster runs")
        assert found.about("scheduler").is_failed

    def test_a_silent_one_is_degraded_within_15_seconds(self, health, process):
        found = health(processes=[process(silent=11.5), process("consumer")])

        assert says(found, "scheduler", DEGRADED, "cluster 7 on here says nothing")
        assert not found.about("scheduler").is_failed

    def test_none_that_has_looked_for_30_seconds_is_down(self, health, process):
        found = health(processes=[process(silent=31), process("consumer")])

        assert says(found, "scheduler", DOWN, "no cluster has claimed or looked")
        assert found.about("scheduler").is_failed
        assert not found.is_failed

    def test_one_that_beats_and_does_not_look_is_noticed(self, health, process):
        found = health(processes=[process(looked=13), process("consumer")])

        assert says(found, "scheduler", DEGRADED, "no cluster has claimed or looked")

    def test_one_that_is_proven_dead_is_missed_at_once(self, health, process):
        found = health(processes=[process(silent=2, dead=True), process("consumer")])

        assert says(found, "scheduler", DOWN, "no cluster lives", "cluster 7", "is dead")

    def test_a_claim_counts_as_a_look(self, health, process, now):
        claimed = format_instant(now - timedelta(seconds=2))
        found = health(
            processes=[process(looked=300, lastClaimAt=claimed), process("consumer")]
        )

        assert found.checks["scheduler"].status is UP

    def test_one_of_two_is_missed_for_a_while_only(self, health, process):
        consumer = process("consumer")
        lately = health(processes=[process(), process(silent=100, pid=8), consumer])
        long_ago = health(processes=[process(), process(silent=400, pid=8), consumer])

        assert says(lately, "scheduler", DEGRADED, "cluster 8")
        assert long_ago.checks["scheduler"].status is UP


class TestOverdue:
    def test_beyond_30_seconds_is_degraded(self, health):
        assert health(overdue=29).checks["scheduler"].status is UP
        assert says(health(overdue=31), "scheduler", DEGRADED, "overdue", "31 s")

    def test_beyond_60_seconds_is_down_where_the_broker_is_up(self, health):
        assert health(overdue=61).about("scheduler").is_failed

    def test_is_not_the_schedulers_fault_without_a_broker(self, health):
        found = health(overdue=3_600, broker=NO_BROKER)

        assert says(found, "scheduler", DEGRADED, "overdue")


class TestKafka:
    def test_without_a_broker_only_its_own_page_is_an_error(self, health):
        found = health(broker=NO_BROKER)

        assert found.status is HealthStatus.DEGRADED
        assert found.about("kafka").is_failed
        assert says(found, "kafka", DOWN, "no broker answers (connection refused)")

    def test_no_address_and_no_user_is_told(self, health):
        assert "joe" not in str(health(broker=NO_BROKER).show())

    def test_a_silent_consumer_is_missed_within_15_seconds(self, health, process):
        found = health(processes=[process(), process("consumer", silent=11.5)])

        assert says(found, "kafka", DEGRADED, "consumer 7 on here says nothing")

    def test_no_consumer_at_all_is_missed(self, health, process):
        assert says(health(processes=[process()]), "kafka", DEGRADED, "no consumer runs")

    def test_a_consumer_that_waits_is_told_with_its_beginning(self, health, process):
        paused = process("consumer", isPaused=True, pausedSince="2030-01-01T00:00:00.000Z")

        found = health(processes=[process(), paused])

        assert says(found, "kafka", DEGRADED, "waits", "2030-01-01T00:00:00.000Z")

    def test_a_consumer_far_behind_is_told(self, health, process):
        late = process("consumer", lag={"a[0]": 9_000, "a[1]": 9_000})

        assert says(health(processes=[process(), late]), "kafka", DEGRADED, "18000 records")

    def test_answers_that_nobody_takes_are_told(self, health):
        assert says(health(unsent=90), "kafka", DEGRADED, "wait to be sent")


class TestRecovery:
    def test_one_failed_run_is_degraded(self, health, run):
        found = health(runs=[run(RunStatus.FAILED), run(), run()])

        assert says(found, "recovery", DEGRADED, "FAILED")
        assert found.checks["recovery"].figures["successRate"] == 0.667

    def test_three_failed_runs_are_down(self, health, run):
        found = health(runs=[run(RunStatus.FAILED)] * 2 + [run(RunStatus.TIMED_OUT)])

        assert found.about("recovery").is_failed
        assert found.status is HealthStatus.DEGRADED

    def test_runs_that_no_longer_come_are_missed(self, health, run):
        assert says(health(runs=[run(ago=3_600)]), "recovery", DEGRADED, "for 60 minutes")

    def test_switched_off_it_is_well(self, health):
        found = health(enabled=False)

        assert says(found, "recovery", UP, "switched off")
        assert found.checks["recovery"].figures["isRecoveryEnabled"] is False


class TestClock:
    def test_a_step_is_told_with_its_size(self, health, process):
        stepped = process(clockStepSeconds=-3600.0)

        found = health(processes=[stepped, process("consumer")], skew=None)

        assert says(found, "clock", DEGRADED, "-3600.0 s", "nothing fires")
        assert found.status is HealthStatus.DEGRADED

    def test_a_host_that_disagrees_with_the_database_is_told(self, health):
        assert says(health(skew=-1_500.0), "clock", DEGRADED, "-1500 ms")


class TestDisk:
    def test_a_full_one_is_told(self, health):
        found = health(disk=DiskFacts(free_bytes=4_096, total_bytes=50 * GIB))

        assert says(found, "disk", DEGRADED, "full")
        assert found.status is HealthStatus.DEGRADED

    def test_a_small_one_with_room_is_well(self, health):
        small = DiskFacts(free_bytes=90 * 1024**2, total_bytes=100 * 1024**2)

        assert health(disk=small).checks["disk"].status is UP
