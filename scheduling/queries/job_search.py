"""Jobs by a part of an id or of the phase's name, where the indexes of texts help."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from heapq import merge
from typing import Any, Final, NamedTuple, TypeAlias

from django.db import connection
from django.db.models import (
    BooleanField,
    ExpressionWrapper,
    F,
    Func,
    Max,
    Q,
    QuerySet,
    Value,
)
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce, StrIndex, Upper
from django.db.models.lookups import GreaterThan

from scheduling.models import AuditEntry, JobText, ScheduledTransition
from scheduling.models.job_text import SEPARATOR, UNREADY, Reach
from scheduling.queries.counting import MOST_COUNTED_IN_SEARCH, estimate_rows

# More than that, and a page is full sooner if jobs are looked at one after the other.
MOST_FOUND: Final = 20_000
# The same, where texts are sorted in place of jobs.
MOST_SORTED: Final = 150_000
# Where one in so many of all has it, a page is full sooner by a look at each.
LEAST_PART: Final = 8
# Audit entries that no text reaches yet, which are looked through.
MOST_BEHIND: Final = 20_000
# The same, where a look at the jobs themselves soon has enough.
MOST_BEHIND_COMMON: Final = 2_000
# A row id that none has.
_NO_JOB: Final = 0
_BIGRAM: Final = 2
_TEXTS: Final = ("job_id", "challenge_id", "phase_type_name")
_Place: TypeAlias = tuple[datetime, int]
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

    It can't where nobody keeps the texts, for the few texts that `_look_up` names, where
    more than `most` have it, and while the texts are too far behind.
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

    def __init__(
        self,
        places: QuerySet[Any, _Place],
        *,
        behind: Iterable[_Place],
        is_descending: bool,
        estimate: Callable[[], int],
    ) -> None:
        """Take the places of the jobs: the due instant and the row id of each.

        Args:
            places: Those that the texts know, in no order.
            behind: Others, in no order.
            estimate: Returns about how many places there are.
        """
        directions = ("-due", "-pk") if is_descending else ("due", "pk")
        self._places = places.order_by(*directions)
        self._merge = partial(merge, reverse=is_descending)
        self._behind = sorted(behind, reverse=is_descending)
        self._estimate = estimate
        self._number: int | None = None

    def cut(self, start: int, stop: int) -> list[ScheduledTransition | None]:
        """Return the jobs of these places; None for one that has just been deleted."""
        keys = [key for _, key in self._cut(start, stop)]
        jobs = ScheduledTransition.objects.in_bulk(keys)
        return [jobs.get(key) for key in keys]

    def _cut(self, start: int, stop: int) -> list[_Place]:
        """Return these places."""
        # As far as they are counted: to find them again would take as long.
        upto = max(stop, MOST_COUNTED_IN_SEARCH + 1)
        # All of those behind may come before them.
        low = max(0, start - len(self._behind))
        kept = list(self._places[low:upto])
        known = set(kept)
        # Some texts may have been kept in between.
        behind = [place for place in self._behind if place not in known]
        if len(kept) < upto - low:
            self._number = low + len(kept) + len(behind)
        # The first of those kept has its true place in it, and so has all after it.
        merged = list(self._merge(kept, behind))
        return merged[start - low : stop - low] if kept or not low else []

    def count(self, *, at_least: int) -> int:
        """Return how many there are, after a cut, as `count_rows` counts."""
        if self._number is not None:
            return self._number
        return max(at_least, MOST_COUNTED_IN_SEARCH + 1, self._estimate())


def find_in_due_order(
    text: str,
    *,
    is_descending: bool,
    due: Mapping[str, datetime],
    among: QuerySet[ScheduledTransition] | None = None,
) -> DueOrder | None:
    """Return the jobs that have it; None where the texts can't tell, or not as soon.

    They can't where nobody keeps them, while they are too far behind, and after an upgrade
    until all are ready.

    Args:
        due: Conditions of the due instant, by Django's names such as `gte`.
        among: The jobs that may be found; None for all.
    """
    # First of all: what is added meanwhile is one of those behind, or too new.
    reach = _reach(text, needs_ready=True)
    if reach is None:
        return None
    asked = _look_up(text)
    texts = asked.texts
    is_common = texts is None or asked.is_large_part or asked.likely > MOST_SORTED
    if is_common and (among is not None or _lag(reach) > MOST_BEHIND_COMMON):
        # The jobs' own indexes are in due order too, and know new jobs and other filters.
        return None
    order: Combinable = F("due_at")
    column = "due_at"
    if texts is None or is_common:
        texts = _walked(text)
    else:
        # No index has the order of a sum: the planner shall not walk.
        order += timedelta(0)
        # Nor through a part of the order, to ask each text for its pairs.
        column = "due_at" if asked.has_trigram else "due"
    texts = texts.annotate(due=order).filter(**_renamed(due, column))
    if among is not None:
        texts = texts.filter(pk__in=among.order_by().values("pk"))
    jobs = ScheduledTransition.objects.all() if among is None else among
    is_all = among is None and not due
    return DueOrder(
        texts.values_list("due", "pk"),
        behind=_behind(text, reach, among=jobs.filter(**_renamed(due, "due_at"))),
        is_descending=is_descending,
        estimate=lambda: asked.likely if is_all else estimate_rows(texts),
    )


def _renamed(lookups: Mapping[str, datetime], column: str) -> dict[str, datetime]:
    """Return conditions of a column."""
    return {f"{column}__{lookup}": value for lookup, value in lookups.items()}


class _LookUp(NamedTuple):
    """What an index of the texts serves.

    texts: those that have what is searched; None where no index knows them: for a text
    without a trigram that upper case makes longer.
    likely: how many they seem to be.
    is_large_part: whether these seem to be so many of all that a look at each is sooner.
    """

    texts: QuerySet[JobText] | None
    likely: int
    has_trigram: bool
    is_large_part: bool


def _look_up(text: str) -> _LookUp:
    """Return what serves a text; only the figures are asked for."""
    has_trigram = bool(_TRIGRAM.search(text))
    found: QuerySet[JobText] | None
    if has_trigram:
        found = JobText.objects.filter(text__icontains=text)
        likely = estimate_rows(found)
    elif len(text.upper()) == len(text):
        found = JobText.objects.filter(_HasBigrams(text))
        likely = estimate_rows(found)
        if len(text) > _BIGRAM:
            found = found.filter(_has(text))
    else:
        # It may have other pairs then.
        found, likely = None, estimate_rows(JobText.objects.filter(_has(text)))
    is_large_part = likely * LEAST_PART > estimate_rows(JobText.objects.all())
    return _LookUp(found, likely, has_trigram, is_large_part)


def _walked(text: str) -> QuerySet[JobText]:
    """Return the texts that have it, by a look at each.

    The planner takes it for what each second has, and walks in their order until it has
    enough: an index holds them whole.
    """
    has = ExpressionWrapper(_has(text), output_field=BooleanField())
    return JobText.objects.filter(Coalesce(has, Value(value=False)))


def _has(text: str) -> Q:
    """Return the condition of texts that have it."""
    return Q(text__contains=Upper(Value(text)))


class _HasBigrams(Func):
    """Whether a text has all pairs of characters of another, by the index of pairs."""

    template = "scheduling_bigrams(%(expressions)s)::tsquery"
    arg_joiner = ") @@ upper("
    output_field = BooleanField()

    def __init__(self, text: str) -> None:
        pairs = [text[at : at + _BIGRAM] for at in range(max(1, len(text) - 1))]
        quoted = [pair.replace("\\", "\\\\").replace("'", "''") for pair in pairs]
        # One character by itself is the first of a pair, or the last of all.
        only = ":*" if len(text) == 1 else ""
        super().__init__(F("text"), Value(" & ".join(f"'{one}'{only}" for one in quoted)))


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
    if connection.vendor != "postgresql":
        return _UNKNOWN
    # First of all: what is added meanwhile is found twice, and not never.
    has_trigram = bool(_TRIGRAM.search(text))
    reach = _reach(text, needs_ready=not has_trigram)
    if reach is None:
        # Two letters stand in very many of these ids.
        return _UNKNOWN if has_trigram else _FREQUENT
    asked = _look_up(text)
    kept = asked.texts
    # To count them takes long exactly where the figures are right, and so does it to ask
    # a large part of the texts for their pairs.
    is_slow = asked.is_large_part and not has_trigram
    if kept is None or is_slow or asked.likely > 2 * most:
        return _FREQUENT
    number = kept[: most + 1].count()
    everything = ScheduledTransition.objects.all()
    behind = []
    if number <= most:
        behind = [key for _, key in _behind(text, reach, among=everything)[: most + 1]]
    if number + len(behind) > most:
        return _FREQUENT
    return _Answer(kept, behind, is_frequent=False)


def _reach(text: str, *, needs_ready: bool) -> Reach | None:
    """Return how far the texts reach; None where they can't tell who has it.

    Args:
        needs_ready: Whether they can't tell while some aren't in upper case, or have no
            due instant.
    """
    reach = None if SEPARATOR in text else Reach.read()
    if reach is None or (needs_ready and JobText.objects.filter(UNREADY).exists()):
        return None
    return reach if _lag(reach) <= MOST_BEHIND else None


def _lag(reach: Reach) -> int:
    """Return how many audit entries no text reaches yet, at most."""
    newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
    return int(newest - reach.last_id)


def _behind(
    text: str, reach: Reach, *, among: QuerySet[ScheduledTransition]
) -> list[_Place]:
    """Return the places of jobs that have it and whose texts aren't kept yet."""
    entries = Q(id__gt=reach.last_id)
    for span in reach.waiting:
        entries |= Q(id__range=span)
    new = AuditEntry.objects.filter(entries, old_status="").exclude(job_id="")
    # Two steps: the planner, whose figures lag behind, would look through all jobs.
    job_ids = list(new.order_by().values_list("job_id", flat=True).distinct())
    jobs = among.filter(part_of_a_text(text), job_id__in=job_ids).order_by()
    return list(jobs.values_list("due_at", "pk")) if job_ids else []
