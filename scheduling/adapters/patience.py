"""Transactions that don't wait for the database for ever, and how it is found away."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import connection, transaction

_MS = timedelta(milliseconds=1)


@contextmanager
def atomic_within(patience: timedelta) -> Iterator[None]:
    """Open a transaction none of whose statements may take longer than that.

    On SQLite only the wait for other writers is bounded: its statements run in this
    process.

    Raises:
        OperationalError: A statement took too long, or a lock was not to be had.
    """
    milliseconds = max(1, patience // _MS)
    if connection.vendor == "postgresql":
        with transaction.atomic():
            with connection.cursor() as cursor:
                # Until the transaction's end.
                cursor.execute(
                    "SELECT set_config('statement_timeout', %s, true)",
                    [f"{milliseconds}ms"],
                )
            yield
        return
    with _sqlite_patience(milliseconds), transaction.atomic():
        yield


@contextmanager
def _sqlite_patience(milliseconds: int) -> Iterator[None]:
    """Bound the wait for other writers; it begins before the transaction does."""
    with connection.cursor() as cursor:
        (usual,) = cursor.execute("PRAGMA busy_timeout").fetchone()
        cursor.execute(f"PRAGMA busy_timeout = {min(usual, milliseconds)}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {usual}")


# PostgreSQL's classes of errors that end a session: connection exceptions, and the
# server's own shutdown. Those before a session stands have no code.
_ENDS_A_SESSION = ("08", "57P")


def is_session_lost(error: Exception) -> bool:
    """Tell whether the error ended the session, rather than one statement of it.

    Only PostgreSQL has sessions. Django may have opened a new one by now.
    """
    if connection.vendor != "postgresql":
        return connection.connection is None
    code = getattr(error.__cause__, "sqlstate", None)
    return code is None or code.startswith(_ENDS_A_SESSION)
