"""Kafka and PostgreSQL may go away and come back: what is due waits, and then fires."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from autopilot_site.health import read_health
from autopilot_site.health.causes import Cause
from scheduling.models import AuditEntry, CircuitBreaker, ScheduledTransition
from scheduling.topics import PHASE_TRANSITION
from tests.faults.conftest import (
    ROLES,
    ROOT,
    Cluster,
    Topic,
    check_fired_rightly,
    completed,
    wait_completed,
    wait_for,
)
from tests.support.certificates import Authority
from tests.support.servers import KafkaNode, PostgresServer

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]
BACK_SECONDS = 5
CANARY = "hush-0f-the-server"


def check_waited_unharmed(jobs):
    """No attempt was used up and nothing failed."""
    rows = ScheduledTransition.objects.filter(job_id__in=jobs)
    assert set(rows.values_list("attempts", flat=True)) == {1}
    failures = AuditEntry.objects.filter(
        job_id__in=jobs, action__in=["transition.failed", "transition.attempt_failed"]
    )
    assert not failures.exists()


def breaker_state():
    """Return the state of the circuit breaker of publishing."""
    return CircuitBreaker.objects.get(name="scheduler").state


class TestKafkaDown:
    def test_for_ten_seconds_lets_all_wait_and_then_fire_in_order(
        self, start_cluster, plant, topic, embedded_kafka
    ):
        start_cluster()
        jobs = plant(200, seconds=8, starts_in=2)
        wait_for(lambda: completed(jobs) >= 20, seconds=15, what="a good start")

        embedded_kafka.down()
        time.sleep(10)
        assert breaker_state() == "open"
        embedded_kafka.up()
        back = time.monotonic()
        wait_completed(jobs, seconds=BACK_SECONDS + 2)

        assert time.monotonic() - back < BACK_SECONDS
        check_waited_unharmed(jobs)
        check_fired_rightly(jobs, topic, most_repeats=2)
        wait_for(lambda: breaker_state() == "closed", seconds=40, what="the breaker")

    def test_at_the_start_is_waited_out(self, start_cluster, plant, topic, embedded_kafka):
        embedded_kafka.down()
        jobs = plant(10, starts_in=1)
        cluster = start_cluster()
        time.sleep(4)

        embedded_kafka.up()
        wait_completed(jobs, seconds=BACK_SECONDS + 2)

        check_waited_unharmed(jobs)
        check_fired_rightly(jobs, topic)
        assert cluster.stop() == 0

    def test_does_not_hold_up_a_stop(self, start_cluster, plant, embedded_kafka):
        cluster = start_cluster()
        plant(10, starts_in=1)
        embedded_kafka.down()
        time.sleep(3)
        started = time.monotonic()

        assert cluster.stop() == 0
        assert time.monotonic() - started < 15
        assert not ScheduledTransition.objects.filter(status="running").exists()

    def test_that_loses_acknowledgements_repeats_no_record(
        self, start_cluster, plant, topic, embedded_kafka
    ):
        start_cluster()
        jobs = plant(60, seconds=3, starts_in=2)
        wait_for(lambda: completed(jobs) >= 20, seconds=15, what="a good start")

        embedded_kafka.lose_replies()
        time.sleep(1)
        embedded_kafka.down()
        embedded_kafka.up()
        embedded_kafka.return_replies()
        wait_completed(jobs, seconds=30)

        # The embedded broker knows no sequence numbers: what its client sends again
        # within one producer's life is there twice, under one event id.
        check_fired_rightly(jobs, topic, most_repeats=30)


@pytest.mark.broker
class TestRealKafka:
    @pytest.fixture
    def node(self, tmp_path):
        """Return a Kafka node of this test's own: its address, and how to end it."""
        if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
            pytest.skip("KAFKA_BOOTSTRAP_SERVERS is not set")
        node = KafkaNode(tmp_path / "kafka", [f"{PHASE_TRANSITION}:1"])
        yield node
        node.kill()

    @pytest.mark.timeout(400)
    @pytest.mark.parametrize("outage", [10, pytest.param(180, marks=pytest.mark.long)])
    def test_killed_and_started_again_has_all_that_was_due(
        self, outage, node, settings, transactional_db, process_environment, tmp_path, plant
    ):
        settings.KAFKA_CLIENT = settings.KAFKA_CLIENT | {"bootstrap.servers": node.address}
        topic = Topic(node.address)
        environment = process_environment | {"KAFKA_BOOTSTRAP_SERVERS": node.address}
        cluster = Cluster(environment, tmp_path / "cluster.log")
        try:
            jobs = plant(200, seconds=10, starts_in=2)
            wait_for(lambda: completed(jobs) >= 30, seconds=20, what="a good start")

            node.kill()
            time.sleep(outage)
            assert breaker_state() == "open"
            node.start()
            back = time.monotonic()
            wait_completed(jobs, seconds=20)

            assert time.monotonic() - back < BACK_SECONDS
            check_waited_unharmed(jobs)
            check_fired_rightly(jobs, topic)
            assert cluster.stop() == 0
        finally:
            cluster.end()


