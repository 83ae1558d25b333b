"""Prepared statements on Django's PostgreSQL connection, several in one round trip.

Django binds values on the client and sends each statement as new text. The engine's few
hot statements are long; prepared, the server parses and plans them once a session.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import psycopg
from django.db import connection

Rows = list[tuple[Any, ...]]


def execute_prepared(statement: str, values: Mapping[str, Any]) -> Rows:
    """Run a statement with `%(name)s` places and return its rows.

    Raises:
        django.db.Error: As Django raises it for any other statement.
    """
    return execute_together([(statement, values)])[0]


def execute_together(statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Rows]:
    """Run statements one after the other, sent at once; return the rows of each.

    Raises:
        django.db.Error: Of the first that fails; those after it are not run.
    """
    connection.ensure_connection()
    session = connection.connection
    with ExitStack() as stack:
        stack.enter_context(connection.wrap_database_errors)
        cursors = [stack.enter_context(psycopg.Cursor(session)) for _ in statements]
        # The results are there once the pipeline has ended.
        with session.pipeline() if len(statements) > 1 else nullcontext():
            for cursor, (statement, values) in zip(cursors, statements, strict=True):
                cursor.execute(statement, values, prepare=True)
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]
