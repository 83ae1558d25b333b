"""An SQLite file that may not grow by a single page, as on a disk that is full."""

from contextlib import contextmanager

from django.db import connection


@contextmanager
def full_disk():
    """Let the database of this thread's connection not grow."""
    with connection.cursor() as cursor:
        # Nor into what was deleted.
        cursor.execute("VACUUM")
        (pages,) = cursor.execute("PRAGMA page_count").fetchone()
        (usual,) = cursor.execute("PRAGMA max_page_count").fetchone()
        cursor.execute(f"PRAGMA max_page_count = {pages}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA max_page_count = {usual}")


def integrity():
    """Return what SQLite says of the file: `ok` where it is whole."""
    with connection.cursor() as cursor:
        return cursor.execute("PRAGMA integrity_check").fetchone()[0]
