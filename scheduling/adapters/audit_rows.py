"""Audit entries as the seals see them: each as one canonical text, made by the database.

To build and to hash a text takes a few microseconds; to read fourteen columns into Python
and to write them as JSON again would take ten times as long.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from django.db import connection

from scheduling.models import AuditEntry

TABLE: Final = AuditEntry._meta.db_table
# Rows that are in memory at a time, and spans in one condition: SQLite takes no longer one.
CHUNK: Final = 5_000
_SPANS: Final = 200
Row = tuple[int, str]
Span = tuple[int, int]

_COLUMNS: Final = ", ".join(
    f.column for f in AuditEntry._meta.concrete_fields if f.column not in {"id", "at"}
)
# Each quotes what stands in it, so that only equal values make equal texts. PostgreSQL's
# instant would look as the session's time zone has it.
_TEXT: Final = {
    "postgresql": f"ROW(id, extract(epoch FROM at), {_COLUMNS})::text",
    "sqlite": f"json_array(id, at, {_COLUMNS})",
}


def rows_after(last_id: int, *, most: int) -> list[Row]:
    """Return id and canonical text of the entries after that id, in the order of ids."""
    # Without an upper bound: by one, a planner without figures of the table takes it for
    # a handful of rows and sorts them all.
    return _read("id > %s", [last_id], size=most)


def rows_of_spans(spans: Sequence[Span]) -> Iterator[Row]:
    """Yield id and canonical text of the entries of the spans, in the order of ids.

    Each chunk is a query of its own: none holds a transaction open.

    Args:
        spans: First and last ids, in order, none overlapping another.
    """
    for start in range(0, len(spans), _SPANS):
        rest: Sequence[Span] = spans[start : start + _SPANS]
        while rest:
            places = " OR ".join(["id BETWEEN %s AND %s"] * len(rest))
            rows = _read(places, [number for span in rest for number in span], size=CHUNK)
            yield from rows
            if len(rows) < CHUNK:
                break
            after = rows[-1][0]
            rest = [(max(low, after + 1), high) for low, high in rest if high > after]


def _read(condition: str, values: Sequence[int], *, size: int) -> list[Row]:
    """Return the first of the entries."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id, {_TEXT[connection.vendor]} FROM {TABLE}"  # noqa: S608 -- names of ours
            f" WHERE {condition} ORDER BY id LIMIT %s",
            [*values, size],
        )
        return list(cursor.fetchall())


def writers() -> list[str]:
    """Return the transactions that may write the audit now; none on SQLite.

    An insert locks the table before it draws an id from the sequence, and until its
    transaction ends, whose rows are visible before the lock is gone. So whoever has drawn
    an id and is not among these has committed or never will. (The oldest transaction id
    in progress would miss one that has drawn an id and has no transaction id yet.)
    SQLite has one writer, which draws its ids while all others wait.
    """
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT virtualtransaction FROM pg_locks"
            " WHERE locktype = 'relation' AND relation = %s::regclass"
            " AND database = ("
            "SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND mode = 'RowExclusiveLock' AND granted ORDER BY 1",
            [TABLE],
        )
        return [name for (name,) in cursor.fetchall()]
