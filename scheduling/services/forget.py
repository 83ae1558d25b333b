"""Delete what nobody needs any more, a bounded number of rows at a time."""

from typing import Any

from django.db import transaction
from django.db.models import QuerySet


def forget(rows: QuerySet[Any], *, order_by: str, size: int) -> int:
    """Delete the rows, the first in that order first; return how many.

    Args:
        size: How many rows one transaction deletes at the most.
    """
    forgotten = 0
    while True:
        with transaction.atomic():
            keys = list(rows.order_by(order_by).values_list("pk", flat=True)[:size])
            deleted: int = rows.model._default_manager.filter(pk__in=keys).delete()[0]
            forgotten += deleted
        if len(keys) < size:
            return forgotten
