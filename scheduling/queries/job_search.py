"""Jobs by a part of an id or of the phase's name, where the trigrams' index helps."""

import re
from typing import Final, NamedTuple

from django.db import connection
from django.db.models import F, Max, Q, QuerySet, Value
from django.db.models.functions import StrIndex, Upper
from django.db.models.lookups import GreaterThan

from scheduling.models import AuditEntry, JobText, ScheduledTransition
from scheduling.models.job_text import SEPARATOR, Reach
from scheduling.queries.counting import (
    MOST_COUNTED_IN_SEARCH,
    count_rows,
    estimate_rows,
)

# More than that, and a page is full sooner if jobs are looked at one after the other.
MOST_FOUND: Final = 20_000
# The same, where texts are sorted in place of jobs.
MOST_SORTED: Final = 150_000
# Audit entries that no text reaches yet, which are looked through.
MOST_BEHIND: Final = 20_000
# A row id that none has.
_NO_JOB: Final = 0
_TEXTS: Final = ("job_id", "challenge_id", "phase_type_name")
# What pg_trgm makes a trigram of, wherever in a word it stands: a shorter text has none.
_TRIGRAM: Final = re.compile(r"[^\W_]{3}|[\W_][^\W_]{2}|[^\W_]{2}[\W_]")


def part_of_a_text(text: str) -> Q:
    """Return the condition of a search, to be asked of each job.

    No index serves a part of a text: each row is looked at, so as little of it as does. A
    job id holds the ids of project and phase (contract, section 1), and what has no case
    need not be folded, which takes longer than to search.
    """
    lookup = "icontains" if _has_case(text) else "contains"
    condition = Q()
    for name in _TEXTS:
        condition |= Q(**{f"{name}__{lookup}": text})
    return condition


def search(text: str) -> Q:
    """Return the condition of a search: a part of an id or of the phase's name.

    The index names the jobs that have it. Where very many do, a page is soon full if jobs
    are looked at in their order.
    """
    answer = _ask_index(text, most=MOST_FOUND)
    if answer.is_frequent:
        return _frequent_part(text)
    if answer.kept is None:
        return part_of_a_text(text)
    # Named by the database itself: thousands of parameters would take longer. A union
    # always, with no job at worst: without one the planner walks through all jobs in
    # their order and asks of each whether it is among the named.
    behind = ScheduledTransition.objects.filter(pk__in=answer.behind or [_NO_JOB])
    named = answer.kept.values("pk").union(behind.order_by().values("pk"), all=True)
    return Q(pk__in=named)


def _frequent_part(text: str) -> Q:
    """Return the condition of a search for what very many jobs have.

    The planner takes any LIKE for a rare thing, and would find all jobs that fulfil it
    before it sorts them. A comparison it takes to be fulfilled by each third job.
    """
    has_case = _has_case(text)
    wanted = Upper(Value(text)) if has_case else Value(text)
    condition = Q()
    for name in _TEXTS:
        place = StrIndex(Upper(name) if has_case else F(name), wanted)
        condition |= Q(GreaterThan(place, 0))
    return condition


def _has_case(text: str) -> bool:
    """Tell whether it matters to a text to be folded."""
    return text.upper() != text.lower()


def find_by_index(text: str, *, most: int) -> list[int] | None:
    """Return the row ids of the jobs that have it; None where the index can't tell.

    It can't where nobody keeps the texts, for texts without a trigram, where more than
    `most` have it, and while the texts are too far behind.
    """
    answer = _ask_index(text, most=most)
    if answer.kept is None:
        return None
    return sorted({*answer.kept.values_list("pk", flat=True), *answer.behind})


def estimate_found(text: str) -> int | None:
    """Return how many jobs PostgreSQL expects to have it; None where nobody keeps texts.

    It has figures of the texts, and none of what is compared in the jobs' own columns.
    """
    if connection.vendor != "postgresql" or Reach.read() is None:
        return None
    return estimate_rows(JobText.objects.filter(text__icontains=text))


