from types import SimpleNamespace

import pytest

from scheduling.checks import (
    check_challenges_are_real,
    check_neighbours_are_proven,
    check_sqlite_writes_at_once,
    check_task_is_not_handed_out_twice,
    check_what_is_plugged_in,
)


class TestCheckTaskIsNotHandedOutTwice:
    def test_is_content_with_the_product_s_settings(self):
        assert check_task_is_not_handed_out_twice(None) == []

    @pytest.mark.parametrize(
        ("values", "is_refused"),
        [
            ({"timeout": 60, "retry": 125, "queue_limit": 2, "workers": 2}, True),
            ({"timeout": 60, "retry": 126, "queue_limit": 2, "workers": 2}, False),
            ({"timeout": 60, "retry": 126, "queue_limit": 3, "workers": 2}, True),
            ({"timeout": 60, "retry": 186, "queue_limit": 3, "workers": 2}, False),
        ],
    )
    def test_refuses_a_retry_within_the_longest_wait_and_run(
        self, settings, values, is_refused
    ):
        settings.Q_CLUSTER = settings.Q_CLUSTER | values

        found = [one.id for one in check_task_is_not_handed_out_twice(None)]

        assert found == (["scheduling.E001"] if is_refused else [])


class TestCheckSqliteWritesAtOnce:
    def test_is_content_with_the_product_s_settings(self):
        assert check_sqlite_writes_at_once(None) == []

    @pytest.mark.parametrize(
        ("engine", "options", "is_refused"),
        [
            ("django.db.backends.sqlite3", {"transaction_mode": "IMMEDIATE"}, False),
            ("django.db.backends.sqlite3", {"transaction_mode": "DEFERRED"}, True),
            ("django.db.backends.sqlite3", {}, True),
            ("django.db.backends.postgresql", {}, False),
        ],
    )
    def test_refuses_sqlite_without_immediate_transactions(
        self, monkeypatch, engine, options, is_refused
    ):
        databases = {"default": {"ENGINE": engine, "OPTIONS": options}}
        monkeypatch.setattr(
            "scheduling.checks.settings", SimpleNamespace(DATABASES=databases)
        )

        found = [one.id for one in check_sqlite_writes_at_once(None)]

        assert found == (["scheduling.E002"] if is_refused else [])


class TestCheckChallengesAreReal:
    @pytest.mark.parametrize(
        ("is_on", "debug", "found"),
        [(True, False, ["scheduling.W001"]), (True, True, []), (False, False, [])],
    )
    def test_warns_of_samples_in_production(self, settings, is_on, debug, found):
        settings.DEBUG = debug
        settings.RECOVERY = settings.RECOVERY.model_copy(
            update={"challenge_service_mock_mode": is_on}
        )

        assert [one.id for one in check_challenges_are_real(None)] == found


class TestCheckWhatIsPluggedIn:
    def test_is_content_with_the_product_s_settings(self):
        assert check_what_is_plugged_in(None) == []

    @pytest.mark.parametrize(
        ("values", "names"),
        [
            ({"event_handlers": {"a": "no_such.handler"}}, ["AUTOPILOT_EVENT_HANDLERS"]),
            ({"event_publisher": "no_such.Publisher"}, ["AUTOPILOT_EVENT_PUBLISHER"]),
            (
                {"event_handlers": {"a": "no_such.h"}, "event_publisher": "no_such.P"},
                ["AUTOPILOT_EVENT_HANDLERS", "AUTOPILOT_EVENT_PUBLISHER"],
            ),
        ],
    )
    def test_names_the_variable_whose_path_leads_nowhere(self, settings, values, names):
        settings.MESSAGES = settings.MESSAGES.model_copy(update=values)

        found = check_what_is_plugged_in(None)

        assert {one.id for one in found} == {"scheduling.E003"}
        assert [one.msg.partition(":")[0] for one in found] == names


class TestCheckNeighboursAreProven:
    @pytest.mark.parametrize(
        ("brokers", "protocol", "is_found"),
        [
            ("127.0.0.1:19092", None, False),
            ("[::1]:9092,localhost:9093", None, False),
            ("kafka.example:9092", None, True),
            ("127.0.0.1:9092, kafka.example:9092", "SASL_PLAINTEXT", True),
            ("kafka.example:9092", "SASL_SSL", False),
            ("kafka.example:9092", "SSL", False),
        ],
    )
    def test_warns_of_a_broker_elsewhere_without_tls(
        self, settings, brokers, protocol, is_found
    ):
        client = {"bootstrap.servers": brokers}
        if protocol:
            client["security.protocol"] = protocol
        settings.KAFKA_CLIENT = client

        found = [one.id for one in check_neighbours_are_proven(None)]

        assert ("scheduling.W002" in found) is is_found

    @pytest.mark.parametrize(
        ("engine", "host", "sslmode", "is_found"),
        [
            ("sqlite3", "", None, False),
            ("postgresql", "", None, False),
            ("postgresql", "/run/postgresql", None, False),
            ("postgresql", "127.0.0.1", None, False),
            ("postgresql", "db.example", None, True),
            ("postgresql", "db.example", "require", True),
            ("postgresql", "db.example", "verify-full", False),
        ],
    )
    def test_warns_of_a_database_elsewhere_that_is_not_proven(
        self, monkeypatch, engine, host, sslmode, is_found
    ):
        database = {
            "ENGINE": f"django.db.backends.{engine}",
            "HOST": host,
            "OPTIONS": {"sslmode": sslmode} if sslmode else {},
        }
        monkeypatch.setattr(
            "scheduling.checks.settings",
            SimpleNamespace(
                DATABASES={"default": database},
                KAFKA_CLIENT={"bootstrap.servers": "127.0.0.1:9092"},
            ),
        )

        found = [one.id for one in check_neighbours_are_proven(None)]

        assert found == (["scheduling.W003"] if is_found else [])
