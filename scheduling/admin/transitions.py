"""The jobs: their list, the page of each, and the overrides of those one selects."""

from collections.abc import Callable
from textwrap import shorten
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from typing_extensions import override
from unfold.contrib.filters.admin import RangeDateTimeFilter

from scheduling.admin.override_page import OverridePage
from scheduling.admin.override_words import WORDS, is_about, is_about_where
from scheduling.admin.read_only import ReadOnlyAdmin
from scheduling.admin.transition_list import (
    OVERDUE,
    STATUS,
    AttentionPaginator,
    ChallengeFilter,
    LateFilter,
    OverdueFilter,
    ProjectFilter,
    TransitionChangeList,
    instant_of,
    is_in_own_order,
    listed,
    search_condition,
)
from scheduling.admin.transition_page import TransitionPage
from scheduling.domain.actors import Operation
from scheduling.domain.lifecycle import LIVE, TransitionStatus
from scheduling.models import ScheduledTransition
from scheduling.pages.acting import demand, may
from scheduling.pages.links import job_url, jobs_url
from scheduling.pages.shown import (
    EMPTY,
    short_id,
    show_id,
    show_instant,
    show_lateness,
    show_status,
    show_when,
)
from scheduling.pages.texts import lateness_text
from scheduling.services.overrides import Override, applicable

# Chosen rows that fit into an address; of more, the page is the answer to the POST.
MOST_IN_ADDRESS = 100
# Of a reason so much stands in a row.
WHY_LENGTH = 80


def _action(chosen: Override) -> Callable[..., HttpResponseBase]:
    """Return the action of a selection, which leads to the confirmation page."""

    def lead(
        model_admin: "ScheduledTransitionAdmin",
        request: HttpRequest,
        queryset: QuerySet[ScheduledTransition],
    ) -> HttpResponseBase:
        return model_admin.confirm(request)

    lead.__name__ = chosen.value
    lead.short_description = WORDS[chosen].verb  # type: ignore[attr-defined]
    return lead


