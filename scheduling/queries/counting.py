"""How many rows there are, exactly as far as that costs little."""

import json
from collections.abc import Callable
from typing import Any

from django.db import connection
from django.db.models import QuerySet

# Rows are counted so far: to count a million takes PostgreSQL a tenth of a second and
# more, whatever index it has, and that for each page.
MOST_COUNTED = 100_000
# What many rows have a part of is looked for in one row after the other.
MOST_COUNTED_IN_SEARCH = 2_000


def count_rows(
    rows: QuerySet[Any],
    *,
    at_least: int = 0,
    most: int | None = None,
    ceiling: Callable[[], int | None] = lambda: None,
) -> int:
    """Return how many rows there are: beyond `MOST_COUNTED`, PostgreSQL's estimate.

    Args:
        at_least: As many were seen already.
        most: Where the estimate begins, if sooner.
        ceiling: An estimate that knows more of one of the conditions; asked where one is
            needed.
    """
    most = MOST_COUNTED if most is None else most
    if connection.vendor != "postgresql":
        return max(at_least, rows.count())
    counted = rows[: most + 1].count()
    if counted <= most:
        return max(at_least, counted)
    estimates = [estimate_rows(rows), ceiling()]
    return max(at_least, counted, min(one for one in estimates if one is not None))


def estimate_rows(rows: QuerySet[Any]) -> int:
    """Return how many rows PostgreSQL expects, from its figures alone."""
    plan = json.loads(rows.order_by().values("pk").explain(format="json"))
    return int(plan[0]["Plan"]["Plan Rows"])
