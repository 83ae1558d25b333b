"""The release before goes on working on the tables as the new one has migrated them."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from autopilot_site.verification import verify
from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from tests.faults.conftest import Cluster, Topic, wait_for

pytestmark = [
    pytest.mark.processes,
    pytest.mark.long,
    pytest.mark.first_start,
    pytest.mark.timeout(120),
    pytest.mark.django_db(transaction=True),
]


# Carries out one command of the release's own after the other, each a line.
DRIVER = """
import io, json, sys, django
django.setup()
from django.core.management import call_command
for line in sys.stdin:
    out = io.StringIO()
    call_command(*json.loads(line), "--json", stdout=out)
    print(json.dumps(json.loads(out.getvalue())), flush=True)
"""


@pytest.fixture
def old(old_code, process_environment):
    """Return a call of the old release's commands, which returns what they print."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=old_code,
        env=process_environment | {"SCHEDULER_ALLOW_PAST_SCHEDULING": "true"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(*arguments):
        print(json.dumps(arguments), file=driver.stdin, flush=True)
        answer = driver.stdout.readline()
        assert answer, f"the old release failed at {arguments[0]}"
        return json.loads(answer)

    with driver:
        yield run
        driver.stdin.close()


@pytest.fixture
def old_cluster(old_code, process_environment, tmp_path):
    """Return a starter of the old release's cluster, which is ended with the test."""
    started = []

    def start():
        started.append(
            Cluster(process_environment, tmp_path / "cluster.log", directory=old_code)
        )
        return started[0]

    yield start
    for cluster in started:
        cluster.end()
    print((tmp_path / "cluster.log").read_text()[-3000:])


def phase(number, *, seconds):
    due = datetime.now(UTC) + timedelta(seconds=seconds)
    return [
        *("--project-id", str(number), "--phase-id", str(number), "--state", "END"),
        *("--phase-type-name", "Review", "--project-status", "ACTIVE"),
        *("--end-time", format_instant(due)),
    ]


def actions(job_id):
    entries = AuditEntry.objects.filter(job_id=job_id).order_by("id")
    return [entry.action.partition(".")[2] for entry in entries]


class TestReleaseBefore:
    def test_schedules_fires_moves_and_cancels_on_the_new_tables(
        self, old, old_cluster, embedded_kafka, operator, now
    ):
        # A topic of its own: `verify` judges all that stands there.
        topic = Topic(embedded_kafka.bootstrap)
        cluster = old_cluster()

        fired = old("schedule_transition", *phase(1, seconds=-1))["jobId"]
        kept = old("schedule_transition", *phase(2, seconds=3600))["jobId"]
        moved = old(
            "reschedule_transition", kept, "--end-time", phase(2, seconds=7200)[-1]
        )["jobId"]
        waiting = old("schedule_transition", *phase(3, seconds=3600))["jobId"]
        old("cancel_transition", moved, "--reason", "wrong phase")
        completed = ScheduledTransition.objects.filter(job_id=fired, status="completed")
        wait_for(completed.exists, seconds=30, what="the old cluster's firing")
        assert cluster.stop() == 0

        # The new release finds it all, whole, and goes on with it.
        assert [record.job_id for record in topic.records()] == [fired]
        assert actions(fired) == ["scheduled", "claimed", "completed"]
        assert actions(kept) == ["scheduled", "updated"]
        assert actions(moved)[-1] == "cancelled"
        cancel_transition(job_id=waiting, actor=operator, reason="over", now=now)
        listed = old("list_transitions", "--status", "cancelled")
        assert {job["jobId"] for job in listed["results"]} == {kept, moved, waiting}
        report = verify(now=datetime.now(UTC), with_topic=True)
        assert report.holds, report.as_json()