@admin.register(ScheduledTransition)
class ScheduledTransitionAdmin(ReadOnlyAdmin):
    """Jobs: what needs attention first, then by due instant."""

    list_display = (
        "show_status",
        "show_due",
        "show_transition",
        "show_challenge",
        "show_lateness",
        "show_scheduled_by",
        "show_menu",
    )
    list_display_links = None
    list_filter = (
        "status",
        "state",
        OverdueFilter,
        LateFilter,
        ProjectFilter,
        ChallengeFilter,
        ("due_at", RangeDateTimeFilter),
    )
    list_filter_submit = True
    # Twice as many rows take twice as long to write.
    list_per_page = 50
    # Whatever fits on one page is one: pages have the order of attention.
    list_max_show_all = list_per_page
    change_list_template = "admin/transition_list.html"
    list_before_template = "admin/parts/status_counts.html"
    search_fields = ("job_id", "project_id", "challenge_id", "phase_id", "phase_type_name")
    search_help_text = "Any id, or a part of one or of a phase's name"
    ordering = ("due_at", "id")
    sortable_by = ("show_due",)
    actions = [_action(override) for override in Override]  # type: ignore[assignment]
    paginator: ClassVar[Any] = AttentionPaginator

    # --- Addresses ---
    @override
    def get_urls(self) -> list[URLPattern]:
        """Return the pages' addresses; a job is found by its id."""
        page = TransitionPage.as_view(admin_site=self.admin_site)
        by_job_id = path("job/<str:job_id>/", self.admin_site.admin_view(page), name="job")
        return [by_job_id, *super().get_urls()]

    @override
    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show the job's page, which has no form: a POST is refused."""
        demand(request, Operation.VIEW)
        job = self.get_object(request, object_id)
        if request.method != "GET" or job is None:
            return super().change_view(request, object_id, form_url, extra_context)
        page = TransitionPage.as_view(admin_site=self.admin_site)
        return page(request, job_id=job.job_id)

    # --- The list ---
    @override
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> Any:
        """Show the list; `schedule` without a selection leads to the form."""
        if request.method == "POST" and request.POST.get("action"):
            chosen = request.POST.getlist("_selected_action")
            is_all = request.POST.get("select_across") in {"1", "true"}
            if request.POST["action"] in set(Override) and (chosen or is_all):
                return self.confirm(request)
            if request.POST["action"] == Override.SCHEDULE:
                return redirect("admin:schedule")
        return super().changelist_view(
            request,
            {
                **(extra_context or {}),
                "title": "Transitions",
                "may_schedule": may(request, Operation.SCHEDULE),
            },
        )

    def confirm(self, request: HttpRequest) -> HttpResponseBase:
        """Lead from the list's form to the confirmation page, or answer in its place."""
        demand(request, Override(request.POST["action"]).operation)
        chosen = request.POST.getlist("_selected_action")
        is_all = request.POST.get("select_across") in {"1", "true"}
        is_form = "confirm" in request.POST or "reason" in request.POST
        if is_form or (len(chosen) > MOST_IN_ADDRESS and not is_all):
            page = OverridePage.as_view(admin_site=self.admin_site)
            return page(request)
        query: list[tuple[str, str]] = [("action", request.POST["action"])]
        if is_all:
            query += [("select_across", "1"), ("filters", _filters(request.GET))]
        else:
            query += [("_selected_action", key) for key in chosen]
        return redirect(f"{reverse('admin:override')}?{urlencode(query)}")

    @override
    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return our list."""
        return TransitionChangeList

    @override
    def get_queryset(self, request: HttpRequest) -> QuerySet[ScheduledTransition]:
        """Return all jobs, and read the clock once for the request."""
        if not hasattr(request, "autopilot_now"):
            request.autopilot_now = timezone.now()  # type: ignore[attr-defined]
        return super().get_queryset(request)

    @override
    def get_paginator(
        self, request: HttpRequest, queryset: Any, per_page: int, *args: Any, **kwargs: Any
    ) -> AttentionPaginator:
        """Return pages in the order of attention, unless another one is asked for."""
        return AttentionPaginator(
            queryset,
            per_page,
            *args,
            now=instant_of(request) if is_in_own_order(request) else None,
            status=request.GET.get(STATUS),
            is_overdue={"true": True, "false": False}.get(request.GET.get(OVERDUE, "")),
            **kwargs,
        )

    @override
    def get_search_results(
        self,
        request: HttpRequest,
        queryset: QuerySet[ScheduledTransition],
        search_term: str,
    ) -> tuple[QuerySet[ScheduledTransition], bool]:
        """Return the jobs that a text finds, which is looked for once in a request."""
        if not search_term.strip():
            return queryset, False
        if not hasattr(request, "autopilot_search"):
            request.autopilot_search = search_condition(search_term)  # type: ignore[attr-defined]
        return queryset.filter(request.autopilot_search), False  # type: ignore[attr-defined]

    @override
    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return the overrides that the role allows, and the status that is shown."""
        status = request.GET.get(STATUS)
        possible = set(
            applicable(ScheduledTransition(status=status))
            if status in set(TransitionStatus)
            else Override
        )
        return {
            name: action
            for name, action in super().get_actions(request).items()
            if name in possible and may(request, Override(name).operation)
        }

    @override
    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns; without a role that overrides, there is no menu."""
        columns = super().get_list_display(request)
        if may(request, Operation.CANCEL):
            return columns
        return tuple(column for column in columns if column != "show_menu")

    # --- Its columns ---
    @admin.display(description="status")
    def show_status(self, job: ScheduledTransition) -> SafeString:
        """Return the badges."""
        return show_status(job, now=listed(job).now)

    @admin.display(description="due", ordering="due_at")
    def show_due(self, job: ScheduledTransition) -> SafeString:
        """Return when it is or was due; how far off, while it is live."""
        now = listed(job).now
        if job.current_status in LIVE:
            return show_when(job.due_at, now=now, past="late")
        return show_instant(job.due_at, now=now)

    @admin.display(description="transition")
    def show_transition(self, job: ScheduledTransition) -> SafeString:
        """Return which end of which phase it is, and the job's id; both lead to it.

        Below that, in short, why it failed or waits, or who cancelled it.
        """
        url = job_url(job.job_id)
        why = listed(job).cancelled or job.last_error
        line = '<br><span class="ap-why" title="{}">{}</span>'
        return format_html(
            '<div><a class="ap-link" href="{}">{}</a><br>{}{}</div>',
            url,
            is_about(job),
            show_id(job.job_id, url=url, shown=short_id(job.job_id)),
            format_html(line, why, shorten(why, WHY_LENGTH)) if why else "",
        )

    @admin.display(description="challenge")
    def show_challenge(self, job: ScheduledTransition) -> SafeString:
        """Return the challenge, or else the project."""
        if job.challenge_id:
            url = jobs_url(challenge_id=job.challenge_id)
            return show_id(job.challenge_id, url=url, shown=short_id(job.challenge_id))
        url = jobs_url(project_id=job.project_id)
        shown = show_id(job.project_id, url=url, shown=short_id(job.project_id))
        return format_html("project {}", shown)

    @admin.display(description="lateness")
    def show_lateness(self, job: ScheduledTransition) -> SafeString:
        """Return how late it went out; before that, how often it was tried."""
        if job.lateness_ms is not None:
            if job.forced_at is not None and job.lateness_ms < 0:
                # It was not early: a person wanted it then.
                early = lateness_text(job.lateness_ms)
                return format_html('<span title="{}">run now</span>', early)
            return show_lateness(job.lateness_ms)
        if not job.attempts:
            return EMPTY
        return format_html(
            '<span class="ap-number">{} of {} attempts</span>',
            job.attempts,
            job.max_attempts,
        )

    @admin.display(description="scheduled by")
    def show_scheduled_by(self, job: ScheduledTransition) -> SafeString:
        """Return who scheduled it; a narrow column breaks it behind the kind of actor."""
        actor = listed(job).scheduled_by
        if not actor:
            return EMPTY
        kind, colon, name = actor.partition(":")
        return format_html("{}{}<wbr>{}", kind, colon, name)

    @admin.display(description="do")
    def show_menu(self, job: ScheduledTransition) -> SafeString:
        """Return the overrides that its status allows."""
        page = reverse("admin:override")
        lines = [
            (f"{page}?action={one.value}&_selected_action={job.pk}", WORDS[one].button(1))
            for one in applicable(job)
        ]
        if not lines:
            return EMPTY
        # In the browser's top layer: the table would cut off what opens inside it.
        return format_html(
            '<button type="button" class="ap-menu-open" popovertarget="do-{}" '
            'aria-label="What can be done with {}">⋯</button>'
            '<div popover id="do-{}" class="ap-menu-lines"><strong>{}</strong>{}</div>',
            job.pk,
            job.job_id,
            job.pk,
            is_about_where(job),
            format_html_join("", '<a href="{}">{}</a>', lines),
        )


def _filters(query: QueryDict) -> str:
    """Return the list's filters without its page and order."""
    rest = query.copy()
    for name in ("p", "o", "all", "e"):
        rest.pop(name, None)
    return rest.urlencode()
