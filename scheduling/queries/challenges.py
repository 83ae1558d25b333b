"""What was last read of each challenge, with its phases and its jobs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db.models import Q, QuerySet

from scheduling.domain import challenges as domain
from scheduling.domain.phases import LONGEST_TEXT, wire_id
from scheduling.models import Challenge, Phase, ScheduledTransition
from scheduling.queries.filters import (
    Filter,
    parse_id_filter,
    read_conditions,
    show_instant,
    text_parser,
)
from scheduling.queries.jobs import show_job

CHALLENGE_FILTERS: dict[str, Filter] = {
    "project_id": (parse_id_filter, lambda value: Q(project_id=value)),
    "status": (text_parser(longest=LONGEST_TEXT), lambda value: Q(status=value)),
}


def list_challenges(filters: Mapping[str, Any]) -> QuerySet[Challenge]:
    """Return the challenges that match all filters, by id.

    Raises:
        InvalidRequestError: Names every unknown filter and every wrong value.
    """
    condition = read_conditions(filters, CHALLENGE_FILTERS)
    return Challenge.objects.filter(condition).order_by("challenge_id")


def show_challenges(challenges: Sequence[Challenge]) -> list[dict[str, Any]]:
    """Return challenges as the outside sees them, by the same three queries for any."""
    phases = _phases_of(challenges)
    jobs = _jobs_of(challenges, phases)
    return [_show(one, phases[one.pk], jobs[one.pk]) for one in challenges]


def find_challenge_of(job: ScheduledTransition) -> Challenge | None:
    """Return the challenge that a job belongs to; None where it was never read."""
    known = Challenge.objects.order_by("id")
    if job.challenge_id is not None:
        return known.filter(challenge_id=job.challenge_id).first()
    return known.filter(project_id=job.project_id, phases__phase_id=job.phase_id).first()


def read_phases_and_jobs(
    challenge: Challenge,
) -> tuple[Sequence[Phase], Sequence[ScheduledTransition]]:
    """Return a challenge's phases in upstream's order, and its jobs in due order."""
    phases = _phases_of([challenge])
    return phases[challenge.pk], _jobs_of([challenge], phases)[challenge.pk]


def as_last_read(challenge: Challenge, phases: Iterable[Phase]) -> domain.Challenge:
    """Return what was last read of a challenge, as a value of the domain."""
    return domain.Challenge(
        challenge_id=challenge.challenge_id,
        project_id=challenge.project_id,
        status=challenge.status,
        name=challenge.name,
        phases=tuple(
            domain.Phase(
                phase_id=row.phase_id,
                name=row.name,
                template_id=row.template_id,
                scheduled_start_at=row.scheduled_start_at,
                scheduled_end_at=row.scheduled_end_at,
                actual_start_at=row.actual_start_at,
                actual_end_at=row.actual_end_at,
                predecessor=row.predecessor,
            )
            for row in phases
        ),
    )


def _phases_of(challenges: Sequence[Challenge]) -> Mapping[int, Sequence[Phase]]:
    """Return the phases of each challenge by its key, in upstream's order."""
    phases: dict[int, list[Phase]] = defaultdict(list)
    of_them = Phase.objects.filter(challenge_id__in=[one.pk for one in challenges])
    for phase in of_them.order_by("challenge_id", "position", "id"):
        phases[phase.challenge_id].append(phase)
    return phases


def _jobs_of(
    challenges: Sequence[Challenge], phases: Mapping[int, Sequence[Phase]]
) -> Mapping[int, Sequence[ScheduledTransition]]:
    """Return the jobs of each challenge by its key, in due order.

    They are those with its id and, where they name no challenge, those of its project
    and one of its phases.
    """
    by_id = {one.challenge_id: one.pk for one in challenges}
    by_phase = {
        (one.project_id, phase.phase_id): one.pk
        for one in challenges
        for phase in phases[one.pk]
    }
    named = ScheduledTransition.objects.filter(challenge_id__in=list(by_id))
    unnamed = ScheduledTransition.objects.filter(
        challenge_id=None,
        project_id__in={project_id for project_id, _ in by_phase},
        phase_id__in={phase_id for _, phase_id in by_phase},
    )
    jobs: dict[int, list[ScheduledTransition]] = defaultdict(list)
    for job in [*named, *unnamed]:
        owner = (
            by_phase.get((job.project_id, job.phase_id))
            if job.challenge_id is None
            else by_id[job.challenge_id]
        )
        if owner is not None:
            jobs[owner].append(job)
    for found in jobs.values():
        found.sort(key=lambda job: (job.due_at, job.pk))
    return jobs


def _show(
    challenge: Challenge, phases: Sequence[Phase], jobs: Sequence[ScheduledTransition]
) -> dict[str, Any]:
    """Return a challenge as the outside sees it (contract, section 4)."""
    return {
        "challengeId": wire_id(challenge.challenge_id),
        "projectId": wire_id(challenge.project_id),
        "name": challenge.name or None,
        "status": challenge.status,
        "readAt": show_instant(challenge.read_at),
        "newestMessageAt": show_instant(challenge.newest_message_at),
        "mustBeReadSince": show_instant(challenge.must_be_read_since),
        "phases": [_show_phase(phase) for phase in phases],
        "jobs": [show_job(job) for job in jobs],
    }


def _show_phase(phase: Phase) -> dict[str, Any]:
    """Return a phase; its instants have upstream's names (contract, section 6)."""
    return {
        "phaseId": wire_id(phase.phase_id),
        "templateId": wire_id(phase.template_id) if phase.template_id else None,
        "phaseTypeName": phase.name,
        "scheduledStartDate": show_instant(phase.scheduled_start_at),
        "scheduledEndDate": show_instant(phase.scheduled_end_at),
        "actualStartDate": show_instant(phase.actual_start_at),
        "actualEndDate": show_instant(phase.actual_end_at),
        "predecessor": wire_id(phase.predecessor) if phase.predecessor else None,
    }
