"""Fifty hands on one transition while it fires: one winner each time, all on record."""

import random
import threading
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from django.db import close_old_connections, connection

from scheduling.domain.actors import Role, user_actor
from scheduling.domain.errors import SchedulingError
from scheduling.domain.lifecycle import LIVE
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.run_now import run_transition_now
from scheduling.services.schedule import schedule_transition
from scheduling.services.update import Update, update_transition
from tests.faults.conftest import wait_for

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]
THREADS = 50
SECONDS = 6.0


class Hands:
    """Threads that schedule, cancel, move and run one transition as fast as they can."""

    def __init__(self, project):
        self.project = project
        self.done = Counter()
        self.refused = Counter()
        self.broken = []
        self.two_live = 0
        self._end = time.monotonic() + SECONDS
        self._lock = threading.Lock()

    def run(self):
        threads = [threading.Thread(target=self._act, args=(n,)) for n in range(THREADS)]
        threads.append(threading.Thread(target=self._watch))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _watch(self):
        while time.monotonic() < self._end:
            live = ScheduledTransition.objects.filter(
                project_id=self.project, status__in=list(LIVE)
            )
            self.two_live += live.count() > 1
            time.sleep(0.01)
        connection.close()

    def _act(self, number):
        rng = random.Random(number)
        actor = user_actor(f"hand{number}", role=Role.OPERATOR)
        while time.monotonic() < self._end:
            verb = rng.choice([self._schedule, self._cancel, self._update, self._run])
            try:
                verb(actor, rng)
                with self._lock:
                    self.done[verb.__name__] += 1
            except SchedulingError as error:
                with self._lock:
                    self.refused[error.code] += 1
            except Exception as error:  # noqa: BLE001 -- counted, and the test fails
                with self._lock:
                    self.broken.append(repr(error))
            close_old_connections()
            time.sleep(rng.random() * 0.05)
        connection.close()

    def _instant(self, rng):
        now = datetime.now(UTC)
        due = now + timedelta(milliseconds=1010 + rng.randrange(400))
        return now, due.replace(microsecond=due.microsecond // 1000 * 1000)

    def _some_job(self, rng):
        ids = list(
            ScheduledTransition.objects.filter(project_id=self.project)
            .order_by("-id")
            .values_list("job_id", flat=True)[:2]
        )
        return rng.choice(ids) if ids else "job-0-0-0"

    def _schedule(self, actor, rng):
        now, due = self._instant(rng)
        data = {
            "projectId": int(self.project),
            "phaseId": 1,
            "phaseTypeName": "Review",
            "state": "END",
            "endTime": due,
            "operator": "tests",
            "projectStatus": "ACTIVE",
        }
        schedule_transition(data, actor=actor, now=now)

    def _cancel(self, actor, rng):
        cancel_transition(
            job_id=self._some_job(rng), actor=actor, reason="race", now=datetime.now(UTC)
        )

    def _update(self, actor, rng):
        now, due = self._instant(rng)
        update_transition(
            job_id=self._some_job(rng), update=Update(end_time=due), actor=actor, now=now
        )

    def _run(self, actor, rng):
        if rng.random() < 0.8:
            return
        run_transition_now(
            job_id=self._some_job(rng), actor=actor, reason="race", now=datetime.now(UTC)
        )


class TestFiftyHands:
    def test_on_one_transition_leave_one_winner_each_time(
        self, start_cluster, topic, transactional_db
    ):
        start_cluster(SCHEDULER_LOG_JOB_DETAILS="0")
        hands = Hands(str(time.time_ns() // 1_000_000))

        hands.run()
        live = ScheduledTransition.objects.filter(
            project_id=hands.project, status__in=list(LIVE)
        )
        wait_for(lambda: not live.exists(), seconds=20, what="the last job to fire")

        assert hands.broken == []
        assert hands.two_live == 0
        rows = list(ScheduledTransition.objects.filter(project_id=hands.project))
        assert len(rows) > 5, hands.done
        self._check_topic(rows, topic)
        self._check_audit(rows, hands)

    def _check_topic(self, rows, topic):
        by_job = defaultdict(list)
        for record in topic.records():
            by_job[record.job_id].append(record)
        for job in rows:
            expected = 1 if job.status == "completed" else 0
            assert len(by_job[job.job_id]) == expected, (job.status, job.job_id)
            for record in by_job[job.job_id]:
                assert record.event_id == str(job.event_id)
                assert job.forced_at or record.at >= job.due_at

    def _check_audit(self, rows, hands):
        histories = defaultdict(list)
        entries = AuditEntry.objects.filter(project_id=hands.project).order_by("id")
        for entry in entries:
            histories[entry.job_id].append(entry)
        for job in rows:
            status = ""
            for entry in histories[job.job_id]:
                assert entry.old_status == status
                status = entry.new_status
            assert status == job.status
        per_action = Counter(entry.action for entry in entries)
        assert per_action["transition.scheduled"] == len(rows)
        assert per_action["transition.cancelled"] == hands.done["_cancel"]
        assert per_action["transition.completed"] == sum(
            job.status == "completed" for job in rows
        )
