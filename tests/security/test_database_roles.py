"""PostgreSQL's roles of the deployment: each suffices for its processes, and no more."""
# ruff: noqa: S608 -- names of ours alone stand in the statements

import json
import os
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import ProgrammingError, connection, transaction
from django.test import Client
from django.utils.module_loading import import_string
from rest_framework.test import APIClient

import autopilot_site
from scheduling.adapters import event_publisher, lanes
from scheduling.adapters.owner import Owner
from scheduling.domain.phases import format_instant
from scheduling.domain.records import Record
from scheduling.models import AuditEntry, InboxMessage, ScheduledTransition
from scheduling.services.incoming import handle_records
from scheduling.services.publish import publish_due
from scheduling.services.schedule import schedule_transition
from scheduling.services.seals import Sealer
from scheduling.topics import CHALLENGE_UPDATE

SCRIPT = Path(autopilot_site.__file__).parent / "deployment" / "roles.sql"
# Roles belong to the whole server: those of this run have names of their own.
PREFIX = f"test{os.getpid()}_"
ROLES = ("engine", "web", "read")
PASSWORD = "a-secret-for-tests"  # noqa: S105 -- opens nothing
TRANSITIONS = "/api/v1/transitions/"
AUDIT, SEALS = "scheduling_auditentry", "scheduling_auditseal"

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.usefixtures("roles"),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="DATABASE_URL names no PostgreSQL"
    ),
]


def run(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def roles(django_db_setup, django_db_blocker):
    """Run the script as the tables' owner, as an operator does after each migrate."""
    with django_db_blocker.unblock():
        ((may_create,),) = run(
            "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
        )
        if not may_create:
            pytest.skip("DATABASE_URL's role may not create roles")
        for _ in range(2):
            run(SCRIPT.read_text(encoding="utf-8").replace("autopilot_", PREFIX))
        for role in ROLES:
            run(f"GRANT {PREFIX}{role} TO CURRENT_USER")
    yield
    with django_db_blocker.unblock():
        for role in ROLES:
            run(f"DROP OWNED BY {PREFIX}{role}")
            run(f"DROP ROLE {PREFIX}{role}")


@contextmanager
def acting_as(role):
    """Let the block have the rights of a role, and no others."""
    run(f"SET ROLE {PREFIX}{role}")
    try:
        yield
    finally:
        run("RESET ROLE")


def is_refused(statement):
    """Tell whether PostgreSQL refuses a statement for want of rights."""
    try:
        with transaction.atomic():
            run(statement)
    except ProgrammingError as error:
        return error.__cause__.sqlstate == "42501"
    return False


class TestEngine:
    @pytest.mark.django_db(transaction=True)
    def test_fires_consumes_seals_and_verifies(
        self, kafka, operator, phase_data, now, monkeypatch, settings
    ):
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"allow_past_scheduling": True}
        )
        monkeypatch.setattr(event_publisher, "_publisher", None)
        monkeypatch.setattr(lanes, "board", lanes.LaneBoard(lanes=1))
        job = schedule_transition(phase_data(due_in=-1), actor=operator, now=now).job
        update = {
            "topic": CHALLENGE_UPDATE,
            "timestamp": format_instant(now),
            "payload": {
                "projectId": 7,
                "challengeId": 7,
                "status": "ACTIVE",
                "operator": "admin",
                "phases": [
                    {
                        "phaseId": 7,
                        "phaseTypeName": "Review",
                        "endTime": format_instant(now + timedelta(hours=1)),
                    }
                ],
            },
        }
        record = Record(
            cluster_id="cluster",
            topic=CHALLENGE_UPDATE,
            partition=0,
            offset=0,
            value=json.dumps(update).encode(),
        )

        with acting_as("engine"):
            assert publish_due(not_before=0.0) == 1
            handle_records([record], now=now)
            for path in settings.CHORES:
                import_string(path)()
            while Sealer().seal_next(now=now):
                pass
            call_command("verify", "--json")
            # django-constance would take a refusal for "nothing is set".
            run("SELECT * FROM constance_constance")

        assert ScheduledTransition.objects.get(job_id=job.job_id).status == "completed"
        assert ScheduledTransition.objects.filter(project_id="7").exists()
        assert InboxMessage.objects.get().outcome == "planned"

    @pytest.mark.django_db
    def test_takes_no_session_of_another_role_for_a_dead_one(self, now):
        alive = Owner(host="elsewhere/x/1", process="1@1", session=Owner.current().session)

        # PostgreSQL shows the engine that the session is there, and not since when.
        with acting_as("engine"):
            assert not alive.is_dead(claimed_at=now)

    @pytest.mark.django_db
    def test_has_no_part_in_users(self):
        with acting_as("engine"):
            assert is_refused("SELECT * FROM auth_user")
            assert is_refused("INSERT INTO django_session VALUES ('x', 'x', now())")


