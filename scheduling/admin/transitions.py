"""The jobs, to look at."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path
from typing_extensions import override

from scheduling.admin.read_only import ReadOnlyAdmin
from scheduling.models import ScheduledTransition


@admin.register(ScheduledTransition)
class ScheduledTransitionAdmin(ReadOnlyAdmin):
    """Jobs in due order, by status, end and instant."""

    list_display = (
        "job_id",
        "project_id",
        "challenge_id",
        "phase_type_name",
        "state",
        "status",
        "due_at",
        "completed_at",
        "lateness_ms",
        "attempts",
    )
    list_filter = ("status", "state", "due_at")
    search_fields = (
        "job_id",
        "project_id",
        "challenge_id",
        "phase_id",
        "phase_type_name",
    )
    search_help_text = "A part of the job's id, of another id or the phase's name"
    date_hierarchy = "due_at"
    ordering = ("due_at", "id")

    @override
    def get_urls(self) -> list[URLPattern]:
        """Return the pages' addresses; a job is also found by its id."""
        by_job_id = path(
            "job/<str:job_id>/", self.admin_site.admin_view(self.find), name="job"
        )
        return [by_job_id, *super().get_urls()]

    def find(self, request: HttpRequest, job_id: str, **_: Any) -> HttpResponseBase:
        """Lead from a job's id to its page."""
        job = get_object_or_404(ScheduledTransition.objects.only("pk"), job_id=job_id)
        return redirect("admin:scheduling_scheduledtransition_change", job.pk)
