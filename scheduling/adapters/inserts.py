"""Writes new rows fast: many by COPY, one job with its audit entry by one statement.

That is for PostgreSQL; on SQLite, where no round trip costs anything, it is the ORM's
bulk insert.
"""

import functools
import json
import operator
import re
import uuid
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import Any, cast

from django.db import connection, models
from django.db.models.base import ModelState
from psycopg.types.json import Jsonb

from scheduling.adapters.postgres import execute_prepared
from scheduling.models import AuditEntry, ScheduledTransition

# Rows whose text is made while the server takes in those before them.
SLICE = 100


@functools.cache
def _columns(model: type[models.Model]) -> tuple[tuple[str, str, bool], ...]:
    """Return attribute, quoted column and "is JSON" of each column but a generated key."""
    return tuple(
        (f.attname, f'"{f.column}"', isinstance(f, models.JSONField))
        for f in model._meta.concrete_fields
        if not isinstance(f, models.AutoField)
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
            for start in range(0, len(rows), SLICE):
                sink.write(copy_text(rows[start : start + SLICE]))


def insert_where_free(jobs: Sequence[ScheduledTransition]) -> set[uuid.UUID]:
    """Insert those of the new jobs that stand in nobody's way.

    It waits for others who are inserting the same identities, and lets them win.

    Returns:
        The event ids of those that were inserted.

    Raises:
        IntegrityError: A constraint other than of uniqueness refuses one of them.
    """
    ScheduledTransition.objects.bulk_create(jobs, batch_size=500, ignore_conflicts=True)
    standing = ScheduledTransition.objects.filter(job_id__in=[job.job_id for job in jobs])
    event_ids = set(standing.order_by().values_list("event_id", flat=True))
    return {job.event_id for job in jobs} & event_ids


def copy_text(rows: Sequence[models.Model]) -> str:
    """Return the rows as COPY reads them: a line each, a tab between the columns.

    Column by column, since most hold the same in every row of a batch. Source: PostgreSQL,
    "COPY", text format.
    """
    columns = _columns(type(rows[0]))
    pick = operator.itemgetter(*[name for name, _, _ in columns])
    by_column = zip(*[pick(row.__dict__) for row in rows], strict=True)
    texts = [
        _json_texts(values) if is_json else _texts(values)
        for (_, _, is_json), values in zip(columns, by_column, strict=True)
    ]
    return "\n".join([*map("\t".join, zip(*texts, strict=True)), ""])


def _json_texts(values: Sequence[object]) -> Sequence[str]:
    """Return one JSON column as COPY reads it."""
    return _texts([json.dumps(value) for value in values])


def _texts(values: Sequence[Any]) -> Sequence[str]:
    """Return one column as COPY reads it."""
    kinds = set(map(type, values))
    if kinds == {str} and not _SPECIAL.search("".join(values)):
        return values
    if len(kinds) == 1 and values.count(values[0]) == len(values):
        return [_text(values[0])] * len(values)
    return list(map(_text, values))


_SPECIAL = re.compile(r"[\\\n\r\t]")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def _text(value: object) -> str:
    """Return one value as COPY reads it.

    Raises:
        TypeError: No column of ours has such values.
    """
    if isinstance(value, str):
        return value.translate(_ESCAPES) if _SPECIAL.search(value) else value
    if value is None:
        return r"\N"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (int, float, uuid.UUID)):
        # PostgreSQL reads True and False as booleans.
        return str(value)
    if isinstance(value, bytes):
        return rf"\\x{value.hex()}"
    raise TypeError(f"{type(value).__name__} can't be copied")


@functools.cache
def _insert_one_statement() -> str:
    """Return the statement that inserts a job and its entry where nothing stands there.

    The constraints tell of live jobs and of live rows' ids: unlike a look-up of them, that
    depends on no plan made while the table was small.
    """
    job = _columns(ScheduledTransition)
    entry = _columns(AuditEntry)
    jobs, entries = ScheduledTransition._meta.db_table, AuditEntry._meta.db_table
    return f"""
        WITH added AS (
            INSERT INTO {jobs} ({", ".join(column for _, column, _ in job)})
            SELECT {_places(ScheduledTransition, "job")}
            WHERE NOT EXISTS (
                SELECT 1 FROM {entries} WHERE job_id = %(job_job_id)s::varchar)
            ON CONFLICT DO NOTHING
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

    For batches: Django's constructor takes ten times as long. Signals of the model are
    not sent, and nothing looks at the names.
    """
    plain, made = _defaults(model)
    row = model.__new__(model)
    row._state = ModelState()
    columns = row.__dict__
    columns.update(plain)
    columns.update(values)
    for name, make in made:
        if name not in values:
            columns[name] = make()
    return row


@functools.cache
def _defaults(
    model: Hashable,
) -> tuple[dict[str, Any], tuple[tuple[str, Callable[[], Any]], ...]]:
    """Return the columns' defaults by attribute: values, and what has to be called."""
    fields = cast("type[models.Model]", model)._meta.concrete_fields
    made = tuple(
        (f.attname, f.default) for f in fields if f.has_default() and callable(f.default)
    )
    names = {name for name, _ in made}
    plain = {f.attname: f.get_default() for f in fields if f.attname not in names}
    return plain, made
