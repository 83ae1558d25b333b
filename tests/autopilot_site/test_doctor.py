"""`manage.py doctor` names what is wrong, with the line that fixes it."""

import json
from io import StringIO
from unittest.mock import Mock

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from autopilot_site import doctor
from autopilot_site.health import facts
from scheduling.adapters.broker_probe import BrokerAnswer
from scheduling.conf import used_topics
from scheduling.models.job_text import INDEX_STATEMENT

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker(monkeypatch):
    """Return a setter of what the brokers answer; at first all topics are there."""

    def put(**answer):
        probe = Mock(ask=lambda: BrokerAnswer(**answer))
        monkeypatch.setattr(doctor, "process_probe", lambda: probe)
        monkeypatch.setattr(facts, "process_probe", lambda: probe)

    put(brokers=1, topics=frozenset(used_topics()))
    return put


@pytest.fixture
def examine(broker):
    """Return a call of the command: whether it ended well, and its checks by name."""

    def run():
        out = StringIO()
        try:
            call_command("doctor", "--json", stdout=out)
        except CommandError:
            is_well = False
        else:
            is_well = True
        answer = json.loads(out.getvalue())
        assert answer["ok"] is is_well
        return is_well, {check["name"]: check for check in answer["checks"]}

    return run


class TestDoctor:
    def test_finds_no_problem_where_all_is_there(self, examine):
        is_well, checks = examine()

        assert is_well
        for name in ("python", "database", "migrations", "kafka", "topics", "disk"):
            assert checks[name]["status"] in {"ok", "warning"}, checks[name]
        assert checks["migrations"]["status"] == "ok"

    def test_every_trouble_has_a_line_that_fixes_it(self, examine, broker):
        broker(brokers=0, error="Connection refused")

        _, checks = examine()

        for check in checks.values():
            assert bool(check["fix"]) == (check["status"] != "ok"), check

    def test_names_a_broker_that_is_away(self, examine, broker):
        broker(brokers=0, error="Connection refused")

        is_well, checks = examine()

        assert not is_well
        assert "no broker answers" in checks["kafka"]["detail"]

    def test_names_missing_topics(self, examine, broker):
        broker(brokers=1, topics=frozenset(used_topics()[1:]))

        _, checks = examine()

        assert used_topics()[0] in checks["topics"]["detail"]
        assert checks["topics"]["fix"] == "manage.py ensure_topics"

    @pytest.mark.skipif(
        connection.vendor != "postgresql", reason="DATABASE_URL names no PostgreSQL"
    )
    def test_says_how_to_add_the_index_of_the_search(self, examine):
        assert "search" not in examine()[1]
        with connection.cursor() as cursor:
            cursor.execute("DROP INDEX job_text_trigrams")
            try:
                is_well, checks = examine()
            finally:
                cursor.execute(INDEX_STATEMENT)

        assert is_well
        assert INDEX_STATEMENT in checks["search"]["fix"]

    def test_names_a_missing_migration(self, examine):
        recorder = MigrationRecorder.Migration.objects.filter(app="scheduling")
        last = recorder.order_by("-id").first()
        recorder.filter(pk=last.pk).delete()
        try:
            is_well, checks = examine()
        finally:
            last.save(force_insert=True)

        assert not is_well
        assert last.name in checks["migrations"]["detail"]
        assert checks["migrations"]["fix"] == "manage.py migrate"

    @pytest.mark.parametrize("key", ["a" * 50, "short"])
    def test_names_a_key_that_is_easily_guessed(self, examine, settings, key):
        settings.SECRET_KEY = key

        _, checks = examine()

        assert checks["SECRET_KEY"]["status"] == "problem"
        assert key not in str(checks)

    def test_names_a_secret_that_others_may_read(self, examine, monkeypatch, tmp_path):
        secret = tmp_path / "key"
        secret.write_text("x")
        secret.chmod(0o644)
        monkeypatch.setenv("SECRET_KEY_FILE", str(secret))
        _, open_to_all = examine()
        secret.chmod(0o600)

        _, closed = examine()

        assert open_to_all["SECRET_KEY_FILE"]["fix"] == f"chmod 600 {secret}"
        assert "SECRET_KEY_FILE" not in closed

    def test_names_a_certificate_that_is_not_there(self, examine, settings):
        settings.KAFKA_CLIENT = {**settings.KAFKA_CLIENT, "ssl.ca.location": "/no/ca.pem"}

        _, checks = examine()

        assert checks["KAFKA_SSL_CA_LOCATION"]["status"] == "problem"

    def test_names_a_target_that_can_t_be_told(self, examine, settings):
        settings.ALERTS = {**settings.ALERTS, "urls": [], "notifiers": ["no.such.thing"]}

        _, checks = examine()

        assert checks["alerts"]["status"] == "problem"

    def test_prints_lines_for_people(self, broker):
        out = StringIO()

        call_command("doctor", stdout=out)

        assert "python" in out.getvalue()
        assert "fix: " in out.getvalue()

    def test_changes_nothing(self, examine):
        def refuse(execute, sql, params, many, context):
            assert not sql.startswith(("INSERT", "UPDATE", "DELETE")), sql
            return execute(sql, params, many, context)

        with connection.execute_wrapper(refuse):
            examine()
