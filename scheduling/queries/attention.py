"""Jobs in the order in which an operator wants to see them, page by page."""

from collections.abc import Sequence
from datetime import datetime

from django.db.models import Q

from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import ScheduledTransition
from scheduling.models.scheduled_transition import ScheduledTransitionQuerySet
from scheduling.queries.jobs import is_live

_UNDEALT = Q(
    status__in=[TransitionStatus.EXPIRED, TransitionStatus.FAILED],
    status__gte=TransitionStatus.EXPIRED,
    status__lte=TransitionStatus.FAILED,
    replaced_by="",
)


def needs_attention() -> Q:
    """Return the condition of failed and expired jobs that nobody has dealt with."""
    return _UNDEALT


def by_attention(
    rows: ScheduledTransitionQuerySet, *, now: datetime
) -> tuple[ScheduledTransitionQuerySet, ...]:
    """Return the jobs in groups: overdue, failed and expired, coming, settled.

    Each group is in an order that an index serves: overdue ones by due instant, what is
    settled with the newest first. One query with a rank would sort the whole table.
    """
    rows = rows.order_by()
    overdue = rows.filter(is_live(), due_at__lt=now).order_by("due_at", "id")
    undealt = rows.filter(_UNDEALT).order_by("due_at", "id")
    coming = rows.filter(is_live(), due_at__gte=now).order_by("due_at", "id")
    settled = rows.exclude(is_live()).exclude(_UNDEALT).order_by("-due_at", "-id")
    return overdue, undealt, coming, settled


def slice_groups(
    groups: Sequence[ScheduledTransitionQuerySet], *, start: int, stop: int
) -> list[ScheduledTransition]:
    """Return the rows from `start` to before `stop` of the groups one after the other.

    A group is counted only where the slice begins behind it.
    """
    found: list[ScheduledTransition] = []
    for group in groups:
        wanted = stop - start
        if wanted <= 0:
            break
        rows = list(group[start:stop])
        if rows:
            found += rows
            start, stop = 0, wanted - len(rows)
        elif start:
            size = group.count()
            start, stop = start - size, stop - size
    return found
