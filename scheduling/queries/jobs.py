"""Lists of jobs by the API's filters, and a job's view."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db.models import F, Q

from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.lifecycle import FINAL, LIVE, TransitionStatus
from scheduling.domain.phases import (
    check_storable,
    format_instant,
    parse_instant,
    parse_state,
    wire_id,
)
from scheduling.models import ScheduledTransition
from scheduling.models.scheduled_transition import ScheduledTransitionQuerySet
from scheduling.queries.filters import (
    camel_case,
    parse_id_filter,
    show_instant,
)
from scheduling.queries.job_search import DueOrder, find_in_due_order, search

LONGEST_SEARCH = 100
ORDERINGS = {
    "endTime": "due_at",
    "createdAt": "created_at",
    "status": "status",
    "latenessMs": "lateness_ms",
}


def _parse_status(value: object) -> list[str]:
    """Return one or several statuses."""
    values = value if isinstance(value, (list, tuple)) else [value]
    for one in values:
        if not isinstance(one, str) or one not in set(TransitionStatus):
            allowed = ", ".join(TransitionStatus)
            raise ValueError(f"must be one of {allowed}")
    return [str(one) for one in values]


def _parse_flag(value: object) -> bool:
    """Return true or false."""
    flags = {True: True, False: False, "true": True, "false": False}
    if isinstance(value, (bool, str)) and value in flags:
        return flags[value]
    raise ValueError("must be true or false")


def _parse_instant(value: object) -> datetime:
    """Return an instant; in an address a plus sign is a space, unless it is escaped."""
    try:
        return parse_instant(value)
    except ValueError as error:
        if isinstance(value, str) and " " in value.strip():
            raise ValueError(f"{error}; in an address + is written %2B") from None
        raise


def _parse_search(value: object) -> str:
    """Return a search text."""
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_SEARCH:
        raise ValueError(f"must be a text of 1 to {LONGEST_SEARCH} characters")
    check_storable(value)
    return value.strip()


def _has_status(statuses: Sequence[str]) -> Q:
    """Return the condition of jobs in one of the statuses.

    As a range too: that an index can answer in its order, a list of values it can't.
    """
    if len(set(statuses)) == 1:
        return Q(status=statuses[0])
    return Q(
        status__in=sorted(statuses),
        status__gte=min(statuses),
        status__lte=max(statuses),
    )


def is_live() -> Q:
    """Return the condition of jobs that are scheduled or running."""
    return _has_status(sorted(LIVE))


def is_overdue(*, now: datetime) -> Q:
    """Return the condition of live jobs whose instant has passed."""
    return is_live() & Q(due_at__lt=now)


Condition = Callable[[Any, datetime], Q]
# Snake-case name: parser of its value, and the condition that it sets.
FILTERS: dict[str, tuple[Callable[[object], Any], Condition]] = {
    # Live and final ones each have an index of their own, and no index has both.
    "project_id": (
        parse_id_filter,
        lambda value, _: (
            Q(project_id=value, status__in=sorted(LIVE))
            | Q(project_id=value, status__in=sorted(FINAL))
        ),
    ),
    "challenge_id": (parse_id_filter, lambda value, _: Q(challenge_id=value)),
    "phase_id": (parse_id_filter, lambda value, _: Q(phase_id=value)),
    "state": (parse_state, lambda value, _: Q(state=value)),
    "status": (_parse_status, lambda value, _: _has_status(value)),
    "due_after": (_parse_instant, lambda value, _: Q(due_at__gte=value)),
    "due_before": (_parse_instant, lambda value, _: Q(due_at__lt=value)),
    "overdue": (
        _parse_flag,
        lambda value, now: (
            is_overdue(now=now) if value else ~Q(due_at__lt=now, status__in=sorted(LIVE))
        ),
    ),
    "search": (_parse_search, lambda value, _: search(value)),
}

# Those of them that know a job by its due instant alone.
_OF_DUE_INSTANT: Final = {"due_after": "gte", "due_before": "lt"}


def list_jobs(
    filters: Mapping[str, Any], *, now: datetime, live_by_default: bool = True
) -> ScheduledTransitionQuerySet:
    """Return the jobs that match all filters, in due order or by `ordering`.

    Raises:
        InvalidRequestError: Names every unknown filter and every wrong value.
    """
    rows = ScheduledTransition.objects.all()
    errors: list[tuple[str, str]] = []
    column, is_descending = "due_at", False
    for name, value in filters.items():
        if name == "ordering":
            column, is_descending = _order(value, errors)
            continue
        if name not in FILTERS:
            errors.append((camel_case(name), "is not a known filter"))
            continue
        parse, condition = FILTERS[name]
        try:
            rows = rows.filter(condition(parse(value), now))
        except ValueError as error:
            errors.append((camel_case(name), str(error)))
    if errors:
        raise InvalidRequestError(errors)
    if live_by_default and "status" not in filters:
        rows = rows.filter(is_live())
    if column == "lateness_ms":
        # What has no lateness yet comes last either way, on either database.
        lateness = F(column)
        order = (
            lateness.desc(nulls_last=True)
            if is_descending
            else lateness.asc(nulls_last=True)
        )
        return rows.order_by(order, "-id" if is_descending else "id")
    sign = "-" if is_descending else ""
    return rows.order_by(f"{sign}{column}", f"{sign}id")


def _order(value: object, errors: list[tuple[str, str]]) -> tuple[str, bool]:
    """Return the column to order by, and whether downwards."""
    text = str(value)
    column = ORDERINGS.get(text.removeprefix("-"))
    if column is None:
        names = ", ".join(ORDERINGS)
        errors.append(("ordering", f"must be one of {names}, each also with -"))
        return "due_at", False
    return column, text.startswith("-")


def search_in_due_order(filters: Mapping[str, Any], *, now: datetime) -> DueOrder | None:
    """Return the jobs of a list that is searched, where their texts are the shorter way.

    Args:
        filters: As for `list_jobs`, which tells what is wrong with them.
    """
    rest = dict(filters)
    errors: list[tuple[str, str]] = []
    column, is_descending = _order(rest.pop("ordering", "endTime"), errors)
    try:
        text = _parse_search(rest.pop("search", None))
    except ValueError:
        return None
    if errors or column != "due_at":
        return None
    # Here it tells of wrong values.
    list_jobs(rest, now=now, live_by_default=False)
    due = {
        lookup: _parse_instant(rest.pop(name))
        for name, lookup in _OF_DUE_INSTANT.items()
        if name in rest
    }
    among = list_jobs(rest, now=now, live_by_default=False) if rest else None
    return find_in_due_order(text, is_descending=is_descending, due=due, among=among)


def show_job(job: ScheduledTransition) -> dict[str, Any]:
    """Return a job as the outside sees it (contract, section 4)."""
    return {
        "jobId": job.job_id,
        "eventId": str(job.event_id),
        "projectId": wire_id(job.project_id),
        "challengeId": wire_id(job.challenge_id) if job.challenge_id else None,
        "phaseId": wire_id(job.phase_id),
        "phaseTypeName": job.phase_type_name,
        "state": job.state,
        "endTime": format_instant(job.due_at),
        "operator": job.operator,
        "projectStatus": job.project_status,
        "metadata": job.metadata,
        "date": show_instant(job.date),
        "status": job.status,
        "attempts": job.attempts,
        "maxAttempts": job.max_attempts,
        "nextAttemptAt": show_instant(job.next_attempt_at),
        "lastError": job.last_error or None,
        "createdAt": format_instant(job.created_at),
        "updatedAt": format_instant(job.updated_at),
        "startedAt": show_instant(job.started_at),
        "completedAt": show_instant(job.completed_at),
        "latenessMs": job.lateness_ms,
        "replaces": job.replaces or None,
        "replacedBy": job.replaced_by or None,
        "topicPartition": job.topic_partition,
        "topicOffset": job.topic_offset,
    }
