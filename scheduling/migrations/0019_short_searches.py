"""Indexes of the texts of jobs for what has no trigram, and for what very many have."""

from importlib import import_module

from django.db import migrations, models

_online = import_module("scheduling.migrations.0006_indexes_for_reading")

# Of what stands between two separators: each pair of neighbours, and the last character.
# Its cost keeps the planner from asking it of each text.
CREATE_FUNCTION = r"""
CREATE OR REPLACE FUNCTION scheduling_bigrams(text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 100 AS $$
BEGIN
    RETURN array_to_tsvector(array_remove(string_to_array(
        regexp_replace($1, '(..)', E'\\1\x1f', 'g') || E'\x1f'
        || regexp_replace(substr($1, 2), '(..)', E'\\1\x1f', 'g'), E'\x1f'), ''));
END $$
"""
INDEXES = {
    "job_text_bigrams": "USING gin (scheduling_bigrams(text))",
    "job_text_due_order": "(due_at, job) INCLUDE (text)",
}


def create(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    # It waits for the transactions that are open.
    schema_editor.execute("SET lock_timeout = 0")
    schema_editor.execute(CREATE_FUNCTION, params=None)
    for name, what in INDEXES.items():
        # An earlier run that was broken off may have left it unfinished.
        schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        schema_editor.execute(
            f"CREATE INDEX CONCURRENTLY {name} ON scheduling_jobtext {what}", params=None
        )
    schema_editor.execute("RESET lock_timeout")


def drop(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    for name in INDEXES:
        schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    schema_editor.execute("DROP FUNCTION IF EXISTS scheduling_bigrams(text)")


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("scheduling", "0018_text_form")]

    operations = [
        migrations.RunPython(create, drop),
        _online.AddIndexOnline(
            model_name="jobtext",
            index=models.Index(
                fields=["job"],
                condition=models.Q(form=None),
                name="job_text_unready",
            ),
        ),
        # Only now: what it served is served by the new one.
        _online.RemoveIndexOnline("jobtext", "job_text_undated"),
    ]
