"""The audit trail, which nobody can change."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from typing_extensions import override

from scheduling.admin.read_only import ReadOnlyAdmin
from scheduling.models import AuditEntry
from scheduling.services.audit import ACTIONS


class ActionFilter(admin.SimpleListFilter):
    """Filters by action; Django's own would search the whole trail for its choices."""

    title = "action"
    parameter_name = "action"

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Return the actions there are."""
        return [(action, action) for action in sorted(ACTIONS)]

    @override
    def queryset(
        self, request: HttpRequest, queryset: QuerySet[AuditEntry]
    ) -> QuerySet[AuditEntry]:
        """Return the entries of the chosen action."""
        chosen = self.value()
        return queryset.filter(action=chosen) if chosen else queryset


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Entries, newest first, by action, role and instant."""

    list_display = (
        "at",
        "action",
        "job_id",
        "actor",
        "role",
        "old_status",
        "new_status",
        "reason",
    )
    list_filter = (
        ActionFilter,
        ("role", admin.AllValuesFieldListFilter),
        "at",
    )
    search_fields = ("job_id", "project_id", "phase_id", "actor", "reason", "request_id")
    search_help_text = "A part of an id, of the actor or of the reason"
    ordering = ("-id",)
