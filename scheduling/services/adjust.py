"""Adjust the schedule: many changes as one batch, planned and made together.

A dry run and a real one read and plan by the same code. The real one holds what it is
about to replace and plans again, so that what a worker has claimed meanwhile is seen.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from scheduling import models
from scheduling.adapters.inserts import insert_rows
from scheduling.adapters.standing import find_standing
from scheduling.adapters.topic_search import find_events
from scheduling.adapters.updates import update_rows
from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.adjustment import plan_adjustment
from scheduling.domain.adjustment_request import AdjustmentRequest
from scheduling.domain.challenges import ACTIVE
from scheduling.domain.changes import (
    AdjustmentPlan,
    Conflict,
    Identity,
    LiveJob,
    Move,
    ScheduleChange,
)
from scheduling.domain.errors import OutsideWindowError, ServiceUnavailableError
from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.domain.phases import LONGEST_TEXT, PhaseData, format_instant
from scheduling.domain.relations import Relations
from scheduling.models import ScheduledTransition
from scheduling.queries.adjustments import show_adjustment
from scheduling.queries.challenges import as_last_read
from scheduling.services import adjustment_batches as batches
from scheduling.services.cancel import mark_cancelled
from scheduling.services.schedule import (
    insert_jobs,
    make_job_ids_unique,
    new_job,
    window_error,
)
from scheduling.services.unproven import (
    SEARCH_SECONDS,
    Proven,
    hold_scheduled,
    searching_first,
)
from scheduling.services.update import Update, successor

MOST_TRIES = 5
# Phases whose jobs are read by one statement.
LARGEST_READ = 2_000
# What `mark_cancelled` changes.
CANCELLED_FIELDS = (
    "status",
    "next_attempt_at",
    "unproven_since",
    "finalized_at",
    "updated_at",
    "replaced_by",
    "is_overridden",
    "upstream_at",
)

Jobs = Mapping[Identity, ScheduledTransition]


class _RefusedError(Exception):
    """The plan is refused: the transaction is rolled back, and this is the answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__("refused")
        self.answer = answer


class _ChangedMeanwhileError(Exception):
    """What was held is not what has to be replaced: begin afresh."""


def adjust_schedules(
    request: AdjustmentRequest, *, actor: Actor, now: datetime
) -> dict[str, Any]:
    """Make the changes, or tell what would become of them; return the contract's answer.

    A refused request is an answer too: `success` is false, `code` says why, and nothing
    was changed.

    Args:
        now: Aware UTC instant at which the request arrived.

    Raises:
        OperationNotPermittedError: The actor's role may not adjust.
        ConflictError: The batch id was given with another body.
        ServiceUnavailableError: A job's last attempt had an unknown outcome and the topic
            can't be searched now, or jobs keep changing.

    Source: contract, section 5.
    """
    authorize(actor, Operation.ADJUST)
    if request.is_dry_run:
        return _try_out(request, now=now)
    return searching_first(
        lambda proven: _adjust(request, actor=actor, now=now, proven=proven), now=now
    )


def find_conflicts(
    changes: Sequence[ScheduleChange], *, now: datetime
) -> Sequence[Conflict]:
    """Return the conflicts of changes, with each other and with what stands.

    For the doors that move jobs one by one, and refuse nothing of this: what an
    adjustment would refuse, a person is told first. Nothing is locked or changed.
    """
    relations = _read_relations(_rows_of_challenges(changes))
    jobs = _live_jobs(changes, relations)
    # The reason is for the audit alone, which a plan does not write.
    request = AdjustmentRequest(changes=tuple(changes), reason="")
    return _plan(request, jobs, relations, now=now).conflicts


def _try_out(request: AdjustmentRequest, *, now: datetime) -> dict[str, Any]:
    """Return what a real run would answer now; nothing is written.

    A job that the topic turns out to hold already is done, as the real run would find.
    """
    if request.batch_id is not None:
        first = batches.first_answer(request, now=now)
        if first is not None:
            return {**first, "dryRun": True}
    relations = _read_relations(_rows_of_challenges(request.changes))
    jobs = dict(_live_jobs(request.changes, relations))
    searched: set[str] = set()
    while True:
        plan = _plan(request, jobs, relations, now=now)
        unknown = {
            row.event_id: row.unproven_since
            for row in _replaced(plan, jobs)
            if row.unproven_since is not None and row.job_id not in searched
        }
        if not unknown:
            return show_adjustment(plan, request, new_job_ids={})
        found = find_events(unknown, timeout_seconds=SEARCH_SECONDS)
        searched |= {row.job_id for row in jobs.values() if row.event_id in unknown}
        jobs = {one: row for one, row in jobs.items() if row.event_id not in found}


