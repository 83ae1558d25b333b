"""A worker may die between any two steps of firing, and nothing is fired twice for it."""

import subprocess
import sys
import time

import pytest
from django.db import connection

from scheduling.models import AuditEntry, ScheduledTransition
from tests.faults.conftest import ROOT, check_fired_rightly

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90)]
# The steps of a batch, see `crashing_lane`.
POINTS = (
    "claimed",
    "searched",
    "queued-not-sent",
    "sent-not-heard",
    "heard",
    "completed",
)
# PostgreSQL gets each transaction whole, in one message: there is nothing in between.
POINTS_INSIDE_TRANSACTIONS = ("claim-before-commit", "completion-before-commit")


class TestWorker:
    def test_may_die_between_any_two_steps(self, process_environment, topic):
        points = POINTS
        if connection.vendor == "sqlite":
            points += POINTS_INSIDE_TRANSACTIONS
        first = time.time_ns() // 1_000_000
        projects = [str(first + number) for number in range(len(points) + 1)]

        ran = subprocess.run(
            [sys.executable, "-m", "tests.support.crashing_lane", projects[0], *points],
            cwd=ROOT,
            env=process_environment | {"SCHEDULER_ALLOW_PAST_SCHEDULING": "true"},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert ran.returncode == 0, ran.stderr[-3000:]
        rows = ScheduledTransition.objects.filter(project_id__in=projects)
        assert set(rows.values_list("status", "attempts")) == {("completed", 1)}
        jobs = list(rows.values_list("job_id", flat=True))
        assert len(jobs) == len(projects)
        check_fired_rightly(jobs, topic)
        rescued = AuditEntry.objects.filter(action="transition.rescued", job_id__in=jobs)
        assert rescued.count() >= len(POINTS) - 1
