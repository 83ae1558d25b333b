"""Edits of the audit behind its triggers, which are undone again."""

import importlib
from contextlib import contextmanager

from django.db import connection, transaction

GUARDS = [
    importlib.import_module(f"scheduling.migrations.{name}")
    for name in ("0002_refuse_audit_changes", "0010_audit_seals")
]
TABLES = ("scheduling_auditentry", "scheduling_auditseal")


def without_triggers():
    """Take the triggers away; the caller's transaction brings them back."""
    _turn_triggers("DISABLE", "DROP")


def restore_triggers():
    """Put them back, while what was done without them stands."""
    _turn_triggers("ENABLE", "CREATE")


def _turn_triggers(verb, statements):
    """Turn them off or on: on PostgreSQL by a verb, on SQLite by a guard's statements."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            for table in TABLES:
                cursor.execute(f"ALTER TABLE {table} {verb} TRIGGER USER")
        else:
            for guard in GUARDS:
                for statement in getattr(guard, statements)["sqlite"]:
                    cursor.execute(statement)


@contextmanager
def tampering():
    """Let the block change the audit; all of it is undone at the end."""
    with transaction.atomic():
        without_triggers()
        yield
        transaction.set_rollback(True)
