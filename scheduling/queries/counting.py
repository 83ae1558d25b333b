"""How many rows there are, exactly as far as that costs little."""

import json
from typing import Any

from django.db import connection
from django.db.models import QuerySet

# Rows are counted so far: to count a million takes PostgreSQL a tenth of a second and
# more, whatever index it has, and that for each page.
MOST_COUNTED = 100_000
# What many rows have a part of is looked for in one row after the other.
MOST_COUNTED_IN_SEARCH = 2_000


def count_rows(rows: QuerySet[Any], *, at_least: int = 0, most: int | None = None) -> int:
    """Return how many rows there are: beyond `MOST_COUNTED`, PostgreSQL's estimate.

    Args:
        at_least: As many were seen already.
        most: Where the estimate begins, if sooner.
    """
    most = MOST_COUNTED if most is None else most
    if connection.vendor != "postgresql":
        return max(at_least, rows.count())
    counted = rows[: most + 1].count()
    if counted <= most:
        return max(at_least, counted)
    plan = json.loads(rows.order_by().values("pk").explain(format="json"))
    estimate = int(plan[0]["Plan"]["Plan Rows"])
    return max(at_least, counted, estimate)
