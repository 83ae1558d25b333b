"""What the audit tells of a job: its entries, and the job itself after clean-up."""

from datetime import datetime
from typing import Any

from scheduling.domain.phases import format_instant, wire_id
from scheduling.models import AuditEntry, ScheduledTransition


def find_archived(job_id: str) -> tuple[ScheduledTransition, datetime] | None:
    """Return a cleaned-up job as it last stood, and when it was archived."""
    entry = AuditEntry.objects.filter(job_id=job_id, action="transition.archived").last()
    if entry is None:
        return None
    columns: dict[str, Any] = entry.changes["job"]
    # Columns that came or went since the archive was written are left at their default.
    fields = [f for f in ScheduledTransition._meta.concrete_fields if f.attname in columns]
    values = {f.attname: f.to_python(columns[f.attname]) for f in fields}
    return ScheduledTransition(**values), entry.at


def show_audit_entry(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as the outside sees it (contract, section 4)."""
    return {
        "id": entry.pk,
        "at": format_instant(entry.at),
        "action": entry.action,
        "jobId": entry.job_id or None,
        "projectId": wire_id(entry.project_id) if entry.project_id else None,
        "phaseId": wire_id(entry.phase_id) if entry.phase_id else None,
        "state": entry.state or None,
        "actor": entry.actor,
        "role": entry.role or None,
        "oldStatus": entry.old_status or None,
        "newStatus": entry.new_status or None,
        "changes": entry.changes,
        "reason": entry.reason or None,
        "requestId": entry.request_id or None,
    }