class DueOrder:
    """The jobs that have what is searched, in due order, as their texts tell.

    To sort short texts and to read a page of jobs takes a tenth of the time that it takes
    to read all the jobs and to sort these.
    """

    def __init__(self, texts: QuerySet[JobText]) -> None:
        self._texts = texts

    def cut(self, start: int, stop: int) -> list[ScheduledTransition | None]:
        """Return the jobs of these places; None for one that has just been deleted."""
        keys = list(self._texts.values_list("pk", flat=True)[start:stop])
        jobs = ScheduledTransition.objects.in_bulk(keys)
        return [jobs.get(key) for key in keys]

    def count(self, *, at_least: int) -> int:
        """Return how many there are, as `count_rows` counts."""
        texts = self._texts.order_by()
        return count_rows(texts, at_least=at_least, most=MOST_COUNTED_IN_SEARCH)


def find_in_due_order(text: str, *, is_descending: bool) -> DueOrder | None:
    """Return the jobs that have it; None where the index does not know all of them.

    None too where so many have it that a page is full sooner if jobs are looked at one
    after the other.
    """
    reach = _reach(text) if _TRIGRAM.search(text) else None
    if reach is None:
        return None
    texts = JobText.objects.filter(text__icontains=text)
    if estimate_rows(texts) > MOST_SORTED or _behind(text, reach):
        return None
    if JobText.objects.filter(due_at=None).exists():
        return None
    # No index has this order: by one the planner would walk through all texts.
    return DueOrder(
        texts.order_by("-due_at", "-pk")
        if is_descending
        else texts.order_by("due_at", "pk")
    )


class _Answer(NamedTuple):
    """What the index tells.

    kept: the texts that have what is searched; None where the index can't tell.
    behind: the row ids of jobs that have it and whose texts aren't kept yet.
    is_frequent: whether too many have it, and that is why.
    """

    kept: QuerySet[JobText] | None
    behind: list[int]
    is_frequent: bool


_UNKNOWN: Final = _Answer(None, [], is_frequent=False)
_FREQUENT: Final = _Answer(None, [], is_frequent=True)


def _ask_index(text: str, *, most: int) -> _Answer:
    """Ask the index, as `find_by_index` tells."""
    if not _TRIGRAM.search(text):
        # Two letters stand in very many of these ids, and no figures say where not.
        return _FREQUENT if connection.vendor == "postgresql" else _UNKNOWN
    # First of all: what is added meanwhile is found twice, and not never.
    reach = _reach(text)
    if reach is None:
        return _UNKNOWN
    kept = JobText.objects.filter(text__icontains=text).order_by()
    # To count them takes long exactly where the figures are right.
    if estimate_rows(kept) > 2 * most:
        return _FREQUENT
    number = kept[: most + 1].count()
    behind = _behind(text, reach)[: most + 1] if number <= most else []
    if number + len(behind) > most:
        return _FREQUENT
    return _Answer(kept, behind, is_frequent=False)


def _reach(text: str) -> Reach | None:
    """Return how far the texts reach; None where they can't tell who has it."""
    reach = None if SEPARATOR in text else Reach.read()
    if reach is None:
        return None
    newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
    return reach if newest - reach.last_id <= MOST_BEHIND else None


def _behind(text: str, reach: Reach) -> list[int]:
    """Return the row ids of the jobs that have it and whose texts aren't kept yet."""
    entries = Q(id__gt=reach.last_id)
    for span in reach.waiting:
        entries |= Q(id__range=span)
    new = AuditEntry.objects.filter(entries, old_status="").exclude(job_id="")
    # Two steps: the planner, whose figures lag behind, would look through all jobs.
    job_ids = list(new.values_list("job_id", flat=True).distinct())
    jobs = ScheduledTransition.objects.filter(part_of_a_text(text), job_id__in=job_ids)
    return list(jobs.order_by().values_list("pk", flat=True)) if job_ids else []
