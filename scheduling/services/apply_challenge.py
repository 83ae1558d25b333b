"""Apply what upstream tells of challenges: the one place that decides and carries it out.

A message and a sweep differ only in who acts and where the reading came from. Many
challenges are applied by few statements: what they say is compared with all their rows
at once, and all new jobs are inserted together.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from django.db import transaction
from django.db.models import Q

from scheduling import models
from scheduling.conf import age_limit, scheduler_settings
from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.challenges import Challenge, Reading, Scope
from scheduling.domain.errors import JobNotFoundError, ServiceUnavailableError
from scheduling.domain.lifecycle import TransitionStatus, is_terminal_challenge_status
from scheduling.domain.phases import PhaseData, format_instant
from scheduling.domain.plan import (
    NEEDS_A_JOB,
    Difference,
    Expected,
    Finding,
    Limits,
    diff,
    plan_transitions,
)
from scheduling.models import ScheduledTransition, SettledTransition
from scheduling.services.cancel import cancel_scheduled
from scheduling.services.schedule import Identity, Upstream, add_jobs, new_job
from scheduling.services.unproven import prove_outcome
from scheduling.services.update import Update, update_transition

# How far ahead of ours another host's clock may be and still be believed.
LARGEST_CLOCK_ERROR = timedelta(minutes=5)
logger = logging.getLogger("autopilot.planning")

Change = Difference[ScheduledTransition]
_LAST_POSITION = 32_767
_TOUCHES = frozenset({Finding.MOVE, Finding.CANCEL})
_WHOLE_PHASE = (
    "template_id",
    "name",
    "position",
    "scheduled_start_at",
    "scheduled_end_at",
    "actual_start_at",
    "actual_end_at",
    "predecessor",
)
_ENDS_ONLY = ("name", "scheduled_end_at")


class OutcomeUnknownError(ServiceUnavailableError):
    """Jobs to be moved or cancelled may be on the topic already: nothing was changed.

    Call `prove_outcomes` outside any transaction, and apply again with its result.
    """

    def __init__(self, job_ids: Sequence[str]) -> None:
        super().__init__(
            f"the outcome of {', '.join(job_ids[:5])} must be searched for first"
        )
        self.job_ids = list(job_ids)


class Verdict(StrEnum):
    """What became of a reading.

    PLANNED: the challenge is active, and its jobs are as its phases want them.
    OVER: it has a terminal status; its jobs are cancelled.
    STALE: something newer was applied before, so it changed nothing.
    RECORDED: nothing follows for jobs: it is neither active nor over, no phases were
        told, or it was over before.
    """

    PLANNED = "planned"
    OVER = "over"
    STALE = "stale"
    RECORDED = "recorded"


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What became of one reading: each transition looked at has one difference.

    cancelled: ids of the jobs cancelled because the challenge is over.
    """

    reading: Reading
    verdict: Verdict
    differences: tuple[Change, ...] = ()
    cancelled: tuple[str, ...] = ()

    @property
    def counts(self) -> Counter[Finding]:
        """How many transitions have each finding."""
        return Counter(difference.finding for difference in self.differences)


@dataclass
class _Work:
    """One reading on its way: its row, its verdict, and what differs."""

    reading: Reading
    row: models.Challenge
    verdict: Verdict = Verdict.RECORDED
    differences: list[Change] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)


def apply_challenge(
    reading: Reading,
    *,
    actor: Actor,
    now: datetime,
    proven: Mapping[str, datetime | None] | None = None,
    fires_overdue: bool = True,
) -> Applied:
    """Apply one reading (see `apply_challenges`)."""
    (applied,) = apply_challenges(
        [reading], actor=actor, now=now, proven=proven, fires_overdue=fires_overdue
    )
    return applied


def apply_challenges(
    readings: Sequence[Reading],
    *,
    actor: Actor,
    now: datetime,
    proven: Mapping[str, datetime | None] | None = None,
    fires_overdue: bool = True,
) -> list[Applied]:
    """Apply readings of different challenges in one transaction; results in their order.

    Args:
        readings: At most one of each challenge.
        proven: What `prove_outcomes` returned after an `OutcomeUnknownError`.
        fires_overdue: Whether a transition found overdue without a job fires at once;
            otherwise it gets one that is expired.

    Raises:
        OperationNotPermittedError: The actor's role may not schedule.
        OutcomeUnknownError: The topic must be searched first; nothing was changed.
        IntegrityError: Another writer took an identity meanwhile; ask again.

    Source: contract, sections 2, 6 and 8.
    """
    authorize(actor, Operation.SCHEDULE)
    limits = Limits(
        now=now,
        age_limit=age_limit(),
        longest_advance=scheduler_settings().period("max_schedule_advance"),
        fires_overdue=fires_overdue,
    )
    with transaction.atomic():
        work = _begin(readings)
        _judge(work, now=now)
        _keep_what_was_read(work)
        _compare(work, limits=limits)
        _carry_out(work, actor=actor, now=now, proven=proven or {})
        _cancel_over(work, actor=actor, now=now, proven=proven or {})
    return [
        Applied(
            reading=item.reading,
            verdict=item.verdict,
            differences=tuple(item.differences),
            cancelled=tuple(item.cancelled),
        )
        for item in work
    ]


