"""Delete what nobody needs any more, a bounded number of rows at a time."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import QuerySet

# The workers are there for firing: a longer backlog is left to the next run.
MOST_SECONDS: Final = 20.0


def forget(rows: QuerySet[Any], *, order_by: str, size: int) -> int:
    """Delete the rows, the first in that order first; return how many.

    Args:
        order_by: What an index serves.
        size: How many rows one transaction deletes at the most.
    """
    return _in_batches(
        lambda: list(rows.order_by(order_by).values_list("pk", flat=True)[:size]),
        rows,
        size=size,
    )


def forget_oldest(rows: QuerySet[Any], *, field: str, before: datetime, size: int) -> int:
    """Delete rows whose instant is earlier, in the order of their keys; return how many.

    For tables whose instants rise with the keys, and that have no index of them: never
    more than one batch is looked at in vain.
    """

    def old() -> list[Any]:
        first = rows.order_by("pk").values_list("pk", field)[:size]
        return [key for key, instant in first if instant < before]

    return _in_batches(old, rows, size=size)


def _in_batches(choose: Callable[[], list[Any]], rows: QuerySet[Any], *, size: int) -> int:
    """Delete what is chosen until less than a whole batch is left, or the time is over."""
    forgotten = 0
    ends_at = time.monotonic() + MOST_SECONDS
    while True:
        with transaction.atomic():
            keys = choose()
            deleted: int = rows.model._default_manager.filter(pk__in=keys).delete()[0]
            forgotten += deleted
        if len(keys) < size or time.monotonic() > ends_at:
            return forgotten
