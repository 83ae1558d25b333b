"""Apply what upstream tells of challenges: the one place that decides and carries it out.

A message and a sweep differ only in who acts and where the reading came from. Many
challenges are applied by few statements: what they say is compared with all their rows
at once, and all new jobs are inserted together.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Q

from scheduling.conf import age_limit, scheduler_settings
from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.challenges import Reading
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.plan import (
    NEEDS_A_JOB,
    TOUCHES_A_JOB,
    Decide,
    Finding,
    Limits,
    decide_by_age,
    plan_transitions,
)
from scheduling.models import ScheduledTransition
from scheduling.services.apply_changes import carry_out
from scheduling.services.cancel import cancel_scheduled
from scheduling.services.compare import Change, Origin, Wanted, compare, compare_only
from scheduling.services.kept_challenges import (
    LARGEST_CLOCK_ERROR,
    Kept,
    Verdict,
    hold_kept,
    judge,
    keep_what_is_new,
    look_at_kept,
)
from scheduling.services.unproven import Proven, hold_scheduled

__all__ = [
    "LARGEST_CLOCK_ERROR",
    "Applied",
    "Verdict",
    "apply_challenge",
    "apply_challenges",
    "limits_at",
    "preview_challenges",
]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What became of one reading: each transition looked at has one difference.

    cancelled: ids of the jobs cancelled because the challenge is over.
    is_news: whether something of it was not kept yet.
    """

    reading: Reading
    verdict: Verdict
    differences: tuple[Change, ...] = ()
    cancelled: tuple[str, ...] = ()
    is_news: bool = False

    @property
    def counts(self) -> Counter[Finding]:
        """How many transitions have each finding."""
        return Counter(difference.finding for difference in self.differences)

    @property
    def changes_something(self) -> bool:
        """Whether anything is, or would be, written."""
        acts = NEEDS_A_JOB | TOUCHES_A_JOB
        return (
            self.is_news
            or bool(self.cancelled)
            or any(difference.finding in acts for difference in self.differences)
        )


def apply_challenge(
    reading: Reading,
    *,
    actor: Actor,
    now: datetime,
    proven: Proven | None = None,
) -> Applied:
    """Apply one reading (see `apply_challenges`)."""
    (applied,) = apply_challenges([reading], actor=actor, now=now, proven=proven)
    return applied


def apply_challenges(
    readings: Sequence[Reading],
    *,
    actor: Actor,
    now: datetime,
    proven: Proven | None = None,
    decide: Decide = decide_by_age,
) -> list[Applied]:
    """Apply readings of different challenges in one transaction; results in their order.

    Args:
        readings: At most one of each challenge.
        proven: What `unproven.prove_by_id` returned after an `OutcomeUnknownError`.
        decide: What becomes of a transition found overdue without a job.

    Raises:
        OperationNotPermittedError: The actor's role may not schedule.
        unproven.OutcomeUnknownError: The topic must be searched first; nothing was changed.
        IntegrityError: Another writer took an identity meanwhile; ask again.

    Source: contract, sections 2, 6 and 8.
    """
    authorize(actor, Operation.SCHEDULE)
    limits = limits_at(now, decide=decide)
    with transaction.atomic():
        kept = hold_kept(readings)
        judge(kept, now=now)
        news = [_has_news(item) for item in kept]
        keep_what_is_new(kept)
        wanted = [_wanted(item) for item in kept]
        flat = [one for some in wanted for one in some]
        changes = compare(flat, limits=limits)
        changes = carry_out(flat, changes, actor=actor, now=now, proven=proven or {})
        cancelled = [
            _cancel_over(item, actor=actor, now=now, proven=proven or {}) for item in kept
        ]
    return _results(kept, wanted, changes, cancelled, news)


def preview_challenges(
    readings: Sequence[Reading], *, now: datetime, decide: Decide = decide_by_age
) -> list[Applied]:
    """Return what `apply_challenges` would do now; nothing is written or locked.

    Args:
        readings: At most one of each challenge.
        decide: What would become of a transition found overdue without a job.
    """
    kept = look_at_kept(readings)
    judge(kept, now=now)
    news = [_has_news(item) for item in kept]
    wanted = [_wanted(item) for item in kept]
    flat = [one for some in wanted for one in some]
    changes = compare_only(flat, limits=limits_at(now, decide=decide))
    cancelled = [
        [job.job_id for job in _jobs_of_over(item) if job.unproven_since is None]
        for item in kept
    ]
    return _results(kept, wanted, changes, cancelled, news)


def limits_at(now: datetime, *, decide: Decide = decide_by_age) -> Limits:
    """Return how far from an instant jobs may be made, by the settings in force."""
    return Limits(
        now=now,
        age_limit=age_limit(),
        longest_advance=scheduler_settings().period("max_schedule_advance"),
        decide=decide,
    )


def _has_news(item: Kept) -> bool:
    """Tell whether something of a reading is not kept yet."""
    return item.is_row_new or bool(item.new_phases)


def _wanted(item: Kept) -> list[Wanted]:
    """Return the transitions that a reading wants."""
    if item.verdict is not Verdict.PLANNED:
        return []
    challenge = item.reading.challenge
    origin = Origin(
        project_id=challenge.project_id,
        challenge_id=challenge.challenge_id,
        operator=challenge.operator,
        project_status=challenge.status,
        reason=item.reading.reason,
    )
    return [
        Wanted(origin=origin, expected=expected)
        for expected in plan_transitions(item.reading)
    ]


def _results(
    kept: Sequence[Kept],
    wanted: Sequence[Sequence[Wanted]],
    changes: Sequence[Change],
    cancelled: Sequence[Sequence[str]],
    news: Sequence[bool],
) -> list[Applied]:
    """Return what became of each reading; `changes` holds those of all in a row."""
    left = iter(changes)
    return [
        Applied(
            reading=item.reading,
            verdict=item.verdict,
            differences=tuple(next(left) for _ in some),
            cancelled=tuple(jobs),
            is_news=is_news,
        )
        for item, some, jobs, is_news in zip(kept, wanted, cancelled, news, strict=True)
    ]


def _jobs_of_over(item: Kept) -> list[ScheduledTransition]:
    """Return the scheduled jobs of a challenge that is over; none where it is not.

    Those with its id, and those of its project that name no challenge.
    """
    if item.verdict is not Verdict.OVER:
        return []
    challenge = item.reading.challenge
    return list(
        ScheduledTransition.objects.filter(
            Q(challenge_id=challenge.challenge_id)
            | Q(challenge_id=None, project_id=challenge.project_id),
            status=TransitionStatus.SCHEDULED,
        )
    )


def _cancel_over(item: Kept, *, actor: Actor, now: datetime, proven: Proven) -> list[str]:
    """Cancel the scheduled jobs of a challenge that is over; return their ids."""
    jobs = _jobs_of_over(item)
    if not jobs:
        return []
    hold_scheduled(jobs, proven=proven)
    return cancel_scheduled(
        jobs,
        actor=actor,
        reason=f"the challenge is {item.reading.challenge.status} ({item.reading.reason})",
        now=now,
    )
