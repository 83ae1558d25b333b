"""Any process may die at any moment: nothing is lost, early or under a second event."""

import contextlib
import os
import signal
import threading
import time

import pytest

from scheduling.models import AuditEntry, ScheduledTransition
from tests.faults.conftest import (
    check_fired_rightly,
    completed,
    wait_completed,
    wait_for,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90)]
# What the issue of "how soon" allows: detection, restart and take-over.
TAKE_OVER_MS = 3_000


class TestKilledProcess:
    @pytest.mark.parametrize("role", ["worker", "monitor", "pusher", "sentinel"])
    def test_of_the_cluster_is_replaced_and_the_work_goes_on(
        self, role, start_cluster, plant, topic
    ):
        cluster = start_cluster()
        jobs = plant(60, seconds=3, starts_in=1)
        wait_for(lambda: completed(jobs) >= 20, seconds=15, what="the first third")

        os.kill(cluster.pid_of(role), signal.SIGKILL)
        wait_completed(jobs, seconds=15)

        late = ScheduledTransition.objects.filter(
            job_id__in=jobs, lateness_ms__gt=TAKE_OVER_MS
        )
        assert not late.exists(), late.values_list("lateness_ms", flat=True)
        check_fired_rightly(jobs, topic, most_repeats=1)
        assert cluster.stop() == 0
        assert cluster.pids() == []

    @pytest.mark.parametrize("role", ["worker", "monitor", "pusher", "sentinel"])
    def test_that_idled_is_replaced_too(self, role, start_cluster, plant, topic):
        cluster = start_cluster()
        time.sleep(1)

        os.kill(cluster.pid_of(role), signal.SIGKILL)
        jobs = plant(10, seconds=1, starts_in=3)
        wait_completed(jobs, seconds=15)

        check_fired_rightly(jobs, topic)
        assert cluster.stop() == 0
        assert cluster.pids() == []

    def test_command_takes_all_with_it_and_the_next_start_goes_on(
        self, start_cluster, plant, topic
    ):
        first = start_cluster()
        jobs = plant(60, seconds=3, starts_in=1)
        wait_for(lambda: completed(jobs) >= 20, seconds=15, what="the first third")

        os.kill(first.pid_of("command"), signal.SIGKILL)
        wait_for(lambda: first.process.poll() is not None, seconds=5, what="its end")
        wait_for(lambda: not first.pids(), seconds=5, what="no orphan")
        second = start_cluster()
        wait_completed(jobs, seconds=15)

        check_fired_rightly(jobs, topic, most_repeats=1)
        assert second.stop() == 0

    def test_whole_tree_at_once_leaves_the_work_to_the_next_start(
        self, start_cluster, plant, topic
    ):
        first = start_cluster()
        jobs = plant(300, seconds=0, starts_in=1, keys=300)
        wait_for(lambda: completed(jobs) >= 1, seconds=15, what="the first batch")

        first.end()
        start_cluster()
        wait_completed(jobs, seconds=20)

        check_fired_rightly(jobs, topic)


class TestWorkerKilledBetweenSendingAndHearing:
    def test_has_its_record_found_on_the_topic_instead_of_sent_again(
        self, start_cluster, plant, topic, slow_broker
    ):
        slow_broker(800)
        cluster = start_cluster()
        jobs = plant(5, seconds=0, starts_in=4)
        running = ScheduledTransition.objects.filter(job_id__in=jobs, status="running")
        wait_for(lambda: running.count() == 5, seconds=15, what="all five to run")
        time.sleep(0.4)

        for pid in (cluster.pid_of("worker"), cluster.children()[1].pid):
            os.kill(pid, signal.SIGKILL)
        slow_broker(0)
        wait_completed(jobs, seconds=20)

        check_fired_rightly(jobs, topic)
        rescued = ScheduledTransition.objects.filter(job_id__in=jobs).values_list(
            "attempts", flat=True
        )
        assert set(rescued) == {1}, "a death uses up no attempt"


class TestPausedWorker:
    def test_changes_nothing_when_it_wakes_after_its_lease(
        self, start_cluster, plant, topic, slow_broker
    ):
        slow_broker(1500)
        first = start_cluster()
        jobs = plant(5, seconds=0, starts_in=5)
        running = ScheduledTransition.objects.filter(job_id__in=jobs, status="running")
        wait_for(lambda: running.count() == 5, seconds=15, what="all five to run")
        for child in first.children():
            os.kill(child.pid, signal.SIGSTOP)

        slow_broker(0)
        start_cluster()
        wait_completed(jobs, seconds=30)
        before = list(ScheduledTransition.objects.filter(job_id__in=jobs).values())
        for child in first.children():
            os.kill(child.pid, signal.SIGCONT)
        time.sleep(2)

        assert list(ScheduledTransition.objects.filter(job_id__in=jobs).values()) == before
        check_fired_rightly(jobs, topic, most_repeats=5)


class Starver(threading.Thread):
    """Lets processes run for a part of the time only, as on an overloaded machine."""

    PAUSED_SECONDS, RUNNING_SECONDS = 0.15, 0.1

    def __init__(self, pids):
        super().__init__(daemon=True)
        self._pids = pids
        self._stop_event = threading.Event()

    def run(self):
        while not self._stop_event.is_set():
            self._send(signal.SIGSTOP)
            time.sleep(self.PAUSED_SECONDS)
            self._send(signal.SIGCONT)
            self._stop_event.wait(self.RUNNING_SECONDS)

    def _send(self, number):
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self):
        self._stop_event.set()
        self.join()


@pytest.mark.first_start
class TestStarvedCluster:
    def test_fires_late_and_is_not_taken_for_dead(self, start_cluster, plant, topic):
        cluster = start_cluster()
        jobs = plant(30, seconds=2, starts_in=1.5)
        starver = Starver([child.pid for child in cluster.children()])

        starver.start()
        try:
            wait_completed(jobs, seconds=15)
        finally:
            starver.stop()

        rows = ScheduledTransition.objects.filter(job_id__in=jobs)
        assert max(rows.values_list("lateness_ms", flat=True)) < 5_000
        check_fired_rightly(jobs, topic)
        rescued = AuditEntry.objects.filter(job_id__in=jobs, action="transition.rescued")
        assert not rescued.exists()


class TestStop:
    @pytest.mark.parametrize("whole_group", [False, True])
    def test_ends_all_in_time_and_leaves_nothing_claimed(
        self, whole_group, start_cluster, plant
    ):
        cluster = start_cluster()
        jobs = plant(400, seconds=4, starts_in=1, keys=400)
        wait_for(lambda: completed(jobs) >= 50, seconds=15, what="work under way")
        started = time.monotonic()

        if whole_group:
            os.killpg(cluster.process.pid, signal.SIGTERM)
        else:
            cluster.process.send_signal(signal.SIGTERM)
        code = cluster.process.wait(20)

        assert code == 0
        assert time.monotonic() - started < 15
        assert cluster.pids() == []
        assert not ScheduledTransition.objects.filter(status="running").exists()

    def test_while_idle_is_quick_also_when_asked_for_twice(self, start_cluster):
        cluster = start_cluster()
        time.sleep(1)
        started = time.monotonic()

        cluster.process.send_signal(signal.SIGTERM)
        assert cluster.stop() == 0
        assert time.monotonic() - started < 5
