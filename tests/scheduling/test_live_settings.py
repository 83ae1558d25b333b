"""Settings that change while the system runs: by API, by command, and in force."""

import io
import json
import logging
import time

import pytest
from constance.models import Constance
from django.core.management import CommandError, call_command

from autopilot_site.apps import set_log_level
from scheduling import live_settings
from scheduling.conf import breaker_settings, recovery_settings, scheduler_settings
from scheduling.domain.actors import Role, user_actor
from scheduling.domain.errors import InvalidRequestError, OperationNotPermittedError
from scheduling.models import AuditEntry
from scheduling.services.change_settings import change_settings

ADA = user_actor("ada", role=Role.ADMIN)
RETRIES = "SCHEDULER_MAX_RETRIES"


@pytest.fixture
def change(transactional_db, now):
    """Return what changes settings in an admin's name."""

    def change(*, actor=ADA, reason="because", **wanted):
        change_settings(wanted, actor=actor, reason=reason, now=now)

    return change


class TestChangeSettings:
    def test_is_in_force_at_once_in_the_same_process(self, change):
        change(
            SCHEDULER_MAX_RETRIES=7,
            RECOVERY_BATCH_DELAY=0,
            CIRCUIT_BREAKER_CHALLENGE_FAILURE_THRESHOLD=9,
        )

        assert scheduler_settings().max_retries == 7
        assert recovery_settings().batch_delay == 0
        assert breaker_settings("challenge").failure_threshold == 9
        assert breaker_settings("recovery").failure_threshold == 3

    def test_leaves_an_entry_with_old_and_new_for_each(self, change):
        change(SCHEDULER_MAX_RETRIES=7, SCHEDULER_LOG_JOB_DETAILS=False)

        entries = AuditEntry.objects.order_by("id")
        assert [(e.action, e.actor, e.reason) for e in entries] == [
            ("settings.changed", "user:ada", "because")
        ] * 2
        assert [entry.changes for entry in entries] == [
            {"setting": RETRIES, "old": 3, "new": 7},
            {"setting": "SCHEDULER_LOG_JOB_DETAILS", "old": True, "new": False},
        ]

    def test_leaves_none_where_nothing_changes(self, change):
        change(SCHEDULER_MAX_RETRIES=3)

        assert not AuditEntry.objects.exists()
        assert not Constance.objects.exists()

    def test_null_takes_back_what_was_set(self, change):
        change(SCHEDULER_MAX_RETRIES=7)
        change(SCHEDULER_MAX_RETRIES=None)

        assert scheduler_settings().max_retries == 3
        assert not Constance.objects.exists()
        assert AuditEntry.objects.latest("id").changes["new"] == 3

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            (RETRIES, -1),
            (RETRIES, 101),
            (RETRIES, True),
            (RETRIES, 5.0),
            (RETRIES, "5"),
            ("SCHEDULER_LOG_JOB_DETAILS", 1),
            ("RECOVERY_SYNC_INTERVAL", 999),
            ("SCHEDULER_JOB_TIMEOUT", 5_000),
            ("RECOVERY_OVERDUE_STRATEGY", "os.system"),
            ("SCHEDULER_MIN_SCHEDULE_ADVANCE", 7_776_000_001),
            ("SECRET_KEY", "x"),
            ("scheduler_max_retries", 5),
        ],
    )
    def test_refuses_by_the_rules_of_the_environment(self, change, name, value):
        with pytest.raises(InvalidRequestError) as refusal:
            change(**{name: value, "SCHEDULER_RETRY_DELAY": 200})

        assert [field for field, _ in refusal.value.errors] == [name]
        assert "Value error" not in refusal.value.detail
        assert not Constance.objects.exists()

    @pytest.mark.parametrize("reason", [None, " "])
    def test_wants_a_reason(self, change, reason):
        with pytest.raises(InvalidRequestError):
            change(SCHEDULER_MAX_RETRIES=7, reason=reason)

    def test_wants_a_setting(self, change):
        with pytest.raises(InvalidRequestError) as refusal:
            change(reason="x")

        assert refusal.value.detail == "name at least one setting beside the reason"

    def test_is_for_admins(self, change):
        with pytest.raises(OperationNotPermittedError):
            change(SCHEDULER_MAX_RETRIES=7, actor=user_actor("o", role=Role.OPERATOR))


