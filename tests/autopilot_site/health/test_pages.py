"""The open pages of health, and `manage.py health`, on real neighbours."""

import json
import threading
import time
from io import StringIO
from unittest.mock import Mock

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection

from autopilot_site.health import facts, reading
from scheduling.adapters import broker_probe
from scheduling.adapters.clock import database_now
from scheduling.domain.phases import format_instant
from scheduling.models import ProcessState
from tests.support.histories import RUNNING, make_job

PAGES = ["/health", "/health/scheduler", "/health/recovery", "/health/kafka"]


@pytest.fixture
def reads_afresh(monkeypatch):
    """Let nothing be kept from an earlier question."""
    monkeypatch.setattr(broker_probe, "KEPT_SECONDS", 0.0)


@pytest.fixture
def live(transactional_db, reads_afresh):
    """Write the rows of a cluster and a consumer that live."""
    now = database_now()
    figures = {"workers": 2, "restarts": 1, "lastLookAt": format_instant(now)}
    for kind, told in (("cluster", figures), ("consumer", {"lag": {}, "handled": 3})):
        ProcessState.objects.create(
            kind=kind, host="here", pid=7, started_at=now, seen_at=now, figures=told
        )


@pytest.fixture
def broker(monkeypatch):
    """Let a broker answer; a real one takes seconds to start."""
    answer = broker_probe.BrokerAnswer(brokers=1)
    monkeypatch.setattr(facts, "process_probe", lambda: Mock(ask=lambda: answer))


@pytest.fixture
def no_database(monkeypatch):
    """Take the database away from the readers."""

    def fail(**kwargs):
        raise OperationalError('connection to "db.example" failed for user "joe" hunter2')

    monkeypatch.setattr(facts, "count_jobs", fail)


@pytest.mark.usefixtures("broker", "live")
class TestPages:
    @pytest.mark.parametrize("page", PAGES)
    def test_answer_200_where_all_is_well(self, client, page):
        response = client.get(page)

        assert response.status_code == 200, response.content
        body = response.json()
        assert (body["status"], set(body)) == ("ok", {"status", "timestamp", "checks"})
        assert body["timestamp"].endswith("Z")
        for check in body["checks"].values():
            assert check["status"] == "up"
            assert check["detail"]

    def test_know_the_processes(self, client):
        checks = client.get("/health").json()["checks"]

        assert checks["kafka"]["consumer"]["handled"] == 3
        assert checks["scheduler"]["processes"][0] | {"seenAt": ""} == {
            "kind": "cluster",
            "pid": 7,
            "host": "here",
            "restarts": 1,
            "seenAt": "",
        }

    def test_a_job_overdue_for_long_fails_the_schedulers_page(self, client, now):
        make_job(RUNNING, now=now, due_in=-61)

        response = client.get("/health/scheduler")

        assert response.status_code == 503
        assert "overdue" in response.json()["checks"]["scheduler"]["detail"]
        assert client.get("/health").json()["status"] == "degraded"

    def test_are_read_only(self, client):
        assert client.post("/health").status_code == 405


@pytest.mark.usefixtures("broker", "live", "no_database")
class TestWithoutDatabase:
    def test_answers_503_with_its_cause(self, client):
        response = client.get("/health")

        assert response.status_code == 503
        assert response.json()["status"] == "error"
        assert "can't be reached" in response.json()["checks"]["database"]["detail"]

    @pytest.mark.parametrize("page", PAGES)
    def test_passes_nothing_on_of_what_the_driver_said(self, client, page):
        text = client.get(page).content.decode()

        assert not any(word in text for word in ("db.example", "hunter2", "Traceback"))

    def test_livez_answers_all_the_same(self, client, django_assert_num_queries):
        with django_assert_num_queries(0):
            assert client.get("/livez").status_code == 200


class TestDatabaseThatHangs:
    def test_is_answered_in_bounded_time_and_asked_once(self, client, monkeypatch):
        release, asked = threading.Event(), []

        def hang(*, now):
            asked.append(now)
            release.wait(20)
            raise OperationalError

        monkeypatch.setattr(reading, "read_health", hang)
        monkeypatch.setattr(reading, "ANSWER_SECONDS", 0.2)
        began_at = time.monotonic()

        responses = [client.get("/health") for _ in range(3)]
        release.set()

        assert [response.status_code for response in responses] == [503] * 3
        assert "does not answer within" in responses[0].content.decode()
        assert time.monotonic() - began_at < 5
        assert len(asked) == 1


