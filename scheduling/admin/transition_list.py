"""The list of jobs: what needs attention first, its filters, its counts by status."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import build_q_object_from_lookup_parameters
from django.contrib.admin.views.main import ORDER_VAR
from django.core.paginator import Page, Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from typing_extensions import override
from unfold.contrib.filters.admin import TextFilter
from unfold.views import ChangeList

from scheduling.domain.lifecycle import FINAL, LIVE, TransitionStatus
from scheduling.domain.phases import check_storable, parse_query_id
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.pages.lists import LAST_PAGE
from scheduling.pages.texts import span_text
from scheduling.queries.attention import (
    find_by_part,
    groups_of,
    in_status,
    overdue_parts,
    slice_groups,
    sort_by_attention,
)
from scheduling.queries.counting import count_rows
from scheduling.queries.jobs import is_live

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList as BaseChangeList

    # What is generic, or typed, in the stubs alone.
    Changes = BaseChangeList
    BaseTextFilter = admin.SimpleListFilter
    Pages = Paginator[ScheduledTransition]
    Jobs = Page[ScheduledTransition]
else:
    Changes = ChangeList
    BaseTextFilter = TextFilter
    Pages = Paginator
    Jobs = Page

# Beyond so many, the list's counts are estimates.
MOST_COUNTED = 2_000
# So few are sorted in memory.
SORTED_HERE = 500
STATUS = "status__exact"
OVERDUE = "overdue"


def of_project(value: str) -> Q:
    """Return the condition of a project's jobs; live and final ones have an index each."""
    return Q(project_id=value, status__in=sorted(LIVE)) | Q(
        project_id=value, status__in=sorted(FINAL)
    )


class _IdFilter(BaseTextFilter):
    """Filters by one id, written as the API takes it."""

    column = ""

    def condition(self, value: str) -> Q:
        """Return the condition of an id."""
        return Q(**{self.column: value})

    @override
    def queryset(
        self, request: HttpRequest, queryset: QuerySet[ScheduledTransition]
    ) -> QuerySet[ScheduledTransition]:
        """Return the jobs of that id.

        Raises:
            IncorrectLookupParameters: The text is no id; the list then says so.
        """
        text = (self.value() or "").strip()
        if not text:
            return queryset
        try:
            return queryset.filter(self.condition(parse_query_id(text)))
        except ValueError as error:
            raise IncorrectLookupParameters(f"{self.title} {error}") from None


class ProjectFilter(_IdFilter):
    """Filters by project."""

    title = "project id"
    parameter_name = column = "project_id"

    @override
    def condition(self, value: str) -> Q:
        """Return the condition of a project, as its indexes serve it."""
        return of_project(value)


class ChallengeFilter(_IdFilter):
    """Filters by challenge."""

    title = "challenge id"
    parameter_name = column = "challenge_id"


class OverdueFilter(admin.SimpleListFilter):
    """Filters by whether the instant has passed while the job is live."""

    title = "overdue"
    parameter_name = OVERDUE

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Return the choices."""
        return [("true", "Overdue"), ("false", "Not overdue")]

    @override
    def queryset(
        self, request: HttpRequest, queryset: QuerySet[ScheduledTransition]
    ) -> QuerySet[ScheduledTransition]:
        """Return the jobs that are, or are not."""
        overdue = is_live() & Q(due_at__lt=instant_of(request))
        match self.value():
            case "true":
                return queryset.filter(overdue)
            case "false":
                return queryset.exclude(overdue)
            case _:
                return queryset


class LateFilter(admin.SimpleListFilter):
    """Filters by whether it was published later than the objective allows."""

    title = "late"
    parameter_name = "late"

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Return the choices."""
        objective = span_text(timedelta(milliseconds=settings.AUTOPILOT_LATENESS_SLO_MS))
        return [("true", f"Published more than {objective} late")]

    @override
    def queryset(
        self, request: HttpRequest, queryset: QuerySet[ScheduledTransition]
    ) -> QuerySet[ScheduledTransition]:
        """Return the jobs that were."""
        if self.value() != "true":
            return queryset
        return queryset.filter(lateness_ms__gt=settings.AUTOPILOT_LATENESS_SLO_MS)


