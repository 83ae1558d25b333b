"""Where a challenge's jobs differ from upstream because a person wanted it so."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.domain.phases import parse_instant
from scheduling.models import AuditEntry, Phase, ScheduledTransition

_MOVED = "transition.updated"
_CANCELLED = "transition.cancelled"
_END_FIELD = "endTime"


@dataclass(frozen=True, kw_only=True)
class Overridden:
    """A transition that a person moved or cancelled, and that upstream wants otherwise.

    job: the live job that was moved, or the cancelled one.
    from_at: where the job stood before the last move.
    upstream_at: where upstream, as last read, still wants it.
    entry: who did it, when and why; None where the audit has nothing of it.
    """

    phase: Phase
    job: ScheduledTransition
    from_at: datetime
    upstream_at: datetime
    entry: AuditEntry | None

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled, not moved."""
        return self.job.current_status is TransitionStatus.CANCELLED


def find_overridden(
    phases: Iterable[Phase], jobs: Iterable[ScheduledTransition], *, now: datetime
) -> Sequence[Overridden]:
    """Return the transitions of a challenge that differ from upstream by hand.

    What upstream shows as done, and a cancelled one whose instant has passed, is no
    difference any more.

    Args:
        jobs: Of the challenge, live and past.
    """
    of_identity: dict[tuple[str, str], list[ScheduledTransition]] = defaultdict(list)
    for job in jobs:
        of_identity[job.phase_id, job.state].append(job)
    found = [
        (phase, job, upstream_at)
        for phase in phases
        for kind in TransitionKind
        if (upstream_at := _wanted_at(phase, kind)) is not None
        for job in _deciding(of_identity[phase.phase_id, kind.value])
        if _differs(job, upstream_at, now=now)
    ]
    entries = _entries_of([job for _, job, _ in found])
    return [
        Overridden(
            phase=phase,
            job=job,
            from_at=_from(entry) or job.upstream_at or upstream_at,
            upstream_at=upstream_at,
            entry=entry,
        )
        for phase, job, upstream_at in found
        if (entry := entries.get(_told_under(job))) is not None or job.is_live
    ]


def _wanted_at(phase: Phase, kind: TransitionKind) -> datetime | None:
    """Return when upstream wants a transition; None where it is done or has no instant."""
    if phase.actual_end_at is not None:
        return None
    if kind is TransitionKind.END:
        return phase.scheduled_end_at
    return None if phase.actual_start_at is not None else phase.scheduled_start_at


def _deciding(jobs: Sequence[ScheduledTransition]) -> Sequence[ScheduledTransition]:
    """Return the live job of a transition, or else its newest; none where it has none."""
    return sorted(jobs, key=lambda job: (job.is_live, job.pk))[-1:]


def _differs(job: ScheduledTransition, upstream_at: datetime, *, now: datetime) -> bool:
    """Tell whether a person made the job differ from upstream."""
    if not job.is_overridden:
        return False
    if job.is_live:
        return job.due_at != upstream_at
    is_cancelled = job.current_status is TransitionStatus.CANCELLED
    return is_cancelled and not job.replaced_by and upstream_at > now


def _told_under(job: ScheduledTransition) -> str:
    """Return the job whose audit tells of the override: of a move it is the old one."""
    return job.replaces if job.is_live else job.job_id


def _entries_of(jobs: Iterable[ScheduledTransition]) -> Mapping[str, AuditEntry]:
    """Return the entries of the overrides by the id of the job they stand under."""
    names = [name for name in map(_told_under, jobs) if name]
    rows = AuditEntry.objects.filter(job_id__in=names, action__in=[_MOVED, _CANCELLED])
    return {row.job_id: row for row in rows.order_by("id")} if names else {}


def _from(entry: AuditEntry | None) -> datetime | None:
    """Return the instant from which a job was moved; None where nothing tells."""
    pair = entry.changes.get(_END_FIELD) if entry else None
    try:
        return parse_instant(pair[0]) if isinstance(pair, list) and pair else None
    except ValueError:
        return None
