"""The jobs, to look at."""

from django.contrib import admin

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
