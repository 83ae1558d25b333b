"""The database may be away, locked, full or cut off: jobs wait, and then fire rightly."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from django.db import DatabaseError, OperationalError, connection

from scheduling.adapters import event_publisher, lanes
from scheduling.adapters.tcp_forwarder import TcpForwarder
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.publish import publish_due
from tests.faults.conftest import (
    ROOT,
    check_fired_rightly,
    completed,
    wait_completed,
    wait_for,
)
from tests.support.full_disk import full_disk, integrity
from tests.support.histories import make_job

pytestmark = [pytest.mark.timeout(90), pytest.mark.django_db(transaction=True)]
on_sqlite = pytest.mark.skipif(
    connection.vendor != "sqlite", reason="PostgreSQL locks rows, and its disk is its own"
)
on_postgres = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="a file has no sessions and no deadlocks"
)
# After the last trouble: a lease, and what is promised beside it.
BACK_SECONDS = 15


@pytest.fixture
def run_lane(kafka, monkeypatch):
    """Return a lane of this process, with a publisher of this test's own."""
    monkeypatch.setattr(event_publisher, "_publisher", None)
    monkeypatch.setattr(lanes, "board", lanes.LaneBoard(lanes=1))
    return lambda: publish_due(not_before=0.0)


def statuses(*jobs):
    """Return the statuses of the rows."""
    return [ScheduledTransition.objects.get(pk=job.pk).status for job in jobs]


@pytest.mark.processes
@pytest.mark.first_start
class TestAwayAtTheStart:
    def test_ends_a_cluster_at_once_with_the_cause(self):
        """Whatever supervises it starts it again."""
        ran = subprocess.run(
            [sys.executable, "manage.py", "qcluster"],
            cwd=ROOT,
            env=os.environ
            | {
                "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none",
                "DJANGO_SETTINGS_MODULE": "autopilot_site.settings",
            },
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )

        assert ran.returncode == 1
        assert "the database can't be used" in ran.stderr
        assert "Traceback" not in ran.stderr


@on_sqlite
@pytest.mark.processes
class TestLockedFile:
    HELD_SECONDS = 3.0

    def test_lets_jobs_wait_for_as_long_as_it_is_locked(self, start_cluster, plant, topic):
        start_cluster()
        jobs = plant(20, seconds=1, starts_in=1.5)
        time.sleep(1)

        with closing(sqlite3.connect(connection.settings_dict["NAME"])) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(self.HELD_SECONDS)
            fired_meanwhile = completed(jobs)
            other.rollback()
        wait_completed(jobs, seconds=5)

        assert fired_meanwhile == 0
        check_fired_rightly(jobs, topic)


@on_sqlite
class TestFullDisk:
    def test_lets_what_is_due_wait_and_fire_once_there_is_room(
        self, run_lane, now, topic, settings
    ):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"max_concurrent_jobs": 300}
        )
        jobs = [make_job(now=now, due_in=-1.0) for _ in range(300)]
        entries = AuditEntry.objects.count()

        with full_disk(), pytest.raises(OperationalError, match="full"):
            run_lane()
        waiting = set(statuses(*jobs))
        entries_meanwhile = AuditEntry.objects.count()
        run_lane()

        assert waiting == {"scheduled"}
        assert entries_meanwhile == entries
        check_fired_rightly([job.job_id for job in jobs], topic)
        assert integrity() == "ok"


@pytest.mark.postgres
@on_postgres
class TestPausedInATransaction:
    def test_holds_up_its_own_rows_until_the_server_ends_it(self, run_lane, now, topic):
        held, free = (make_job(now=now, due_in=-1.0) for _ in range(2))
        paused = connection.copy()
        with paused.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            (usual,) = cursor.fetchone()
        paused.set_autocommit(False)
        with paused.cursor() as cursor:
            cursor.execute(
                "UPDATE scheduling_scheduledtransition SET phase_type_name = 'too late'"
                " WHERE id = %s",
                [held.pk],
            )

        run_lane()
        meanwhile = statuses(held, free)
        with paused.cursor() as cursor:
            # Let the ten seconds be over.
            cursor.execute("SET idle_in_transaction_session_timeout = '100ms'")
        wait_for(lambda: run_lane() == 1, seconds=10, what="the end of the paused session")

        assert usual == "10s"
        assert meanwhile == ["scheduled", "completed"]
        with pytest.raises(DatabaseError):
            paused.commit()
        paused.close()
        held.refresh_from_db()
        assert (held.status, held.phase_type_name) == ("completed", "Registration")
        check_fired_rightly([held.job_id, free.job_id], topic)


@pytest.mark.postgres
@pytest.mark.processes
@on_postgres
class TestCutSessions:
    CUTS = 30

    def test_cost_a_running_cluster_no_job(
        self, process_environment, start_cluster, plant, topic
    ):
        url = f"{process_environment['DATABASE_URL']}?application_name=cut-off"
        cluster = start_cluster(DATABASE_URL=url)
        jobs = plant(60, seconds=3, starts_in=1.5)

        wait_for(lambda: completed(jobs) >= 5, seconds=15, what="a good start")
        cut = 0
        for _ in range(self.CUTS):
            cut += _cut_one("cut-off")
            time.sleep(0.1)
        wait_completed(jobs, seconds=BACK_SECONDS)

        assert cut >= self.CUTS // 2
        check_fired_rightly(jobs, topic)
        assert cluster.stop() == 0


def _cut_one(name):
    """End a session of that name, any; tell whether there was one."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s"
            " ORDER BY random() LIMIT 1",
            [name],
        )
        return len(cursor.fetchall())


@pytest.mark.postgres
@pytest.mark.processes
@on_postgres
class TestOneOfTwoCutOff:
    AWAY_SECONDS = 3.0

    @pytest.fixture
    def way(self):
        """Return a way to the database that can be closed."""
        port = int(connection.settings_dict["PORT"])
        with closing(TcpForwarder(port=0, target_port=port)) as way:
            yield way

    def test_lets_the_other_one_fire_and_goes_on_when_it_is_back(
        self, way, process_environment, start_cluster, plant, topic
    ):
        database = connection.settings_dict
        address = f"{database['HOST']}:{database['PORT']}"
        url = process_environment["DATABASE_URL"]
        assert address in url
        cut_off = start_cluster(DATABASE_URL=url.replace(address, f"127.0.0.1:{way.port}"))
        other = start_cluster()
        jobs = plant(60, seconds=4, starts_in=1.5)
        wait_for(lambda: completed(jobs) >= 5, seconds=15, what="a good start")

        way.down()
        time.sleep(self.AWAY_SECONDS)
        fired_meanwhile = completed(jobs)
        way.up()
        wait_completed(jobs, seconds=BACK_SECONDS)

        assert fired_meanwhile >= 20
        check_fired_rightly(jobs, topic, most_repeats=1)
        assert (cut_off.stop(), other.stop()) == (0, 0)