def prove_outcomes(job_ids: Iterable[str], *, now: datetime) -> dict[str, datetime | None]:
    """Search the topic for each job's event; what is found there is completed.

    Raises:
        ServiceUnavailableError: The topic can't be searched now.
    """
    proven: dict[str, datetime | None] = {}
    for job_id in job_ids:
        try:
            proven[job_id] = prove_outcome(job_id, now=now)
        except JobNotFoundError:
            # Cleaned up meanwhile: the next comparison won't meet it again.
            continue
    return proven


# --- What is known of the challenges --------------------------------------------------
def _begin(readings: Sequence[Reading]) -> list[_Work]:
    """Lock each challenge's row, made where it is missing.

    Whoever else applies something to the same challenge waits here. Rows are made and
    locked in one order by everybody, so that two never wait for each other.
    """
    by_id = {reading.challenge.challenge_id: reading.challenge for reading in readings}
    rows = _lock(by_id)
    missing = sorted(by_id.keys() - rows.keys())
    if missing:
        models.Challenge.objects.bulk_create(
            [
                models.Challenge(
                    challenge_id=challenge_id,
                    project_id=by_id[challenge_id].project_id,
                    status="",
                )
                for challenge_id in missing
            ],
            ignore_conflicts=True,
        )
        rows |= _lock(missing)
    return [
        _Work(reading=reading, row=rows[reading.challenge.challenge_id])
        for reading in readings
    ]


def _lock(challenge_ids: Iterable[str]) -> dict[str, models.Challenge]:
    """Return the rows there are, locked until the transaction ends."""
    rows = models.Challenge.objects.select_for_update().filter(
        challenge_id__in=list(challenge_ids)
    )
    return {row.challenge_id: row for row in rows.order_by("challenge_id")}


def _judge(work: Sequence[_Work], *, now: datetime) -> None:
    """Decide what each reading means, and bring its challenge's row up to it."""
    for item in work:
        reading, row = item.reading, item.row
        if _is_stale(reading, row):
            item.verdict = Verdict.STALE
            continue
        was_over = is_terminal_challenge_status(row.status)
        status = reading.challenge.status
        is_over = is_terminal_challenge_status(status)
        if is_over:
            item.verdict = Verdict.OVER
        elif reading.challenge.is_active and reading.challenge.phases and not was_over:
            item.verdict = Verdict.PLANNED
        if is_over or not was_over:
            # What is over stays so: a later message that says otherwise was produced
            # by somebody who did not know yet.
            row.status = status
        _update_row(row, reading, now=now)


def _is_stale(reading: Reading, row: models.Challenge) -> bool:
    """Tell whether something said later was applied before; of equals the later wins."""
    return (
        reading.said_at is not None
        and row.newest_message_at is not None
        and reading.said_at < row.newest_message_at
    )


def _believable(said_at: datetime | None, now: datetime) -> datetime | None:
    """Return when something was said; now, where that lies too far ahead.

    One record of a clock that is wrong must not make all later ones of its challenge old.
    """
    is_too_far_ahead = said_at is not None and said_at > now + LARGEST_CLOCK_ERROR
    return now if is_too_far_ahead else said_at


def _update_row(row: models.Challenge, reading: Reading, *, now: datetime) -> None:
    """Note what the reading says of the challenge itself."""
    challenge = reading.challenge
    row.project_id = challenge.project_id
    row.name = challenge.name or row.name
    row.read_at = now
    row.newest_message_at = _believable(reading.said_at, now) or row.newest_message_at
    is_in_need = challenge.is_active and not is_terminal_challenge_status(row.status)
    if not is_in_need or (challenge.phases and reading.scope is Scope.WHOLE):
        row.must_be_read_since = None
    elif not challenge.phases:
        # Something changed, and we were not told what.
        row.must_be_read_since = row.must_be_read_since or now


