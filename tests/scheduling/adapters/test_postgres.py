"""The engine's statements are prepared, and planned anew as the jobs' table grows."""

import pytest
from django.db import ProgrammingError, connection

from scheduling.adapters import postgres
from scheduling.adapters.postgres import execute_prepared, execute_together

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db,
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="prepared statements are PostgreSQL's"
    ),
]


def prepared(text):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT statement FROM pg_prepared_statements WHERE statement LIKE %s",
            [f"%{text}%"],
        )
        return [statement for (statement,) in cursor.fetchall()]


class TestExecutePrepared:
    def test_has_the_server_keep_the_statement(self):
        for number in (1, 2):
            assert execute_prepared("SELECT %(n)s + 41001", {"n": number}) == [
                (number + 41001,)
            ]

        assert len(prepared("41001")) == 1


class TestExecuteTogether:
    def test_returns_the_rows_of_each_statement(self):
        results = execute_together(
            [
                ("SELECT generate_series(1, %(n)s)", {"n": 2}),
                ("SET LOCAL lock_timeout = 4000", {}),
                ("SELECT %(text)s", {"text": "%"}),
            ]
        )

        assert results == [[(1,), (2,)], [], [("%",)]]

    def test_plans_anew_once_the_table_has_doubled(self, monkeypatch):
        monkeypatch.setattr(postgres, "SIZE_SECONDS", 0.0)
        for pages in (5, 7, 8, 15, 6):
            monkeypatch.setattr(postgres, "_SIZE", f"SELECT {pages}")
            execute_together([("SELECT 41002", {})])  # sees the size
            execute_together([("SELECT 41003", {})])  # goes by it

        assert len(prepared("41003")) == 2

    def test_does_not_ask_for_the_size_each_time(self, monkeypatch):
        monkeypatch.setattr(postgres, "SIZE_SECONDS", 60.0)
        execute_together([("SELECT 41004", {})])
        monkeypatch.setattr(postgres, "_SIZE", "no SQL at all")

        assert execute_together([("SELECT 41004", {})]) == [[(41004,)]]

    def test_leaves_the_rest_undone_where_one_fails(self):
        with pytest.raises(ProgrammingError):
            execute_together([("SELECT no_such_column", {}), ("SELECT 41005", {})])
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")

        assert prepared("41005") == []
