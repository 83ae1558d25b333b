from types import SimpleNamespace

import pytest

from scheduling.checks import (
    check_sqlite_writes_at_once,
    check_task_is_not_handed_out_twice,
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
