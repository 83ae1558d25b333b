"""The audit as people search it: by an id, a name, a challenge, a word of a reason."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from django.db.models import Max, Q, QuerySet

from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.phases import check_storable, parse_query_id
from scheduling.models import AuditEntry, Challenge
from scheduling.queries.audit import list_audit
from scheduling.queries.filters import parse_id_filter

LONGEST_SEARCH: Final = 100
# No index finds a word within a reason: it is looked for among so many newest entries.
REASONS_SEARCHED: Final = 50_000
# Of what one kind of match finds, so many newest are shown; filters find the rest.
MOST_FOUND: Final = 1_000
_ACTORS: Final = ("user", "cli", "kafka", "system")


def search_audit(filters: Mapping[str, Any]) -> QuerySet[AuditEntry]:
    """Return the entries that match all filters, the newest first.

    Args:
        filters: Those of the API; `challenge_id`, for what was done to its phases; and
            `search`: a whole id, an actor's name, or a part of a reason.

    Raises:
        InvalidRequestError: Names every wrong value.
    """
    rest = dict(filters)
    challenge_id, search = rest.pop("challenge_id", None), rest.pop("search", None)
    if "actor" in rest and ":" not in str(rest["actor"]):
        rest["actor"] = f"user:{rest['actor']}"
    entries = list_audit(rest)
    if challenge_id is not None:
        entries = entries.filter(_of_challenge(challenge_id))
    return entries if search is None else entries.filter(pk__in=_found(entries, search))


def _of_challenge(value: object) -> Q:
    """Return the condition of entries about a challenge's phases.

    Raises:
        InvalidRequestError: It is no id.
    """
    try:
        challenge_id = parse_id_filter(value)
    except ValueError as error:
        raise InvalidRequestError([("challengeId", str(error))]) from None
    row = Challenge.objects.filter(challenge_id=challenge_id).first()
    if row is None:
        return Q(pk__in=[])
    phases = list(row.phases.order_by().values_list("phase_id", flat=True))
    return Q(project_id=row.project_id, phase_id__in=phases)


def _found(entries: QuerySet[AuditEntry], search: str) -> set[int]:
    """Return the keys of the newest entries that a text finds, each kind by its index.

    Raises:
        InvalidRequestError: The text is too long, or nothing can hold it.
    """
    text = search.strip()
    if len(text) > LONGEST_SEARCH:
        most = f"must be at most {LONGEST_SEARCH} characters"
        raise InvalidRequestError([("search", most)])
    try:
        check_storable(text)
    except ValueError as error:
        raise InvalidRequestError([("search", str(error))]) from None
    newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
    kinds = [
        Q(job_id=text),
        Q(actor__in=[f"{kind}:{text}" for kind in _ACTORS]),
        Q(id__gt=newest - REASONS_SEARCHED, reason__icontains=text),
    ]
    # What is no id is no project's.
    with suppress(ValueError):
        kinds.append(Q(project_id=parse_query_id(text)))
    found: set[int] = set()
    for kind in kinds:
        found.update(entries.filter(kind).values_list("pk", flat=True)[:MOST_FOUND])
    return found