class TestInForce:
    def test_sees_what_another_process_has_set_within_its_interval(self, change, settings):
        settings.LIVE_SETTINGS_SECONDS = 0.05
        assert scheduler_settings().max_retries == 3
        Constance.objects.create(
            key=RETRIES, value='{"__type__": "default", "__value__": 8}'
        )

        time.sleep(0.06)

        assert scheduler_settings().max_retries == 8

    def test_asks_once_in_a_while_only(self, change, settings, django_assert_num_queries):
        settings.LIVE_SETTINGS_SECONDS = 60
        scheduler_settings()

        with django_assert_num_queries(0):
            for _ in range(100):
                scheduler_settings()
                recovery_settings()

    def test_leaves_out_what_is_allowed_no_more(self, change):
        change(SCHEDULER_MAX_RETRIES=7)
        Constance.objects.update(value='{"__type__": "default", "__value__": 1000}')

        live_settings.look_again()

        assert scheduler_settings().max_retries == 3

    def test_keeps_what_it_knows_while_the_database_is_away(self, change, monkeypatch):
        from django.db import OperationalError

        change(SCHEDULER_MAX_RETRIES=7)
        assert scheduler_settings().max_retries == 7

        def fail():
            raise OperationalError("gone")

        monkeypatch.setattr(live_settings, "_read_rows", fail)
        live_settings.look_again()

        assert scheduler_settings().max_retries == 7

    def test_reaches_the_loggers(self, change):
        try:
            change(SCHEDULER_ENABLE_DEBUG_LOGGING=True)
            scheduler_settings()
            assert logging.getLogger("autopilot").level == logging.DEBUG
        finally:
            live_settings.forget()
            set_log_level()
        assert logging.getLogger("autopilot").level != logging.DEBUG


class TestCommands:
    def test_list_and_set_go_by_the_same_words(self, change):
        output = io.StringIO()
        call_command("set_setting", RETRIES, "5", reason="x", json=True, stdout=output)
        told = json.loads(output.getvalue())
        output = io.StringIO()
        call_command("list_settings", json=True, stdout=output)

        assert told == {"name": RETRIES, **json.loads(output.getvalue())[RETRIES]}
        assert told["source"] == "runtime"
        assert AuditEntry.objects.get().actor.startswith("cli:")

    def test_set_refuses_with_code_1(self, change):
        with pytest.raises(CommandError) as refusal:
            call_command("set_setting", RETRIES, "many", reason="x")

        assert refusal.value.returncode == 1

    def test_set_wants_a_value_or_the_default(self, change):
        with pytest.raises(CommandError) as refusal:
            call_command("set_setting", RETRIES, reason="x")

        assert refusal.value.returncode == 2

    def test_constance_s_own_is_not_available(self):
        with pytest.raises(CommandError, match="set_setting"):
            call_command("constance", "set", RETRIES, "5")


class TestApi:
    PATH = "/api/v1/settings/"

    @pytest.fixture
    def tell(self, client, django_user_model, db):
        """Return what asks in the name of a user with a role."""
        from django.contrib.auth.models import Group

        def tell(role, method, body=None):
            user = django_user_model.objects.create_user(role, password="pass-word-1")  # noqa: S106
            user.groups.add(Group.objects.get(name=role))
            token = client.post(
                "/api/v1/auth/token/",
                {"username": role, "password": "pass-word-1"},
                content_type="application/json",
            ).json()["access"]
            call = getattr(client, method)
            extra = {"headers": {"Authorization": f"Bearer {token}"}}
            if body is None:
                return call(self.PATH, **extra)
            return call(self.PATH, body, content_type="application/json", **extra)

        return tell

    def test_a_viewer_reads(self, tell):
        answer = tell("viewer", "get")

        assert answer.status_code == 200
        assert answer.json()[RETRIES] == {
            "value": 3,
            "default": 3,
            "source": "default",
            "min": 0,
            "max": 100,
        }
        assert answer.json()["SCHEDULER_LOG_JOB_DETAILS"]["min"] is None
        assert "SCHEDULER_JOB_TIMEOUT" not in answer.json()

    def test_an_admin_changes(self, tell):
        answer = tell("admin", "patch", {RETRIES: 5, "reason": "unsteady"})

        assert answer.status_code == 200
        assert answer.json()[RETRIES]["value"] == 5
        assert answer.json()[RETRIES]["source"] == "runtime"

    def test_an_operator_does_not(self, tell):
        answer = tell("operator", "patch", {RETRIES: 5, "reason": "unsteady"})

        assert answer.status_code == 403

    def test_what_is_wrong_is_named(self, tell):
        answer = tell("admin", "patch", {RETRIES: 500, "SCHEDULER_X": 1, "reason": "x"})

        assert answer.status_code == 400
        assert [error["field"] for error in answer.json()["errors"]] == [
            RETRIES,
            "SCHEDULER_X",
        ]
