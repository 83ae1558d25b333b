"""The chain of seals over the audit, with triggers that refuse UPDATE and DELETE."""

from django.db import migrations, models

CREATE = {
    "postgresql": [
        # The function that guards the audit itself says the same of both.
        """
        CREATE TRIGGER scheduling_seal_append_only
        BEFORE UPDATE OR DELETE ON scheduling_auditseal
        FOR EACH STATEMENT EXECUTE FUNCTION scheduling_refuse_audit_change()
        """,
    ],
    "sqlite": [
        """
        CREATE TRIGGER scheduling_seal_no_update
        BEFORE UPDATE ON scheduling_auditseal
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only: UPDATE refused'); END
        """,
        """
        CREATE TRIGGER scheduling_seal_no_delete
        BEFORE DELETE ON scheduling_auditseal
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only: DELETE refused'); END
        """,
    ],
}
DROP = {
    "postgresql": [
        "DROP TRIGGER IF EXISTS scheduling_seal_append_only ON scheduling_auditseal",
    ],
    "sqlite": [
        "DROP TRIGGER IF EXISTS scheduling_seal_no_update",
        "DROP TRIGGER IF EXISTS scheduling_seal_no_delete",
    ],
}


def create(apps, schema_editor):
    for statement in CREATE[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


def drop(apps, schema_editor):
    for statement in DROP[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("scheduling", "0009_totals_and_notifications")]

    operations = [
        migrations.CreateModel(
            name="AuditSeal",
            fields=[
                ("number", models.BigIntegerField(primary_key=True, serialize=False)),
                ("first_id", models.BigIntegerField()),
                ("last_id", models.BigIntegerField()),
                ("entries", models.PositiveIntegerField()),
                ("gaps", models.JSONField(default=list)),
                ("late", models.JSONField(default=list)),
                ("waiting", models.JSONField(default=list)),
                ("sealed_at", models.DateTimeField()),
                ("previous", models.CharField(max_length=64)),
                ("digest", models.CharField(max_length=64)),
            ],
            options={
                "ordering": ["number"],
                "indexes": [models.Index(fields=["last_id"], name="seal_last_id")],
            },
        ),
        migrations.RunPython(create, drop),
    ]