def _keep_what_was_read(work: Sequence[_Work]) -> None:
    """Write the challenges' and phases' rows of all that is not stale."""
    fresh = [item for item in work if item.verdict is not Verdict.STALE]
    models.Challenge.objects.bulk_create(
        [item.row for item in fresh],
        update_conflicts=True,
        unique_fields=["challenge_id"],
        update_fields=[
            "project_id",
            "name",
            "status",
            "read_at",
            "newest_message_at",
            "must_be_read_since",
        ],
    )
    for scope, columns in ((Scope.WHOLE, _WHOLE_PHASE), (Scope.ENDS, _ENDS_ONLY)):
        models.Phase.objects.bulk_create(
            [
                row
                for item in fresh
                if item.reading.scope is scope
                for row in _phase_rows(item.row, item.reading.challenge)
            ],
            batch_size=500,
            update_conflicts=True,
            unique_fields=["challenge", "phase_id"],
            update_fields=columns,
        )


def _phase_rows(row: models.Challenge, challenge: Challenge) -> list[models.Phase]:
    """Return the phases as rows."""
    return [
        models.Phase(
            challenge_id=row.pk,
            phase_id=phase.phase_id,
            template_id=phase.template_id,
            name=phase.name,
            position=min(position, _LAST_POSITION),
            scheduled_start_at=phase.scheduled_start_at,
            scheduled_end_at=phase.scheduled_end_at,
            actual_start_at=phase.actual_start_at,
            actual_end_at=phase.actual_end_at,
            predecessor=phase.predecessor,
        )
        for position, phase in enumerate(challenge.phases)
    ]


# --- What should exist against what does ----------------------------------------------
def _compare(work: Sequence[_Work], *, limits: Limits) -> None:
    """Find, for each transition of the active challenges, what differs."""
    planned = [item for item in work if item.verdict is Verdict.PLANNED]
    phases = {
        (item.reading.challenge.project_id, phase.phase_id)
        for item in planned
        for phase in item.reading.challenge.phases
    }
    jobs = _jobs_of(phases)
    remembered = _remembered_of(phases)
    for item in planned:
        project_id = item.reading.challenge.project_id
        for expected in plan_transitions(item.reading):
            identity = (project_id, expected.phase.phase_id, expected.kind.value)
            item.differences.append(
                diff(
                    expected,
                    jobs.get(identity, []),
                    remembered=remembered[identity],
                    limits=limits,
                )
            )


def _jobs_of(
    phases: Collection[tuple[str, str]],
) -> dict[Identity, list[ScheduledTransition]]:
    """Return all rows of the phases, live and past, by identity."""
    found: dict[Identity, list[ScheduledTransition]] = defaultdict(list)
    if phases:
        where, values = _pairs(phases)
        for job in ScheduledTransition.objects.raw(
            f"SELECT * FROM {ScheduledTransition._meta.db_table} WHERE {where}",  # noqa: S608 -- a table's name and placeholders
            values,
        ):
            found[job.project_id, job.phase_id, job.state].append(job)
    return found


def _remembered_of(
    phases: Collection[tuple[str, str]],
) -> dict[Identity, list[SettledTransition]]:
    """Return what clean-up remembered of the phases, by identity."""
    found: dict[Identity, list[SettledTransition]] = defaultdict(list)
    if not phases:
        return found
    where, values = _pairs(phases)
    rows = SettledTransition.objects.raw(
        f"SELECT * FROM {SettledTransition._meta.db_table} WHERE {where}",  # noqa: S608 -- a table's name and placeholders
        values,
    )
    for row in rows:
        found[row.project_id, row.phase_id, row.state].append(row)
    return found


def _pairs(phases: Collection[tuple[str, str]]) -> tuple[str, list[str]]:
    """Return the condition for these projects and phases, with its values.

    Both databases look each pair up in the index. Two separate lists of ids would have
    PostgreSQL look up every combination.
    """
    places = ", ".join(["(%s, %s)"] * len(phases))
    return (
        f"(project_id, phase_id) IN (VALUES {places})",
        [one for pair in sorted(phases) for one in pair],
    )