def _adjust(
    request: AdjustmentRequest, *, actor: Actor, now: datetime, proven: Proven
) -> dict[str, Any]:
    """Make the changes in one transaction; begin afresh where others came in between.

    Raises:
        ConflictError: The batch id was given with another body.
        OutcomeUnknownError: The topic must be searched first; nothing was changed.
        ServiceUnavailableError: Others came in between each time.
    """
    for _ in range(MOST_TRIES):
        try:
            with transaction.atomic():
                return _adjust_once(request, actor=actor, now=now, proven=proven)
        except _RefusedError as refusal:
            return refusal.answer
        except (IntegrityError, _ChangedMeanwhileError):
            continue
    raise ServiceUnavailableError("the schedule keeps changing while it is adjusted")


def _adjust_once(
    request: AdjustmentRequest, *, actor: Actor, now: datetime, proven: Proven
) -> dict[str, Any]:
    """Plan, hold, plan again, and carry out.

    Locks are taken in one order, that of `apply_challenges`: the batch, the challenges by
    id, the jobs by key.
    """
    first = batches.begin(request, actor=actor, now=now)
    if first is not None:
        return first
    relations = _read_relations(_rows_of_challenges(request.changes).select_for_update())
    jobs = _live_jobs(request.changes, relations)
    plan = _plan(request, jobs, relations, now=now)
    held = hold_scheduled(_replaced(plan, jobs), proven=proven)
    if plan.moves:
        jobs = _live_jobs(request.changes, relations)
        plan = _plan(request, jobs, relations, now=now)
    if not plan.is_success:
        raise _RefusedError(show_adjustment(plan, request, new_job_ids={}))
    if {row.pk for row in _replaced(plan, jobs)} != held.keys():
        raise _ChangedMeanwhileError
    new_job_ids = _carry_out(plan, request, jobs, relations, actor=actor, now=now)
    answer = show_adjustment(plan, request, new_job_ids=new_job_ids)
    batches.keep(request, answer)
    return answer


# --- What stands ----------------------------------------------------------------------
def _rows_of_challenges(changes: Iterable[ScheduleChange]) -> QuerySet[models.Challenge]:
    """Return the rows of the challenges whose phases are named, by id."""
    named = {change.identity[:2] for change in changes}
    shown = models.Phase.objects.filter(
        challenge__project_id__in={project_id for project_id, _ in named},
        phase_id__in={phase_id for _, phase_id in named},
    ).values_list("challenge_id", "challenge__project_id", "phase_id")
    keys = {
        key
        for key, project_id, phase_id in shown.order_by()
        if (project_id, phase_id) in named
    }
    return models.Challenge.objects.filter(pk__in=keys).order_by("challenge_id")


def _read_relations(rows: QuerySet[models.Challenge]) -> Relations:
    """Return how the phases of challenges are related, as last read."""
    found = sorted(rows, key=lambda row: row.read_at.timestamp() if row.read_at else 0.0)
    phases: dict[int, list[models.Phase]] = {row.pk: [] for row in found}
    for phase in models.Phase.objects.filter(challenge_id__in=list(phases)):
        phases[phase.challenge_id].append(phase)
    return Relations(as_last_read(row, phases[row.pk]) for row in found)


def _live_jobs(changes: Iterable[ScheduleChange], relations: Relations) -> Jobs:
    """Return the live jobs of all phases that the changes may concern."""
    keys = sorted(relations.around(change.identity[:2] for change in changes))
    jobs: dict[Identity, ScheduledTransition] = {}
    for start in range(0, len(keys), LARGEST_READ):
        wanted = [
            (*key, kind.value)
            for key in keys[start : start + LARGEST_READ]
            for kind in TransitionKind
        ]
        for (project_id, phase_id, _), row in find_standing(wanted, ()).live.items():
            jobs[project_id, phase_id, row.kind] = row
    return jobs


def _plan(
    request: AdjustmentRequest, jobs: Jobs, relations: Relations, *, now: datetime
) -> AdjustmentPlan:
    """Return what becomes of the changes as things stand."""

    def window(due_at: datetime) -> OutsideWindowError | None:
        return window_error(due_at, now=now)

    return plan_adjustment(
        request.changes,
        live={
            identity: LiveJob(
                job_id=row.job_id,
                due_at=to_the_millisecond(row.due_at),
                is_running=row.current_status is TransitionStatus.RUNNING,
            )
            for identity, row in jobs.items()
        },
        relations=relations,
        on_conflict=request.on_conflict,
        is_atomic=request.is_atomic,
        window=window,
    )


