"""What jobs are searched by, with an index of its trigrams where PostgreSQL lets us."""

import logging

from django.db import DatabaseError, migrations, models, transaction

logger = logging.getLogger("autopilot.migrations")

# By the same function as Django's `icontains`.
INDEX = (
    "CREATE INDEX job_text_trigrams ON scheduling_jobtext"
    " USING gin (upper(text) gin_trgm_ops)"
)


def create_index(apps, schema_editor):
    connection = schema_editor.connection
    if connection.vendor != "postgresql" or schema_editor.collect_sql:
        return
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            cursor.execute(INDEX)
    except DatabaseError as error:
        logger.warning(
            "jobs are searched without an index, as PostgreSQL's extension pg_trgm can't "
            "be used: %s; `manage.py doctor` says how to add it",
            str(error).strip(),
        )


class Migration(migrations.Migration):
    dependencies = [("scheduling", "0013_probe_owner")]

    operations = [
        migrations.CreateModel(
            name="JobText",
            fields=[
                ("job", models.BigIntegerField(primary_key=True, serialize=False)),
                ("text", models.TextField()),
            ],
        ),
        migrations.RunPython(create_index, migrations.RunPython.noop),
    ]