def instant_of(request: HttpRequest) -> datetime:
    """Return the one instant of the request, which the admin reads when it arrives."""
    instant: datetime = request.autopilot_now  # type: ignore[attr-defined]
    return instant


def search_condition(text: str) -> Q:
    """Return the condition of what a text finds: by a whole id first, else by a part.

    A whole id is answered by indexes, and looked for among all jobs.
    """
    text = text.strip()
    try:
        check_storable(text)
    except ValueError:
        return Q(pk__in=[])
    exact = _by_whole_id(text)
    if exact is not None and ScheduledTransition.objects.filter(exact).exists():
        return exact
    return Q(pk__in=find_by_part(text))


def _by_whole_id(text: str) -> Q | None:
    """Return the condition of an id; None for what can't be one."""
    if text.startswith("job-"):
        return Q(job_id=text)
    try:
        value = parse_query_id(text)
    except ValueError:
        return None
    found = of_project(value) | Q(challenge_id=value) | Q(phase_id=value)
    is_uuid = not value.isdigit()
    return found | Q(event_id=value) if is_uuid else found


class AttentionPaginator(Pages):
    """Pages of the list: counted as far as that costs little, ordered by attention.

    template_name: what unfold shows the way to the other pages with.
    """

    template_name = "admin/parts/pages.html"

    def __init__(
        self,
        *args: Any,
        now: datetime | None = None,
        status: str | None = None,
        is_overdue: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Take what Django gives.

        Args:
            now: Orders by attention at that instant; None keeps the list's order.
            status, is_overdue: What the rows are filtered by.
        """
        super().__init__(*args, **kwargs)
        self.now = now
        self.status = status
        self.is_overdue = is_overdue

    @cached_property
    @override
    def count(self) -> int:
        """How many rows match."""
        rows: Any = self.object_list
        if self.is_overdue and self.now is not None:
            parts = overdue_parts(rows, now=self.now)
            return sum(count_rows(part, most=MOST_COUNTED) for part in parts)
        if self.status in set(TransitionStatus):
            rows = in_status(rows, TransitionStatus(self.status))
        else:
            rows = rows.order_by()
        return count_rows(rows, most=MOST_COUNTED)

    @cached_property
    @override
    def num_pages(self) -> int:
        """How many pages one can turn to; a filter finds what lies behind them."""
        return min(super().num_pages, LAST_PAGE)

    @property
    def is_estimate(self) -> bool:
        """Whether the count is one."""
        return self.count > MOST_COUNTED

    @property
    def shown(self) -> int:
        """How many rows the pages show, where they don't show all; else 0."""
        most = self.num_pages * self.per_page
        return most if most < self.count else 0

    @override
    def page(self, number: int | str) -> Jobs:
        """Return a page."""
        if self.now is None:
            return super().page(number)
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        stop = start + self.per_page
        rows: Any = self.object_list
        if self.count <= SORTED_HERE:
            # Few of many: an index finds them, whatever order they have in it. Of those
            # that are overdue it is one each; without a bound it would not be taken.
            parts: list[Any] = [rows.order_by()]
            if self.is_overdue:
                parts = [one[:SORTED_HERE] for one in overdue_parts(rows, now=self.now)]
            found = [job for part in parts for job in part]
            jobs = sort_by_attention(found, now=self.now)[start:stop]
        else:
            groups = groups_of(
                rows, now=self.now, status=self.status, is_overdue=self.is_overdue
            )
            jobs = slice_groups(groups, start=start, stop=stop)
        return Page(jobs, number, self)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a row shows that is no column of its own.

    now: the request's instant. scheduled_by: an actor, or empty. cancelled: by whom and
    why, or empty.
    """

    now: datetime
    scheduled_by: str
    cancelled: str


def listed(job: ScheduledTransition) -> Listed:
    """Return what the list put beside a job."""
    beside: Listed = job.listed  # type: ignore[attr-defined]
    return beside


class TransitionChangeList(Changes):
    """The list, with what each row shows beside its own columns."""

    @override
    def get_results(self, request: HttpRequest) -> None:
        """Read the page's rows, who scheduled each, and the counts by status."""
        matching = self.queryset
        if self.filter_params.get(OVERDUE) == ["true"] and is_in_own_order(request):
            # The paginator asks for their parts; what the filter says beside them would
            # lead the planner through all that was ever due.
            self.queryset = self._without(request, OVERDUE).order_by(
                *matching.query.order_by
            )
        super().get_results(request)
        self.queryset = matching
        if not self.multi_page:
            # Django reads what fits on one page without asking the paginator.
            self.result_list = self.paginator.page(1).object_list
        if not (self.query or self.has_active_filters):
            # Else it offers to show all, which it does.
            self.full_result_count = self.result_count
        self.result_list = list(self.result_list)
        scheduled_by = _who_scheduled([job.job_id for job in self.result_list])
        cancelled = _who_cancelled(self.result_list)
        for job in self.result_list:
            job.listed = Listed(
                now=instant_of(request),
                scheduled_by=scheduled_by.get(job.job_id, ""),
                cancelled=cancelled.get(job.job_id, ""),
            )
        self.status_counts = self._count_by_status(request)

    def _count_by_status(self, request: HttpRequest) -> list[dict[str, Any]]:
        """Return what the line above the list shows: a filter for each status."""
        rows = self._without(request, STATUS, OVERDUE)
        overdue = overdue_parts(rows, now=instant_of(request))
        chosen = self.filter_params.get(STATUS), self.filter_params.get(OVERDUE)
        lines = [
            self._line("all", None, count=None, is_chosen=chosen == (None, None)),
            self._line(
                "overdue",
                {OVERDUE: "true"},
                count=sum(count_rows(part, most=MOST_COUNTED) for part in overdue),
                is_chosen=chosen == (None, ["true"]),
            ),
        ]
        lines += [
            self._line(
                status.value,
                {STATUS: status.value},
                count=count_rows(in_status(rows, status), most=MOST_COUNTED),
                is_chosen=chosen == ([status.value], None),
            )
            for status in TransitionStatus
        ]
        return lines

    def _without(self, request: HttpRequest, *names: str) -> QuerySet[ScheduledTransition]:
        """Return the rows that match all filters but those of the given parameters."""
        # The stubs don't know that Django 5 keeps lists of values.
        rest: Any
        specs, _, rest, _, _ = self.get_filters(request)
        rows: Any = self.root_queryset
        for spec in specs:
            if set(names).isdisjoint(spec.expected_parameters()):
                found = spec.queryset(request, rows)
                rows = rows if found is None else found
        rows = rows.filter(build_q_object_from_lookup_parameters(rest)).order_by()
        found, _ = self.model_admin.get_search_results(request, rows, self.query)
        return found

    def _line(
        self, word: str, new: dict[str, str] | None, *, count: int | None, is_chosen: bool
    ) -> dict[str, Any]:
        """Return one of them, with the address of the list that it stands for."""
        query = self.get_query_string(new or {}, remove=[STATUS, OVERDUE])
        return {
            "word": word,
            "count": count,
            "is_estimate": count is not None and count > MOST_COUNTED,
            "is_chosen": is_chosen,
            "query": query,
        }


def _who_scheduled(job_ids: list[str]) -> dict[str, str]:
    """Return the actor who scheduled each job, by job id."""
    entries = AuditEntry.objects.filter(job_id__in=job_ids, action="transition.scheduled")
    return dict(entries.order_by().values_list("job_id", "actor"))


def _who_cancelled(jobs: Iterable[ScheduledTransition]) -> dict[str, str]:
    """Return by whom each of them was cancelled that was, and why, by job id."""
    cancelled = TransitionStatus.CANCELLED
    job_ids = [
        job.job_id
        for job in jobs
        if job.current_status is cancelled and not job.replaced_by
    ]
    if not job_ids:
        return {}
    entries = AuditEntry.objects.filter(job_id__in=job_ids, new_status=cancelled)
    return {
        job_id: f"by {actor}: {reason}" if reason else f"by {actor}"
        for job_id, actor, reason in entries.order_by().values_list(
            "job_id", "actor", "reason"
        )
    }


def is_in_own_order(request: HttpRequest) -> bool:
    """Tell whether nobody asked for another order than that of attention."""
    return ORDER_VAR not in request.GET
