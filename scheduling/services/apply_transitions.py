"""Apply what records of the transitions' topic tell: our own events, and others'."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.db import transaction

from scheduling import models
from scheduling.adapters.topic_search import FoundEvent
from scheduling.domain.actors import kafka_actor
from scheduling.domain.challenges import ACTIVE
from scheduling.domain.events import TransitionEvent
from scheduling.domain.phases import LONGEST_TEXT, format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_locked
from scheduling.services.compare import jobs_of
from scheduling.services.schedule import Identity
from scheduling.services.unproven import (
    UNSETTLED,
    Proven,
    complete_found,
    hold_scheduled,
)


class Heard(StrEnum):
    """What became of an event.

    CONFIRMED: our own, and it stands on the topic: now we know where we did not.
    OWN: our own, and known already.
    OVERTAKEN: another's, and its transition's live job was cancelled for it.
    RUNNING: another's, but the live job is being published: it is left to finish.
    INACTIVE: another's, of a challenge that is over or not active: it changes nothing.
    IDLE: another's, and there is no live job that it would settle.
    """

    CONFIRMED = "confirmed"
    OWN = "own"
    OVERTAKEN = "overtaken"
    RUNNING = "running"
    INACTIVE = "inactive"
    IDLE = "idle"


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the rows tell of the events' transitions.

    cleaned_up: job id and event id of jobs that only the audit knows.
    """

    jobs: Mapping[Identity, Sequence[ScheduledTransition]]
    cleaned_up: Collection[tuple[str, str]]


def apply_transitions(
    events: Sequence[TransitionEvent], *, now: datetime, proven: Proven | None = None
) -> list[Heard]:
    """Apply events of different transitions; one answer each. One transaction.

    Raises:
        OutcomeUnknownError: The topic must be searched first; nothing was changed.

    Source: contract, section 8, "Transitions in".
    """
    with transaction.atomic():
        known = _look_up(events)
        return [_apply(event, known, now=now, proven=proven or {}) for event in events]


def _look_up(events: Sequence[TransitionEvent]) -> _Known:
    """Read all rows of the events' transitions, and which events' rows are gone."""
    jobs = jobs_of({(event.project_id, event.phase_id) for event in events})
    strangers = {
        event.job_id for event in events if event.job_id and _own_job(event, jobs) is None
    }
    if not strangers:
        return _Known(jobs=jobs, cleaned_up=frozenset())
    entries = AuditEntry.objects.filter(
        job_id__in=strangers, action="transition.scheduled"
    ).values_list("job_id", "changes")
    return _Known(
        jobs=jobs,
        cleaned_up={(job_id, changes.get("eventId", "")) for job_id, changes in entries},
    )


def _own_job(
    event: TransitionEvent, jobs: Mapping[Identity, Sequence[ScheduledTransition]]
) -> ScheduledTransition | None:
    """Return the job whose event this is; of several (a retry's) the last."""
    try:
        event_id = uuid.UUID(event.event_id)
    except ValueError:
        return None
    own = [job for job in jobs.get(event.identity, ()) if job.event_id == event_id]
    return max(own, key=lambda job: job.pk, default=None)


def _apply(
    event: TransitionEvent, known: _Known, *, now: datetime, proven: Proven
) -> Heard:
    """Apply one event."""
    own = _own_job(event, known.jobs)
    if own is not None:
        return _confirm(own, event, now=now)
    if (event.job_id, event.event_id) in known.cleaned_up:
        return Heard.OWN
    live = [job for job in known.jobs.get(event.identity, ()) if job.is_live]
    if not live:
        return Heard.IDLE
    (job,) = live
    if not _is_active(event, job):
        return Heard.INACTIVE
    held = hold_scheduled([job], proven=proven)
    if job.pk not in held:
        return Heard.RUNNING
    _overtake(held[job.pk], event, now=now)
    return Heard.OVERTAKEN


def _confirm(job: ScheduledTransition, event: TransitionEvent, *, now: datetime) -> Heard:
    """Complete a job whose last attempt had an unknown outcome: here is its record."""
    record = event.record
    is_known = job.unproven_since is None or job.current_status not in UNSETTLED
    if is_known or record is None:
        return Heard.OWN
    assert job.unproven_since is not None  # noqa: S101 -- for the type checker
    found = FoundEvent(record.partition, record.offset, event.published_at(record))
    complete_found(job.job_id, found, searched=job.unproven_since, now=now)
    return Heard.CONFIRMED


def _overtake(job: ScheduledTransition, event: TransitionEvent, *, now: datetime) -> None:
    """Cancel a job whose transition somebody else has published.

    It counts as decided by them: nothing makes the job again for the same instant.
    """
    operator = event.operator[:LONGEST_TEXT]
    cancel_locked(
        job,
        actor=kafka_actor(operator, request_id=event.correlation_id[:64]),
        action="transition.overtaken",
        reason=f"{operator} has published it, for {format_instant(event.happened_at)}",
        changes={"record": event.place, "eventId": event.event_id},
        now=now,
    )


def _is_active(event: TransitionEvent, job: ScheduledTransition) -> bool:
    """Tell whether what was last read of the challenge lets the event count.

    A challenge that was never read says nothing against it. Where neither event nor job
    names one, it is that of the project which has the phase, or else any of the project.
    """
    ids = {event.challenge_id, job.challenge_id} - {None}
    if ids:
        named = models.Challenge.objects.filter(challenge_id__in=ids)
        return all(challenge.status == ACTIVE for challenge in named)
    of_project = models.Challenge.objects.filter(project_id=event.project_id)
    with_phase = list(of_project.filter(phases__phase_id=event.phase_id))
    if with_phase:
        return all(challenge.status == ACTIVE for challenge in with_phase)
    statuses = set(of_project.values_list("status", flat=True))
    return not statuses or ACTIVE in statuses
