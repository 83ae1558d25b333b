"""What the audit tells of a job that was cleaned up."""

from datetime import datetime
from typing import Any

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
