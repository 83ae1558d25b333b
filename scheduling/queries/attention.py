"""Jobs in the order in which an operator wants to see them, page by page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Concat

from scheduling.domain.lifecycle import FINAL, LIVE, TransitionStatus
from scheduling.models import ScheduledTransition
from scheduling.models.scheduled_transition import ScheduledTransitionQuerySet
from scheduling.queries.job_search import find_by_index

S = TransitionStatus
_UNDEALT = frozenset({S.EXPIRED, S.FAILED})
# Where the index of trigrams can't tell, so many live jobs and so many settled ones are
# looked through for a part of an id or a name, the next due and the newest.
SEARCHED = 5_000
# As many as are sorted in memory: each one is named by every query of the list.
MOST_FOUND = 500
# One text of a row costs a third of five.
_TEXTS = Concat(
    "job_id",
    Value("\n"),
    "project_id",
    Value("\n"),
    "challenge_id",
    Value("\n"),
    "phase_id",
    Value("\n"),
    "phase_type_name",
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Jobs that belong together in the list, in an order that a small index serves.

    statuses: those that jobs of the group may have.
    is_overdue: whether their instant has passed while they are live.
    """

    statuses: frozenset[TransitionStatus]
    is_overdue: bool
    condition: Callable[[datetime], Q]
    order: Sequence[str]


# One query with a rank would sort the whole table; one over all live jobs in due order
# would lead through everything that has been finished.
GROUPS: tuple[Group, ...] = (
    Group(
        statuses=frozenset({S.RUNNING}),
        is_overdue=True,
        condition=lambda now: Q(status=S.RUNNING, due_at__lt=now),
        order=("key", "due_at", "id"),
    ),
    Group(
        statuses=frozenset({S.SCHEDULED}),
        is_overdue=True,
        condition=lambda now: Q(
            Q(ready_at__lte=F("due_at")),
            status=S.SCHEDULED,
            claim_token=None,
            ready_at__lt=now,
            due_at__lt=now,
        ),
        order=("ready_at", "state", "id"),
    ),
    # Overdue, and waiting for its next attempt.
    Group(
        statuses=frozenset({S.SCHEDULED}),
        is_overdue=True,
        condition=lambda now: (
            Q(status=S.SCHEDULED, ready_at__gt=F("due_at")) & Q(due_at__lt=now)
        ),
        order=("key", "due_at", "id"),
    ),
    Group(
        statuses=frozenset({S.FAILED}),
        is_overdue=False,
        condition=lambda now: Q(status=S.FAILED, replaced_by=""),
        order=("due_at", "id"),
    ),
    Group(
        statuses=frozenset({S.EXPIRED}),
        is_overdue=False,
        condition=lambda now: Q(status=S.EXPIRED, replaced_by=""),
        order=("due_at", "id"),
    ),
    # Running, ready or waiting for its next attempt before its instant: an operator
    # demanded it.
    Group(
        statuses=frozenset({S.RUNNING}),
        is_overdue=False,
        condition=lambda now: Q(status=S.RUNNING, due_at__gte=now),
        order=("key", "due_at", "id"),
    ),
    Group(
        statuses=frozenset({S.SCHEDULED}),
        is_overdue=False,
        condition=lambda now: Q(
            status=S.SCHEDULED, claim_token=None, ready_at__lt=now, due_at__gte=now
        ),
        order=("ready_at", "state", "id"),
    ),
    Group(
        statuses=frozenset({S.SCHEDULED}),
        is_overdue=False,
        condition=lambda now: (
            Q(status=S.SCHEDULED, ready_at__gt=F("due_at")) & Q(due_at__gte=now)
        ),
        order=("key", "due_at", "id"),
    ),
    Group(
        statuses=frozenset({S.SCHEDULED}),
        is_overdue=False,
        condition=lambda now: Q(
            Q(ready_at__lte=F("due_at")),
            status=S.SCHEDULED,
            claim_token=None,
            ready_at__gte=now,
        ),
        order=("ready_at", "state", "id"),
    ),
    Group(
        statuses=FINAL,
        is_overdue=False,
        condition=lambda now: (
            Q(finalized_at__isnull=False) & ~Q(status__in=sorted(_UNDEALT), replaced_by="")
        ),
        order=("-finalized_at", "-id"),
    ),
)


