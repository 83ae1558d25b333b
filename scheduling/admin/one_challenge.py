"""One challenge with its phases and jobs, as its pages look at it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from django.http import Http404
from django.urls import reverse
from django.utils.safestring import SafeString, mark_safe

from scheduling.admin.gantt import Row, Tick, draw_gantt
from scheduling.domain.changes import ScheduleChange
from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.domain.relations import PhaseKey, Relations
from scheduling.models import Challenge, Phase, ScheduledTransition
from scheduling.queries.challenges import as_last_read, read_phases_and_jobs
from scheduling.queries.overridden import Overridden, find_overridden

# A phase, and which end of it.
End = tuple[str, TransitionKind]


@dataclass(frozen=True)
class OneChallenge:
    """A challenge as last read, beside its jobs; read by three queries."""

    row: Challenge
    phases: Sequence[Phase]
    jobs: Sequence[ScheduledTransition]

    @property
    def title(self) -> str:
        """What one calls it."""
        return self.row.name or f"Challenge {self.row.challenge_id}"

    @property
    def url(self) -> str:
        """The address of its page."""
        return reverse("admin:scheduling_challenge_change", args=[self.row.pk])

    @cached_property
    def relations(self) -> Relations:
        """Which phase follows which."""
        return Relations([as_last_read(self.row, self.phases)])

    @cached_property
    def jobs_by_end(self) -> Mapping[End, ScheduledTransition]:
        """The live job of each transition, or else its newest."""
        in_order = sorted(self.jobs, key=lambda job: (job.is_live, job.pk))
        return {(job.phase_id, job.kind): job for job in in_order}

    def overridden(self, *, now: datetime) -> Sequence[Overridden]:
        """Return the transitions that a person made differ from upstream."""
        return find_overridden(self.phases, self.jobs, now=now)

    def phase(self, phase_id: str) -> Phase:
        """Return a phase.

        Raises:
            Http404: The challenge has none of that id.
        """
        for phase in self.phases:
            if phase.phase_id == phase_id:
                return phase
        raise Http404("the challenge has no such phase")

    def scheduled_from(self, phase_id: str) -> Sequence[ScheduledTransition]:
        """Return the scheduled jobs of a phase and of all that follow it, in due order."""
        key: PhaseKey = (self.row.project_id, phase_id)
        wanted = {one for _, one in self.relations.with_followers([key])}
        return [
            job
            for job in self.jobs
            if job.phase_id in wanted
            and job.current_status is TransitionStatus.SCHEDULED
            and not self.relations.is_done(job.project_id, job.phase_id, job.kind)
        ]

    def draw(self, *, now: datetime, changes: Iterable[ScheduleChange] = ()) -> SafeString:
        """Return the picture of the phases, with what changes would make of them."""
        moved = {(one.phase_id, one.kind): one.new_due_at for one in changes}
        rows = [self._gantt_row(phase, moved) for phase in self.phases]
        # Every text in it is escaped where it is drawn.
        return mark_safe(draw_gantt(rows, now=now))  # noqa: S308

    def _gantt_row(self, phase: Phase, moved: Mapping[End, datetime]) -> Row:
        """Return a phase's row of the picture."""
        jobs = {
            kind: job
            for kind in TransitionKind
            if (job := self.jobs_by_end.get((phase.phase_id, kind))) is not None
        }
        before = self.relations.before((self.row.project_id, phase.phase_id))
        planned = {
            TransitionKind.START: phase.scheduled_start_at,
            TransitionKind.END: phase.scheduled_end_at,
        }
        new = {
            kind: moved.get((phase.phase_id, kind))
            or (jobs[kind].due_at if kind in jobs else planned[kind])
            for kind in TransitionKind
        }
        is_moved = any((phase.phase_id, kind) in moved for kind in TransitionKind)
        return Row(
            phase_id=phase.phase_id,
            name=phase.name,
            planned_start_at=phase.scheduled_start_at,
            planned_end_at=phase.scheduled_end_at,
            actual_start_at=phase.actual_start_at,
            actual_end_at=phase.actual_end_at,
            predecessor=before[1] if before else "",
            moved_start_at=new[TransitionKind.START] if is_moved else None,
            moved_end_at=new[TransitionKind.END] if is_moved else None,
            ticks=[
                Tick(kind=kind, at=job.due_at, status=job.current_status)
                for kind, job in jobs.items()
            ],
        )


def read_one_challenge(key: str) -> OneChallenge:
    """Return a challenge by its row's key.

    Raises:
        Http404: There is none.
    """
    is_key = key.isascii() and key.isdigit() and len(key) < 19  # noqa: PLR2004 -- 64 bits
    row = Challenge.objects.filter(pk=int(key)).first() if is_key else None
    if row is None:
        raise Http404("there is no such challenge")
    phases, jobs = read_phases_and_jobs(row)
    return OneChallenge(row, phases, jobs)