@pytest.mark.postgres
class TestPostgresRestarted:
    @pytest.fixture
    def server(self, tmp_path_factory):
        """Return a PostgreSQL server of this test's own, which can be restarted."""
        if connection.vendor != "postgresql":
            pytest.skip("DATABASE_URL names no PostgreSQL")
        directory = tmp_path_factory.mktemp("server")
        _open_to_others(directory)
        server = PostgresServer(directory / "data")
        try:
            # As a deployment has it: all sessions are over TLS, with a password.
            server.demand_tls(Authority(), password=CANARY)
            yield server
        finally:
            server.stop()

    def test_under_way_is_survived_by_every_process(
        self, server, embedded_kafka, tmp_path, settings, transactional_db, plant
    ):
        environment = {
            **os.environ,
            "DATABASE_URL": server.url,
            "KAFKA_BOOTSTRAP_SERVERS": embedded_kafka.bootstrap,
            "DJANGO_SETTINGS_MODULE": "autopilot_site.settings",
        }
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v", "0"],
            cwd=ROOT,
            env=environment,
            check=True,
            timeout=60,
        )
        topic = Topic(embedded_kafka.bootstrap)
        with _OursPointedAt(server):
            cluster = Cluster(environment, tmp_path / "cluster.log")
            try:
                jobs = plant(120, seconds=6, starts_in=2)
                wait_for(lambda: completed(jobs) >= 30, seconds=20, what="a good start")

                server.restart_at_once()
                back = time.monotonic()
                connection.close()
                wait_completed(jobs, seconds=25)

                assert time.monotonic() - back < 15
                check_fired_rightly(jobs, topic, most_repeats=2)
                _check_tls(server, tmp_path)
                assert cluster.stop() == 0
            finally:
                cluster.end()
        assert CANARY not in cluster.log.read_text()


def _check_tls(server, directory):
    """All sessions are encrypted, and who is not trusted is told by its cause."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT bool_and(ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity"
            " USING (pid) WHERE client_addr IS NOT NULL"
        )
        is_encrypted, sessions = cursor.fetchone()
    assert is_encrypted
    assert sessions > len(ROLES)
    foreign = directory / "foreign.pem"
    foreign.write_bytes(Authority().pem)
    for change, cause in (
        ({"sslrootcert": str(foreign)}, Cause.UNTRUSTED),
        ({"password": "hush-0f-nobody"}, Cause.REFUSED_USER),
    ):
        with _OursPointedAt(server, **change):
            found = read_health(now=datetime.now(UTC))
        assert found.is_failed
        assert str(cause) in found.checks["database"].detail
        assert "hush" not in str(found.show())


def _open_to_others(directory):
    """Let PostgreSQL's own user pass through to its directory below pytest's."""
    for parent in [directory, *directory.parents][:4]:
        if parent.owner() != "root" or parent == Path("/"):
            break
        parent.chmod(0o755)


class _OursPointedAt:
    """Let this process's own connection go to another server for a while."""

    def __init__(self, server, **changes):
        self._url = psycopg.conninfo.conninfo_to_dict(server.url) | changes

    def __enter__(self):
        connection.close()
        self._before = dict(connection.settings_dict)
        url = dict(self._url)
        connection.settings_dict.update(
            NAME=url.pop("dbname"),
            USER=url.pop("user"),
            HOST=url.pop("host"),
            PORT=url.pop("port"),
            PASSWORD=url.pop("password"),
            OPTIONS={**self._before["OPTIONS"], **url},
        )

    def __exit__(self, *_):
        connection.close()
        connection.settings_dict.update(self._before)
