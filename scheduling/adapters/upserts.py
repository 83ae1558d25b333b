"""Writes rows that may stand already: many by one statement of few values."""

from collections.abc import Sequence

from django.db import connection, models


def upsert_rows(
    rows: Sequence[models.Model], *, unique: Sequence[str], update: Sequence[str]
) -> None:
    """Insert rows of one model, or bring those that stand up to date.

    On PostgreSQL each column is one array: Django's own way has a value for each cell,
    which costs more time than all the rest of a large batch.

    Args:
        unique: Names of the fields by which a row is found again; no two of the rows may
            have them alike.
        update: Names of the fields to be written where it stands; none: it is left alone.
    """
    if not rows:
        return
    model = type(rows[0])
    if connection.vendor != "postgresql":
        model._default_manager.bulk_create(
            rows,
            batch_size=500,
            ignore_conflicts=not update,
            update_conflicts=bool(update),
            unique_fields=list(unique) if update else None,
            update_fields=list(update) or None,
        )
        return
    fields = [f for f in model._meta.concrete_fields if not isinstance(f, models.AutoField)]
    by_name = {f.name: f'"{f.column}"' for f in fields}
    names = ", ".join(by_name.values())
    arrays = ", ".join(
        # A length in the type would cut texts off rather than refuse them.
        f"%s::{str(f.db_type(connection)).partition('(')[0]}[]"
        for f in fields
    )
    found_by = ", ".join(by_name[name] for name in unique)
    written = ", ".join(f"{by_name[name]} = EXCLUDED.{by_name[name]}" for name in update)
    act = f"UPDATE SET {written}" if update else "NOTHING"
    with connection.cursor() as cursor:
        cursor.execute(
            f'INSERT INTO "{model._meta.db_table}" ({names}) '  # noqa: S608 -- only names of ours are spliced in
            f"SELECT * FROM unnest({arrays}) ON CONFLICT ({found_by}) DO {act}",
            [[getattr(row, f.attname) for row in rows] for f in fields],
        )
