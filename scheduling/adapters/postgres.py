"""Prepared statements on Django's PostgreSQL connection, several in one round trip.

Django binds values on the client and sends each statement as new text. The engine's few
hot statements are long: to parse and to plan them takes longer than to run them. Prepared,
that is done once a session, and once more whenever the jobs' table has doubled. Their
results come in binary: an instant as text takes fifty times as long to read.
"""

import functools
import re
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from django.db import connection

Rows = list[tuple[Any, ...]]
# Django sets None, with which psycopg prepares nothing, whatever a cursor asks for. The
# number does not matter: the functions here ask, and Django's own cursors never do.
PREPARE_THRESHOLD = 5
# A plan that is made while the table is nearly empty reads all of it, and would be kept
# while a burst fills the table, until the next ANALYZE. So each size of the table, by
# powers of two, has its own plans; how large it is, is asked this often.
SIZE_SECONDS = 0.25
_SIZE = "SELECT pg_relation_size('scheduling_scheduledtransition') / 8192"
_UNKNOWN = -1
_PLACE = re.compile(r"%\((?P<name>\w+)\)s|%%")


@dataclass
class _Plans:
    """Whose turn it is: the plans for which size of the table, known since when.

    size: bits of the table's pages. looked_at: monotonic seconds.
    """

    size: int = _UNKNOWN
    looked_at: float = 0.0


_plans: weakref.WeakKeyDictionary[Any, _Plans] = weakref.WeakKeyDictionary()


def execute_prepared(statement: str, values: Mapping[str, Any]) -> Rows:
    """Run a statement with `%(name)s` places and return its rows.

    Its plan is kept whatever the table's size; else see `execute_together`.

    Raises:
        django.db.Error: As Django raises it for any other statement.
    """
    with connection.wrap_database_errors:
        cursor = psycopg.RawCursor(_session())
        numbered = _numbered(statement)
        cursor.execute(numbered.text, numbered.pick(values), prepare=True, binary=True)
        return _rows(cursor)


def execute_together(statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Rows]:
    """Run statements one after the other, sent at once; return the rows of each.

    Raises:
        django.db.Error: Of the first that fails; those after it are not run.
    """
    with connection.wrap_database_errors:
        session = _session()
        plans = _plans.setdefault(session, _Plans())
        cursors = [psycopg.RawCursor(session) for _ in statements]
        size = psycopg.RawCursor(session) if _must_look(plans) else None
        # The results are there once the pipeline has ended.
        with session.pipeline():
            for cursor, (statement, values) in zip(cursors, statements, strict=True):
                numbered = _numbered(_labelled(statement, plans.size))
                cursor.execute(
                    numbered.text, numbered.pick(values), prepare=True, binary=True
                )
            if size:
                size.execute(_SIZE, prepare=True, binary=True)
        if size:
            ((pages,),) = size.fetchall()
            plans.size, plans.looked_at = pages.bit_length(), time.monotonic()
        return [_rows(cursor) for cursor in cursors]


def _session() -> Any:
    """Return this thread's session, ready to prepare statements."""
    connection.ensure_connection()
    session = connection.connection
    session.prepare_threshold = PREPARE_THRESHOLD
    return session


def _must_look(plans: _Plans) -> bool:
    """Tell whether the table's size has to be asked again."""
    return plans.size == _UNKNOWN or time.monotonic() - plans.looked_at > SIZE_SECONDS


@functools.lru_cache(maxsize=256)
def _labelled(statement: str, size: int) -> str:
    """Return the statement as another text for each size, so with plans of its own."""
    return f"{statement}\n-- {size}"


@dataclass(frozen=True)
class _Numbered:
    """A statement with PostgreSQL's own places, `$1`, `$2`, …, and whose they are."""

    text: str
    names: tuple[str, ...]

    def pick(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the values in the order of their places."""
        return [values[name] for name in self.names]


@functools.lru_cache(maxsize=256)
def _numbered(statement: str) -> _Numbered:
    """Return a statement as the server reads it.

    psycopg would do so at each call where a statement has more than 4,096 characters or
    50 values, which takes longer than many a statement runs.
    """
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        name = match["name"]
        return f"${numbers.setdefault(name, len(numbers) + 1)}" if name else "%"

    text = _PLACE.sub(number, statement)
    return _Numbered(text, tuple(numbers))


def _rows(cursor: "psycopg.Cursor[Any]") -> Rows:
    """Return what a statement returned, if it returns anything."""
    return cursor.fetchall() if cursor.description else []