def to_the_millisecond(instant: datetime) -> datetime:
    """Return an instant as exact as requests tell it."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def _replaced(plan: AdjustmentPlan, jobs: Jobs) -> list[ScheduledTransition]:
    """Return the jobs that the plan replaces."""
    return [jobs[move.identity] for move in plan.moves if move.job is not None]


# --- Carrying it out ------------------------------------------------------------------
def _carry_out(
    plan: AdjustmentPlan,
    request: AdjustmentRequest,
    jobs: Jobs,
    relations: Relations,
    *,
    actor: Actor,
    now: datetime,
) -> dict[Identity, str]:
    """Cancel the jobs that are replaced and add the new ones; return the new ids."""
    made: dict[Identity, ScheduledTransition] = {}
    for move in plan.moves:
        old = jobs.get(move.identity)
        made[move.identity] = (
            _job_to_create(move, request, jobs, relations, actor=actor, now=now)
            if old is None
            else _job_in_place_of(old, move, request, relations, actor=actor, now=now)
        )
    make_job_ids_unique(list(made.values()))
    reasons = {
        made[move.identity].job_id: request.changes[move.index].reason or request.reason
        for move in plan.moves
    }
    # First the old ones: an identity may have one live job only.
    _cancel(
        [(jobs[one], new) for one, new in made.items() if one in jobs],
        reasons,
        actor=actor,
        now=now,
    )
    if made:
        insert_jobs(list(made.values()), actor=actor, now=now, reason=reasons)
    return {identity: job.job_id for identity, job in made.items()}


def _job_in_place_of(
    old: ScheduledTransition,
    move: Move,
    request: AdjustmentRequest,
    relations: Relations,
    *,
    actor: Actor,
    now: datetime,
) -> ScheduledTransition:
    """Return the job that takes another one's place, not yet saved.

    As `update_transition` makes it: what a person moves, no automatism moves back.
    """
    update = Update(end_time=move.due_at, operator=request.operator)
    new = successor(old, update, due_at=move.due_at, now=now)
    new.replaces = old.job_id
    if actor.is_person:
        new.is_overridden = True
        seen = relations.scheduled_at(*move.identity)
        new.upstream_at = old.upstream_at or seen or old.due_at
    return new


def _job_to_create(
    move: Move,
    request: AdjustmentRequest,
    jobs: Jobs,
    relations: Relations,
    *,
    actor: Actor,
    now: datetime,
) -> ScheduledTransition:
    """Return the job of a transition that has none, not yet saved.

    What the change does not say of its challenge is taken from what was last read of it,
    else from the job of the phase's other end.
    """
    project_id, phase_id, kind = move.identity
    challenge = relations.challenge_of((project_id, phase_id))
    others = [jobs.get((project_id, phase_id, one)) for one in TransitionKind]
    other = next((job for job in others if job is not None), None)
    challenge_id = challenge.challenge_id if challenge else None
    status = challenge.status if challenge else ""
    if other is not None:
        challenge_id = challenge_id or other.challenge_id
        status = status or other.project_status
    change = request.changes[move.index]
    return new_job(
        PhaseData(
            project_id=project_id,
            phase_id=phase_id,
            challenge_id=challenge_id,
            phase_type_name=change.phase_type_name or "",
            state=kind,
            end_time=move.due_at,
            operator=request.operator or actor.name.partition(":")[2][:LONGEST_TEXT],
            project_status=status or ACTIVE,
        ),
        now=now,
    )


def _cancel(
    pairs: Collection[tuple[ScheduledTransition, ScheduledTransition]],
    reasons: Mapping[str, str],
    *,
    actor: Actor,
    now: datetime,
) -> None:
    """Cancel held jobs, each for the new one beside it, with their audit entries."""
    entries = [
        mark_cancelled(
            old,
            actor=actor,
            reason=reasons[new.job_id],
            now=now,
            action="transition.updated",
            replaced_by=new.job_id,
            changes={"endTime": [format_instant(old.due_at), format_instant(new.due_at)]},
            upstream_at=new.upstream_at,
        )
        for old, new in pairs
    ]
    update_rows([old for old, _ in pairs], fields=CANCELLED_FIELDS)
    insert_rows(entries)
