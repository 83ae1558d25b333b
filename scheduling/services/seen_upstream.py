"""Which instant upstream showed for a job's transition when last read."""

from datetime import datetime

from scheduling.domain.lifecycle import TransitionKind
from scheduling.models import Phase, ScheduledTransition


def seen_upstream(job: ScheduledTransition) -> datetime:
    """Return the phase's scheduled instant, or the job's own where none was read."""
    phases = Phase.objects.filter(
        phase_id=job.phase_id, challenge__project_id=job.project_id
    )
    column = (
        "scheduled_start_at" if job.kind is TransitionKind.START else "scheduled_end_at"
    )
    shown: datetime | None = phases.values_list(column, flat=True).first()
    return shown or job.due_at