@pytest.mark.usefixtures("live", "kafka")
class TestWithBroker:
    def test_knows_how_many_answer(self, client):
        checks = client.get("/health").json()["checks"]

        assert checks["kafka"]["status"] == "up"
        assert checks["kafka"]["brokers"] >= 1


@pytest.mark.usefixtures("live")
class TestWithoutBroker:
    def test_fails_kafkas_page_alone_within_bounded_time(self, client, settings):
        settings.KAFKA_CLIENT = {
            **settings.KAFKA_CLIENT,
            "bootstrap.servers": "127.0.0.1:9",
        }
        began_at = time.monotonic()

        whole, kafka = client.get("/health"), client.get("/health/kafka")

        assert (whole.status_code, whole.json()["status"]) == (200, "degraded")
        assert kafka.status_code == 503
        assert "no broker answers" in kafka.json()["checks"]["kafka"]["detail"]
        assert time.monotonic() - began_at < 6

    def test_is_asked_once_in_a_while(self, settings, monkeypatch):
        monkeypatch.setattr(broker_probe, "KEPT_SECONDS", 60.0)
        monkeypatch.setattr(broker_probe, "TIMEOUT_SECONDS", 0.3)
        probe = broker_probe.BrokerProbe(
            {**settings.KAFKA_CLIENT, "bootstrap.servers": "127.0.0.1:9"}
        )
        first = probe.ask()
        began_at = time.monotonic()

        second = probe.ask()

        assert second is first
        assert second.error
        assert time.monotonic() - began_at < 0.1


@pytest.mark.usefixtures("live")
class TestDisk:
    def test_is_that_of_the_database_file(self, monkeypatch, tmp_path):
        monkeypatch.setitem(connection.settings_dict, "NAME", str(tmp_path / "gone" / "db"))

        found = facts._ask_disk()

        assert (found is None) == (connection.vendor == "sqlite")

    def test_tells_what_is_free(self):
        found = facts._ask_disk()

        assert 0 < found.free_bytes <= found.total_bytes


@pytest.mark.usefixtures("broker", "live")
class TestHealthCommand:
    def test_prints_what_the_page_answers(self, client):
        out = StringIO()
        call_command("health", "--json", stdout=out)

        told = json.loads(out.getvalue())

        page = client.get("/health").json()
        assert set(told["checks"]) == set(page["checks"])
        assert told["status"] == "ok"

    def test_prints_a_line_for_each_check(self):
        out = StringIO()
        call_command("health", stdout=out)

        assert out.getvalue().startswith("ok at ")
        assert len(out.getvalue().splitlines()) == 1 + len(
            {"database", "scheduler", "recovery", "kafka", "clock", "disk"}
        )

    def test_ends_with_1_and_the_cause_where_it_is_an_error(self, no_database):
        out = StringIO()

        with pytest.raises(CommandError, match="database: it can't be reached"):
            call_command("health", "--json", stdout=out)

        assert json.loads(out.getvalue())["status"] == "error"


class TestQuestions:
    @pytest.mark.usefixtures("live")
    def test_none_reads_a_whole_table_of_jobs(self, now, django_assert_max_num_queries):
        for number in range(30):
            make_job(now=now, due_in=number - 5)

        with django_assert_max_num_queries(40) as captured:
            facts._read_database(now=now)

        for query in captured.captured_queries:
            sql = query["sql"]
            if not sql.lstrip().upper().startswith("SELECT") or "FROM" not in sql:
                continue
            if "scheduling_scheduledtransition" not in sql:
                continue
            assert _uses_index(sql), sql


def _uses_index(sql):
    """Tell whether a question about jobs is answered from an index."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            plan = " ".join(row[3] for row in cursor.fetchall())
            return "SCAN scheduling_scheduledtransition" not in plan or "INDEX" in plan
        cursor.execute("SET enable_seqscan = off")
        cursor.execute(f"EXPLAIN {sql}")
        plan = " ".join(row[0] for row in cursor.fetchall())
        cursor.execute("RESET enable_seqscan")
        return "Seq Scan on scheduling_scheduledtransition" not in plan
