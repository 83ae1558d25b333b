"""Carry out what a comparison found: cancel, move and make jobs, many by few statements.

Only automatisms do this: a person's change of a single job is another service.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from scheduling.adapters.inserts import insert_rows
from scheduling.domain.actors import Actor
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import PhaseData, format_instant
from scheduling.domain.plan import NEEDS_A_JOB, TOUCHES_A_JOB, Finding
from scheduling.models import ScheduledTransition
from scheduling.services.cancel import cancel_scheduled, mark_cancelled
from scheduling.services.compare import Change, Origin, Wanted
from scheduling.services.schedule import (
    Upstream,
    insert_jobs,
    make_job_ids_unique,
    new_job,
)
from scheduling.services.unproven import Proven, hold_scheduled
from scheduling.services.update import Update, successor

logger = logging.getLogger("autopilot.planning")

UPDATED_AT_ONCE = 250
_WHY_EXPIRED = {
    Finding.EXPIRE: "found overdue by more than the age limit",
    Finding.ASK: "found overdue: a person decides",
}


def carry_out(
    wanted: Sequence[Wanted],
    changes: Sequence[Change],
    *,
    actor: Actor,
    now: datetime,
    proven: Proven,
) -> list[Change]:
    """Bring the jobs to what is wanted; return what became of each, in their order.

    A live job that was claimed meanwhile is found running.

    Args:
        changes: What `compare` found of `wanted`, in its order.
        proven: What is known of attempts of unknown outcome.

    Raises:
        unproven.OutcomeUnknownError: The topic must be searched first; nothing was changed.
        IntegrityError: Another writer took an identity meanwhile; ask again.
    """
    touched = [
        change.live
        for change in changes
        if change.finding in TOUCHES_A_JOB and change.live is not None
    ]
    held = hold_scheduled(touched, proven=proven)
    settled = [_as_held(change, held) for change in changes]
    _tell_skipped(settled)
    pairs = list(zip(wanted, settled, strict=True))
    _cancel_what_has_happened(pairs, actor=actor, now=now)
    _move_and_make(pairs, actor=actor, now=now)
    return settled


def _as_held(change: Change, held: Collection[int]) -> Change:
    """Return the change, or that its job runs, where it was claimed meanwhile."""
    if change.finding not in TOUCHES_A_JOB or change.live is None:
        return change
    return change if change.live.pk in held else replace(change, finding=Finding.RUNNING)


def _tell_skipped(changes: Sequence[Change]) -> None:
    """Write a line about what is left out, where a person may wonder."""
    for change in changes:
        expected = change.expected
        if change.finding is Finding.TOO_FAR and expected.due_at is not None:
            logger.info(
                "%s of phase %s at %s lies beyond SCHEDULER_MAX_SCHEDULE_ADVANCE: skipped",
                expected.kind,
                expected.phase.phase_id,
                format_instant(expected.due_at),
            )
        elif change.finding is Finding.CONTRADICTORY:
            logger.warning(
                "%s of phase %s is left alone: %s",
                expected.kind,
                expected.phase.phase_id,
                expected.contradiction,
            )


def _cancel_what_has_happened(
    pairs: Sequence[tuple[Wanted, Change]], *, actor: Actor, now: datetime
) -> None:
    """Cancel the held jobs of transitions that happened without us."""
    by_reason: dict[str, list[ScheduledTransition]] = {}
    for one, change in pairs:
        if change.finding is Finding.CANCEL and change.live is not None:
            by_reason.setdefault(one.origin.reason, []).append(change.live)
    for reason, jobs in by_reason.items():
        cancel_scheduled(
            jobs, actor=actor, reason=f"{reason}: it has happened already", now=now
        )


def _move_and_make(
    pairs: Sequence[tuple[Wanted, Change]], *, actor: Actor, now: datetime
) -> None:
    """Replace the held jobs that stand at another instant, and add what is missing."""
    replaced: list[tuple[ScheduledTransition, ScheduledTransition, str]] = []
    new: list[tuple[ScheduledTransition, str]] = []
    for one, change in pairs:
        reason = one.origin.reason
        if change.finding is Finding.MOVE and change.live is not None:
            job = _job_in_place_of(change.live, _due_at(change), now=now)
            replaced.append((change.live, job, reason))
            new.append((job, reason))
        elif change.finding in NEEDS_A_JOB:
            why = _WHY_EXPIRED.get(change.finding)
            new.append(
                (_job(one.origin, change, now=now), f"{reason}: {why}" if why else reason)
            )
    if not new:
        return
    jobs = [job for job, _ in new]
    make_job_ids_unique(jobs)
    # First the old ones: an identity may have one live job only.
    _cancel_replaced(replaced, actor=actor, now=now)
    reasons = {job.job_id: reason for job, reason in new}
    insert_jobs(jobs, actor=actor, now=now, reason=reasons)


def _due_at(change: Change) -> datetime:
    """Return the instant of a transition that is to have a job."""
    due_at = change.expected.due_at
    assert due_at is not None  # noqa: S101 -- for the type checker
    return due_at


def _job_in_place_of(
    old: ScheduledTransition, due_at: datetime, *, now: datetime
) -> ScheduledTransition:
    """Return the job that takes another one's place, not yet saved.

    Upstream asks for it: the window of SCHEDULER_*_ADVANCE does not bind.
    """
    update = Update(end_time=due_at, upstream_at=due_at)
    new = successor(old, update, due_at=due_at, now=now)
    new.replaces = old.job_id
    return new


def _job(origin: Origin, change: Change, *, now: datetime) -> ScheduledTransition:
    """Return the job that a transition needs, not yet saved."""
    expected, due_at = change.expected, _due_at(change)
    is_expired = change.finding in _WHY_EXPIRED
    return new_job(
        PhaseData(
            project_id=origin.project_id,
            phase_id=expected.phase.phase_id,
            challenge_id=origin.challenge_id,
            phase_type_name=expected.phase.name,
            state=expected.kind,
            end_time=due_at,
            operator=origin.operator,
            project_status=origin.project_status,
            metadata=origin.metadata,
        ),
        now=now,
        upstream=Upstream(
            at=due_at,
            status=TransitionStatus.EXPIRED if is_expired else TransitionStatus.SCHEDULED,
        ),
    )


def _cancel_replaced(
    replaced: Sequence[tuple[ScheduledTransition, ScheduledTransition, str]],
    *,
    actor: Actor,
    now: datetime,
) -> None:
    """Cancel held jobs, each for the new one beside it, with their audit entries."""
    if not replaced:
        return
    entries = [
        mark_cancelled(
            old,
            actor=actor,
            reason=reason,
            now=now,
            action="transition.updated",
            replaced_by=new.job_id,
            changes={"endTime": [format_instant(old.due_at), format_instant(new.due_at)]},
            upstream_at=None,
        )
        for old, new, reason in replaced
    ]
    rows = [old for old, _, _ in replaced]
    ScheduledTransition.objects.filter(pk__in=[row.pk for row in rows]).update(
        status=TransitionStatus.CANCELLED,
        next_attempt_at=None,
        unproven_since=None,
        finalized_at=now,
        updated_at=now,
    )
    ScheduledTransition.objects.bulk_update(
        rows, ["replaced_by"], batch_size=UPDATED_AT_ONCE
    )
    insert_rows(entries)
