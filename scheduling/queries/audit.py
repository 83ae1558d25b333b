"""The audit: entries by the API's filters, one after the other, and how each looks."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.db.models import Max, Q, QuerySet

from scheduling.domain.phases import format_instant, parse_instant, wire_id
from scheduling.models import AuditEntry
from scheduling.queries.filters import (
    Filter,
    parse_id_filter,
    read_conditions,
    text_parser,
)

LONGEST_ACTOR = 300
LONGEST_JOB_ID = 128
_ACTION = re.compile(r"[a-z_]{1,20}\.[a-z_]{1,19}")
# Rows that are in memory at a time while all are read.
CHUNK = 1_000


def _parse_action(value: object) -> str:
    """Return what has the form of an action."""
    if isinstance(value, str) and _ACTION.fullmatch(value):
        return value
    raise ValueError("must be an action such as transition.cancelled")


AUDIT_FILTERS: dict[str, Filter] = {
    "actor": (text_parser(longest=LONGEST_ACTOR), lambda value: Q(actor=value)),
    "action": (_parse_action, lambda value: Q(action=value)),
    "job_id": (text_parser(longest=LONGEST_JOB_ID), lambda value: Q(job_id=value)),
    "project_id": (parse_id_filter, lambda value: Q(project_id=value)),
    "after": (parse_instant, lambda value: Q(at__gte=value)),
    "before": (parse_instant, lambda value: Q(at__lt=value)),
}


def list_audit(filters: Mapping[str, Any]) -> QuerySet[AuditEntry]:
    """Return the entries that match all filters, the newest first.

    Raises:
        InvalidRequestError: Names every unknown filter and every wrong value.
    """
    condition = read_conditions(filters, AUDIT_FILTERS)
    return AuditEntry.objects.filter(condition).order_by("-at", "-id")


def newest_entry() -> int:
    """Return the highest id of all entries, 0 without any."""
    # Over all entries: the highest key of those that match would have to be searched.
    return AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0


def read_whole(
    entries: QuerySet[AuditEntry],
    *,
    newest: int | None = None,
    after: AuditEntry | None = None,
) -> Iterator[AuditEntry]:
    """Yield all of the entries, the oldest first, with `CHUNK` of them in memory.

    Each chunk is a query of its own that goes on where the last one ended. A cursor kept
    open would make the server put all that matches aside first, or would hold a
    transaction open for as long as a slow client reads. What is written meanwhile is
    left out; nothing that stands can change.

    Args:
        newest: No entries with a higher id than this; by default the newest of now.
        after: Go on behind this entry.
    """
    newest = newest_entry() if newest is None else newest
    rest = entries.filter(id__lte=newest).order_by("at", "id")
    while chunk := list((_following(rest, after) if after else rest)[:CHUNK]):
        yield from chunk
        if len(chunk) < CHUNK:
            return
        after = chunk[-1]


def _following(rest: QuerySet[AuditEntry], last: AuditEntry) -> QuerySet[AuditEntry]:
    """Return what stands behind an entry."""
    # The first condition is the one that an index serves.
    return rest.filter(at__gte=last.at).filter(Q(at__gt=last.at) | Q(id__gt=last.pk))


def show_audit_entry(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as the outside sees it (contract, section 4)."""
    return {
        "id": entry.pk,
        "at": format_instant(entry.at),
        "action": entry.action,
        "jobId": entry.job_id or None,
        "projectId": wire_id(entry.project_id) if entry.project_id else None,
        "phaseId": wire_id(entry.phase_id) if entry.phase_id else None,
        "state": entry.state or None,
        "actor": entry.actor,
        "role": entry.role or None,
        "oldStatus": entry.old_status or None,
        "newStatus": entry.new_status or None,
        "changes": entry.changes,
        "reason": entry.reason or None,
        "requestId": entry.request_id or None,
    }


# The columns of an export, in the order in which a record shows them.
AUDIT_COLUMNS = (
    *("id", "at", "action", "jobId", "projectId", "phaseId", "state", "actor", "role"),
    *("oldStatus", "newStatus", "changes", "reason", "requestId"),
)
