"""Triggers that refuse UPDATE and DELETE on the audit, whoever asks."""

from django.db import migrations

CREATE = {
    "postgresql": [
        """
        CREATE FUNCTION scheduling_refuse_audit_change() RETURNS trigger
        LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the audit is append-only: % refused', TG_OP;
        END $$
        """,
        """
        CREATE TRIGGER scheduling_audit_append_only
        BEFORE UPDATE OR DELETE ON scheduling_auditentry
        FOR EACH STATEMENT EXECUTE FUNCTION scheduling_refuse_audit_change()
        """,
    ],
    "sqlite": [
        """
        CREATE TRIGGER scheduling_audit_no_update
        BEFORE UPDATE ON scheduling_auditentry
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only: UPDATE refused'); END
        """,
        """
        CREATE TRIGGER scheduling_audit_no_delete
        BEFORE DELETE ON scheduling_auditentry
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only: DELETE refused'); END
        """,
    ],
}
DROP = {
    "postgresql": [
        "DROP TRIGGER IF EXISTS scheduling_audit_append_only ON scheduling_auditentry",
        "DROP FUNCTION IF EXISTS scheduling_refuse_audit_change()",
    ],
    "sqlite": [
        "DROP TRIGGER IF EXISTS scheduling_audit_no_update",
        "DROP TRIGGER IF EXISTS scheduling_audit_no_delete",
    ],
}


def create(apps, schema_editor):
    for statement in CREATE[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


def drop(apps, schema_editor):
    for statement in DROP[schema_editor.connection.vendor]:
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("scheduling", "0001_initial")]
    operations = [migrations.RunPython(create, drop)]
