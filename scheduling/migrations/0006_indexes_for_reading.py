"""Indexes that serve the API's filters and order, made beside running processes."""

from django.contrib.postgres.operations import (
    AddIndexConcurrently,
    RemoveIndexConcurrently,
)
from django.db import migrations, models

FINAL = models.Q(status__in=["cancelled", "completed", "expired", "failed"])


class _Online:
    """Lets the processes go on meanwhile on PostgreSQL; SQLite has no such way."""

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor != "postgresql":
            # The operation that the concurrent one is made of.
            self._plain.database_forwards(
                self, app_label, schema_editor, from_state, to_state
            )
            return
        # It waits for the transactions that are open; the sessions' own limit is for
        # those in whose way it must not stand.
        schema_editor.execute("SET lock_timeout = 0")
        self._forget_failure(schema_editor)
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        schema_editor.execute("RESET lock_timeout")

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor != "postgresql":
            self._plain.database_backwards(
                self, app_label, schema_editor, from_state, to_state
            )
            return
        schema_editor.execute("SET lock_timeout = 0")
        super().database_backwards(app_label, schema_editor, from_state, to_state)
        schema_editor.execute("RESET lock_timeout")

    def _forget_failure(self, schema_editor):
        """Drop what an earlier run that was broken off has left."""


class AddIndexOnline(_Online, AddIndexConcurrently):
    _plain = migrations.AddIndex

    def _forget_failure(self, schema_editor):
        schema_editor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{self.index.name}"')


class RemoveIndexOnline(_Online, RemoveIndexConcurrently):
    _plain = migrations.RemoveIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("scheduling", "0005_idempotency_keys")]

    operations = [
        AddIndexOnline(
            "scheduledtransition",
            models.Index(
                fields=["phase_id", "project_id", "state"], name="transition_phase"
            ),
        ),
        AddIndexOnline(
            "scheduledtransition",
            models.Index(
                fields=["project_id"], condition=FINAL, name="transition_final_project"
            ),
        ),
        AddIndexOnline(
            "scheduledtransition",
            models.Index(
                fields=["due_at", "id", "status", "state"], name="transition_due_order"
            ),
        ),
        AddIndexOnline(
            "scheduledtransition",
            models.Index(
                fields=["status", "due_at", "id"],
                condition=FINAL,
                name="transition_final_due",
            ),
        ),
        # Only now: what they served is served by the new ones.
        RemoveIndexOnline("scheduledtransition", "transition_identity"),
        RemoveIndexOnline("scheduledtransition", "transition_due"),
        AddIndexOnline("auditentry", models.Index(fields=["at", "id"], name="audit_at")),
        AddIndexOnline(
            "auditentry",
            models.Index(
                fields=["project_id", "at", "id"],
                condition=~models.Q(project_id=""),
                name="audit_project",
            ),
        ),
        AddIndexOnline(
            "auditentry",
            models.Index(
                fields=["actor", "at", "id"],
                condition=~models.Q(actor="system:scheduler"),
                name="audit_actor",
            ),
        ),
        AddIndexOnline(
            "auditentry",
            models.Index(
                fields=["action", "at", "id"],
                condition=~models.Q(
                    action__in=[
                        "transition.scheduled",
                        "transition.claimed",
                        "transition.completed",
                    ]
                ),
                name="audit_action",
            ),
        ),
        AddIndexOnline(
            "challenge",
            models.Index(fields=["status", "challenge_id"], name="challenge_status"),
        ),
        AddIndexOnline(
            "deadletter",
            models.Index(
                fields=["status", "-set_aside_at"],
                condition=~models.Q(status="new"),
                name="dead_letter_settled",
            ),
        ),
    ]