class TestWeb:
    @pytest.mark.django_db(transaction=True)
    def test_serves_the_api_and_the_admin(self, phase_data):
        user = get_user_model().objects.create_superuser("ada", password=PASSWORD)
        with acting_as("web"):
            answer = APIClient().post(
                "/api/v1/auth/token/",
                {"username": "ada", "password": PASSWORD},
                format="json",
            )
            api = APIClient(HTTP_AUTHORIZATION=f"Bearer {answer.json()['access']}")
            made = api.post(TRANSITIONS, phase_data(), format="json").json()
            path = f"{TRANSITIONS}{made['jobId']}/"
            cancelled = api.post(f"{path}cancel/", {"reason": "x"}, format="json")
            changed = api.patch(
                "/api/v1/settings/",
                {"SCHEDULER_MAX_RETRIES": 7, "reason": "x"},
                format="json",
            )
            browser = Client()
            browser.post(
                "/admin/login/?next=/admin/", {"username": "ada", "password": PASSWORD}
            )
            pages = [
                browser.get(page)
                for page in (
                    "/admin/",
                    "/admin/scheduling/scheduledtransition/",
                    f"/admin/auth/user/{user.pk}/change/",
                    "/health",
                    "/metrics",
                )
            ]
            added = browser.post(
                "/admin/auth/group/add/", {"name": "reviewers", "_save": "Save"}
            )

        assert cancelled.json()["status"] == "cancelled"
        assert changed.status_code == 200, changed.content
        assert [page.status_code for page in pages] == [200] * 5
        assert added.status_code == 302
        assert AuditEntry.objects.filter(action="transition.cancelled").exists()

    @pytest.mark.django_db
    def test_can_have_the_cluster_run_nothing(self):
        with acting_as("web"):
            for table in ("ormq", "task", "schedule"):
                assert is_refused(f"SELECT * FROM django_q_{table}")
                assert is_refused(f"INSERT INTO django_q_{table} DEFAULT VALUES")

    @pytest.mark.django_db
    def test_seals_nothing_and_gives_no_permission(self):
        with acting_as("web"):
            assert is_refused(f"INSERT INTO {SEALS} DEFAULT VALUES")
            assert is_refused("INSERT INTO auth_permission DEFAULT VALUES")


@pytest.mark.django_db
class TestRead:
    def test_looks_at_jobs_and_audit_and_at_nothing_secret(self):
        with acting_as("read"):
            assert run(f"SELECT count(*) FROM {AUDIT}") == [(0,)]
            for table in ("auth_user", "django_session", "django_q_ormq"):
                assert is_refused(f"SELECT * FROM {table}")
            assert is_refused("DELETE FROM scheduling_scheduledtransition")


@pytest.mark.django_db
@pytest.mark.parametrize("role", ROLES)
class TestEveryRole:
    def test_leaves_the_audit_as_it_is(self, role):
        with acting_as(role):
            for table, column in ((AUDIT, "reason"), (SEALS, "digest")):
                assert is_refused(f"UPDATE {table} SET {column} = ''")
                assert is_refused(f"DELETE FROM {table}")
                assert is_refused(f"TRUNCATE {table}")

    def test_changes_no_table_and_no_trigger(self, role):
        wanted = [
            f"DROP TABLE {AUDIT}",
            f"DROP TRIGGER scheduling_audit_append_only ON {AUDIT}",
            f"ALTER TABLE {AUDIT} DISABLE TRIGGER USER",
            f"CREATE RULE r AS ON INSERT TO {AUDIT} DO INSTEAD NOTHING",
            "CREATE TABLE scheduling_mine (id int)",
            "CREATE OR REPLACE FUNCTION scheduling_refuse_audit_change() RETURNS trigger"
            " LANGUAGE sql AS 'SELECT 1'",
            "DELETE FROM django_migrations",
            "SET session_replication_role = replica",
        ]

        with acting_as(role):
            assert [statement for statement in wanted if not is_refused(statement)] == []


@pytest.mark.django_db
class TestNextRelease:
    def test_finds_its_new_tables_before_the_script_has_run_again(self):
        run("CREATE TABLE scheduling_new (id int)")

        for role in ("engine", "web"):
            with acting_as(role):
                run("INSERT INTO scheduling_new VALUES (1)")

        assert run("SELECT count(*) FROM scheduling_new") == [(2,)]
