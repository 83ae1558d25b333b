"""Prepared statements on Django's PostgreSQL connection.

Django binds values on the client and sends each statement as new text. The engine's few
hot statements are long; prepared, the server parses and plans them once a session.
"""

from collections.abc import Mapping
from typing import Any

import psycopg
from django.db import connection


def execute_prepared(statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run a statement with `%(name)s` places and return its rows.

    Raises:
        django.db.Error: As Django raises it for any other statement.
    """
    connection.ensure_connection()
    with (
        connection.wrap_database_errors,
        psycopg.Cursor(connection.connection) as cursor,
    ):
        cursor.execute(statement, values, prepare=True)
        return cursor.fetchall() if cursor.description else []
