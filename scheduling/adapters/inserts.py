"""Writes new rows fast: many by COPY, one job with its audit entry by one statement.

That is for PostgreSQL; on SQLite, where no round trip costs anything, it is the ORM's
bulk insert.
"""

import functools
import json
from collections.abc import Hashable, Sequence
from typing import Any, cast

from django.db import connection, models
from psycopg.types.json import Jsonb

from scheduling.adapters.postgres import execute_prepared
from scheduling.models import AuditEntry, ScheduledTransition


@functools.cache
def _columns(model: type[models.Model]) -> tuple[tuple[str, str, bool], ...]:
    """Return attribute, quoted column and "is JSON" of each column but the key."""
    return tuple(
        (f.attname, f'"{f.column}"', isinstance(f, models.JSONField))
        for f in model._meta.concrete_fields
        if not f.primary_key
    )


def insert_rows(rows: Sequence[models.Model]) -> None:
    """Insert new rows of one model, without reading their keys back.

    Raises:
        IntegrityError: A constraint refuses one of them; then none is inserted.
    """
    if not rows:
        return
    model = type(rows[0])
    if connection.vendor != "postgresql" or len(rows) == 1:
        model._default_manager.bulk_create(rows, batch_size=500)
        return
    columns = _columns(model)
    names = ", ".join(column for _, column, _ in columns)
    statement = f'COPY "{model._meta.db_table}" ({names}) FROM STDIN'
    with connection.cursor() as cursor, connection.wrap_database_errors:
        copy: Any = cursor.cursor.copy(statement)
        with copy as sink:
            for row in rows:
                values = row.__dict__
                sink.write_row(
                    [
                        json.dumps(values[name]) if is_json else values[name]
                        for name, _, is_json in columns
                    ]
                )


@functools.cache
def _insert_one_statement() -> str:
    """Return the statement that inserts a job and its entry where nothing stands there."""
    job = _columns(ScheduledTransition)
    entry = _columns(AuditEntry)
    jobs, entries = ScheduledTransition._meta.db_table, AuditEntry._meta.db_table
    return f"""
        WITH added AS (
            INSERT INTO {jobs} ({", ".join(column for _, column, _ in job)})
            SELECT {_places(ScheduledTransition, "job")}
            WHERE NOT EXISTS (
                SELECT 1 FROM {jobs} WHERE project_id = %(job_project_id)s::varchar
                AND phase_id = %(job_phase_id)s::varchar
                AND state = %(job_state)s::varchar
                AND status IN ('scheduled', 'running'))
            AND NOT EXISTS (
                SELECT 1 FROM {entries} WHERE job_id = %(job_job_id)s::varchar)
            RETURNING id),
        audited AS (
            INSERT INTO {entries} ({", ".join(column for _, column, _ in entry)})
            SELECT {_places(AuditEntry, "entry")} FROM added)
        SELECT id FROM added
    """  # noqa: S608 -- only names of ours are spliced in


def _places(model: type[models.Model], prefix: str) -> str:
    """Return a typed place for each column; a length in the type would cut texts off."""
    return ", ".join(
        f"%({prefix}_{f.attname})s::{str(f.db_type(connection)).partition('(')[0]}"
        for f in model._meta.concrete_fields
        if not f.primary_key
    )


def insert_one(job: ScheduledTransition, entry: AuditEntry) -> bool:
    """Insert a job and its entry in one round trip; for PostgreSQL.

    Returns:
        Whether it was inserted; not where the identity has a live job, or where the job
        id was given before.

    Raises:
        IntegrityError: Another writer was there in the same moment.
    """
    values = {
        f"{prefix}_{name}": Jsonb(row.__dict__[name]) if is_json else row.__dict__[name]
        for prefix, row in (("job", job), ("entry", entry))
        for name, _, is_json in _columns(type(row))
    }
    rows = execute_prepared(_insert_one_statement(), values)
    for (key,) in rows:
        job.pk, job._state.adding = key, False
    return bool(rows)


def new_row(model: Any, **values: Any) -> Any:
    """Return a new instance with defaults and these columns.

    For batches: Django's constructor takes values by position five times as fast as by
    name.
    """
    return model(*[values.get(name, default) for name, default in _defaults(model)])


@functools.cache
def _defaults(model: Hashable) -> tuple[tuple[str, Any], ...]:
    """Return attribute and default of each column; none of ours is made by a call."""
    fields = cast("type[models.Model]", model)._meta.concrete_fields
    return tuple((f.attname, f.get_default()) for f in fields)