def groups_of(
    rows: ScheduledTransitionQuerySet,
    *,
    now: datetime,
    status: str | None = None,
    is_overdue: bool | None = None,
) -> list[ScheduledTransitionQuerySet]:
    """Return the jobs in groups: overdue, failed, expired, coming, settled.

    Args:
        status, is_overdue: What the rows are filtered by already: groups that can have
            none of them are left out, which no planner would find out.
    """
    return [
        rows.filter(group.condition(now)).order_by(*group.order)
        for group in GROUPS
        if (status is None or status in group.statuses)
        and (is_overdue is None or is_overdue == group.is_overdue)
    ]


def sort_by_attention(
    jobs: Sequence[ScheduledTransition], *, now: datetime
) -> list[ScheduledTransition]:
    """Return a few jobs in the same order of groups, by due instant inside each."""

    def place(job: ScheduledTransition) -> tuple[int, float, int]:
        if job.current_status in LIVE:
            return (0 if job.due_at < now else 2, job.due_at.timestamp(), job.pk)
        if job.current_status in _UNDEALT and not job.replaced_by:
            return 1, job.due_at.timestamp(), job.pk
        return 3, -job.due_at.timestamp(), -job.pk

    return sorted(jobs, key=place)


def overdue_parts(
    rows: QuerySet[ScheduledTransition], *, now: datetime
) -> list[QuerySet[ScheduledTransition]]:
    """Return the overdue jobs in parts that share none, each served by a small index."""
    # In the index's order, or else the planner reads the whole table to count them.
    return [
        rows.filter(one.condition(now)).order_by(*one.order)
        for one in GROUPS
        if one.is_overdue
    ]


def in_status(
    rows: QuerySet[ScheduledTransition], status: TransitionStatus
) -> QuerySet[ScheduledTransition]:
    """Return the jobs of a status in the order of the index that has them together."""
    if status is S.SCHEDULED:
        waiting = rows.filter(status=status, claim_token=None)
        return waiting.order_by("ready_at", "state", "id")
    if status is S.RUNNING:
        return rows.filter(status=status).order_by("key", "due_at")
    return rows.filter(status=status).order_by("due_at", "id")


def slice_groups(
    groups: Sequence[ScheduledTransitionQuerySet], *, start: int, stop: int
) -> list[ScheduledTransition]:
    """Return the rows from `start` to before `stop` of the groups one after the other.

    A group is counted only where the slice begins behind it: in its order, which a small
    index serves, where a bare count would read the whole table.
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
            size = group[:start].count()
            start, stop = start - size, stop - size
    return found


def find_by_part(text: str) -> list[int]:
    """Return the keys of jobs with a text in one of their ids or in the phase's name.

    Where the index can't tell it looks through the next live jobs and the newest settled
    ones, so many of each.
    """
    known = find_by_index(text, most=MOST_FOUND)
    if known is not None:
        return known
    wanted = text.casefold()
    rows = ScheduledTransition.objects.annotate(texts=_TEXTS).values_list("pk", "texts")
    live = rows.filter(status=S.SCHEDULED, claim_token=None)
    settled = rows.filter(finalized_at__isnull=False)
    looked_through = (
        rows.filter(status=S.RUNNING).order_by("key", "due_at"),
        live.order_by("ready_at", "state", "id"),
        settled.order_by("-finalized_at"),
    )
    # Compared here: a condition would make the planner look through the whole table.
    found = (
        key
        for some in looked_through
        for key, texts in some[:SEARCHED].iterator()
        if wanted in texts.casefold()
    )
    return list(islice(found, MOST_FOUND))
