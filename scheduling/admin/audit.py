"""The audit trail, which nobody can change."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from typing_extensions import override

from scheduling.admin.own_pages import OwnPagesAdmin
from scheduling.domain.errors import InvalidRequestError
from scheduling.models import AuditEntry, Phase, ScheduledTransition
from scheduling.pages.base import AdminPage
from scheduling.pages.lists import ListField, ListPage
from scheduling.queries.audit import read_whole
from scheduling.queries.audit_export import STREAMED, StreamedResponse
from scheduling.queries.audit_prose import tell_audit_entry
from scheduling.queries.audit_search import search_audit
from scheduling.services.audit import ACTIONS

# An archived job is a whole row; more than that nobody reads in a list.
_LONGEST_SHOWN: Final = 4_000


@dataclass(frozen=True)
class ToldEntry:
    """An entry as a line of prose, with what lies behind it.

    changes: name, old and new value of each change; where there is only one value it is
        the new one.
    """

    row: AuditEntry
    line: str
    changes: Sequence[tuple[str, str, str]]


def tell(entries: Sequence[AuditEntry]) -> Sequence[ToldEntry]:
    """Return the entries in prose; the phases' names come by two queries for any number."""
    names = _phase_names(entries)
    return [
        ToldEntry(
            row=entry,
            line=tell_audit_entry(
                entry, phase_name=names.get((entry.project_id, entry.phase_id), "")
            ),
            changes=list(_shown_changes(entry.changes)),
        )
        for entry in entries
    ]


def _phase_names(entries: Sequence[AuditEntry]) -> Mapping[tuple[str, str], str]:
    """Return the names of the phases, by project and phase."""
    ids = {entry.phase_id for entry in entries if entry.phase_id}
    projects = {entry.project_id for entry in entries if entry.phase_id}
    jobs = {entry.job_id for entry in entries if entry.job_id}
    if not ids and not jobs:
        return {}
    of_jobs = ScheduledTransition.objects.filter(job_id__in=jobs).values_list(
        "project_id", "phase_id", "phase_type_name"
    )
    of_phases = Phase.objects.filter(
        phase_id__in=ids, challenge__project_id__in=projects
    ).values_list("challenge__project_id", "phase_id", "name")
    # What upstream calls it now comes last, and counts.
    rows = [*of_jobs.order_by(), *of_phases.order_by()]
    return {(project_id, phase_id): name for project_id, phase_id, name in rows if name}


def _shown_changes(changes: object) -> Sequence[tuple[str, str, str]]:
    """Return name, old and new value of each change."""
    if not isinstance(changes, dict):
        return [("changes", "", _text(changes))]
    return [
        (name, _text(value[0]), _text(value[1]))
        if isinstance(value, list) and len(value) == 2  # noqa: PLR2004 -- old and new
        else (name, "", _text(value))
        for name, value in changes.items()
    ]


def _text(value: object) -> str:
    """Return a value as text: what is no text is JSON."""
    text = value if isinstance(value, str) else json.dumps(value, indent=1)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


class AuditList(ListPage):
    """Who changed what and why, the newest first; also as a file."""

    title = "Audit"
    template_name = "admin/audit_list.html"
    noun, nouns = "entry", "entries"
    empty = "No entry matches. Take a filter away, or search for a whole id."
    fields = (
        ListField(
            name="search",
            label="Search",
            help="A whole job or project id, a name, or a part of a reason",
        ),
        ListField(name="actor", label="Actor", help="Such as olivia or cli:sara"),
        ListField(
            name="action",
            label="Action",
            choices=[(action, action) for action in sorted(ACTIONS)],
        ),
        ListField(name="challenge_id", label="Challenge id"),
        ListField(name="project_id", label="Project id"),
        ListField(name="job_id", label="Job id"),
        ListField(name="after", label="From, in UTC", is_instant=True),
        ListField(name="before", label="Until, in UTC", is_instant=True),
    )

    @override
    def find(self, filters: Mapping[str, Any]) -> QuerySet[Any]:
        return search_audit(filters)

    @override
    def show(self, rows: Sequence[AuditEntry]) -> Sequence[ToldEntry]:
        return tell(rows)

    @override
    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Show a page, or send all that matches as a CSV file."""
        if request.GET.get("format") != "csv":
            return super().get(request, *args, **kwargs)
        try:
            entries = self.find(self.filters)
        except InvalidRequestError:
            return super().get(request, *args, **kwargs)
        media_type, write = STREAMED["csv"]
        name = f"audit-{self.now:%Y%m%dT%H%M%SZ}.csv"
        headers = {
            "Content-Type": media_type,
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        }
        if request.method == "HEAD":
            return HttpResponse(headers=headers)
        return StreamedResponse(write(read_whole(entries)), headers=headers)


class AuditPage(AdminPage):
    """One entry with all that it holds."""

    title = "Audit entry"
    template_name = "admin/audit_entry.html"

    @override
    def context(self) -> dict[str, Any]:
        key = str(self.kwargs["key"])
        is_key = key.isascii() and key.isdigit() and len(key) < 19  # noqa: PLR2004 -- 64 bits
        entry = AuditEntry.objects.filter(pk=int(key)).first() if is_key else None
        if entry is None:
            raise Http404("there is no such entry")
        (told,) = tell([entry])
        return {"told": told, "entry": entry}


@admin.register(AuditEntry)
class AuditEntryAdmin(OwnPagesAdmin):
    """The audit's place in the admin."""

    list_page = AuditList
    row_page = AuditPage