# --- Carrying it out ------------------------------------------------------------------
def _carry_out(
    work: Sequence[_Work],
    *,
    actor: Actor,
    now: datetime,
    proven: Mapping[str, datetime | None],
) -> None:
    """Cancel, move and create what the differences say."""
    touched = [
        difference.live
        for item in work
        for difference in item.differences
        if difference.finding in _TOUCHES and difference.live is not None
    ]
    held = _hold(touched, proven=proven)
    new: dict[str, list[ScheduledTransition]] = defaultdict(list)
    for item in work:
        item.differences = [
            _settle(difference, item.reading, held, actor=actor, now=now)
            for difference in item.differences
        ]
        new[item.reading.reason] += [
            _job(difference, item.reading, now=now)
            for difference in item.differences
            if difference.finding in NEEDS_A_JOB
        ]
    for reason, jobs in new.items():
        if jobs:
            add_jobs(jobs, actor=actor, now=now, reason=reason)


def _hold(
    jobs: Sequence[ScheduledTransition], *, proven: Mapping[str, datetime | None]
) -> set[int]:
    """Lock those of the jobs that are still scheduled; return their keys.

    Raises:
        OutcomeUnknownError: Some may be on the topic already.
    """
    if not jobs:
        return set()
    rows = list(
        ScheduledTransition.objects.select_for_update()
        .filter(pk__in=[job.pk for job in jobs], status=TransitionStatus.SCHEDULED)
        .order_by("id")
    )
    unknown = [row for row in rows if row.unproven_since is not None]
    unproven = [
        row.job_id for row in unknown if proven.get(row.job_id) != row.unproven_since
    ]
    if unproven:
        raise OutcomeUnknownError(unproven)
    # Searched for and not found, and held since: the change below tells of it.
    ScheduledTransition.objects.filter(pk__in=[row.pk for row in unknown]).update(
        unproven_since=None
    )
    return {row.pk for row in rows}


def _settle(
    difference: Change,
    reading: Reading,
    held: Collection[int],
    *,
    actor: Actor,
    now: datetime,
) -> Change:
    """Move or cancel the live job; what was claimed meanwhile is found running."""
    finding, live, due_at = difference.finding, difference.live, difference.expected.due_at
    if finding is Finding.TOO_FAR and due_at is not None:
        logger.info(
            "%s of phase %s at %s lies beyond SCHEDULER_MAX_SCHEDULE_ADVANCE: skipped",
            difference.expected.kind,
            difference.expected.phase.phase_id,
            format_instant(due_at),
        )
    if finding not in _TOUCHES or live is None:
        return difference
    if live.pk not in held:
        return Difference(expected=difference.expected, live=live, finding=Finding.RUNNING)
    if due_at is None:
        reason = f"{reading.reason}: it has happened already"
        cancel_scheduled([live], actor=actor, reason=reason, now=now)
        return difference
    update_transition(
        job_id=live.job_id,
        update=Update(end_time=due_at, upstream_at=due_at),
        actor=actor,
        now=now,
        reason=reading.reason,
    )
    return difference


def _job(difference: Change, reading: Reading, *, now: datetime) -> ScheduledTransition:
    """Return the job that a transition needs, not yet saved."""
    expected, challenge = difference.expected, reading.challenge
    due_at = _due_at(expected)
    is_expired = difference.finding is Finding.EXPIRE
    return new_job(
        PhaseData(
            project_id=challenge.project_id,
            phase_id=expected.phase.phase_id,
            challenge_id=challenge.challenge_id,
            phase_type_name=expected.phase.name,
            state=expected.kind,
            end_time=due_at,
            operator=challenge.operator,
            project_status=challenge.status,
        ),
        now=now,
        upstream=Upstream(
            at=due_at,
            status=TransitionStatus.EXPIRED if is_expired else TransitionStatus.SCHEDULED,
        ),
    )


def _due_at(expected: Expected) -> datetime:
    """Return the instant of a transition that needs a job."""
    assert expected.due_at is not None  # noqa: S101 -- for the type checker
    return expected.due_at


def _cancel_over(
    work: Sequence[_Work],
    *,
    actor: Actor,
    now: datetime,
    proven: Mapping[str, datetime | None],
) -> None:
    """Cancel the live jobs of the challenges that are over.

    Those with its id, and those of its project that name no challenge.
    """
    for item in work:
        if item.verdict is not Verdict.OVER:
            continue
        challenge = item.reading.challenge
        jobs = list(
            ScheduledTransition.objects.live().filter(
                Q(challenge_id=challenge.challenge_id)
                | Q(challenge_id=None, project_id=challenge.project_id)
            )
        )
        _hold(jobs, proven=proven)
        item.cancelled = cancel_scheduled(
            jobs,
            actor=actor,
            reason=f"the challenge is {challenge.status} ({item.reading.reason})",
            now=now,
        )
