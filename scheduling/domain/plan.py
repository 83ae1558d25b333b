"""Planning: which transitions should exist, and how that differs from the jobs there are.

Pure: values in, values out. Carrying it out is up to `services.apply_challenge`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from scheduling.domain.challenges import Challenge, Phase, Reading, Scope
from scheduling.domain.lifecycle import LIVE, TransitionKind, TransitionStatus
from scheduling.domain.phases import format_instant


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What upstream wants of one end of one phase.

    due_at: when it shall happen; None where upstream gives no instant, or where it
        `has_happened`.
    same_as: instants that mean the same word of upstream. A START held back by its
        predecessor is still the START of its own scheduled instant: what was settled
        for one of these is settled for all.
    contradiction: why the phase's instants can't all be meant; otherwise empty.
    """

    phase: Phase
    kind: TransitionKind
    due_at: datetime | None = None
    same_as: frozenset[datetime] = field(default_factory=frozenset)
    has_happened: bool = False
    contradiction: str = ""


def plan_transitions(reading: Reading) -> list[Expected]:
    """Return what should exist of an ACTIVE challenge (contract, sections 6 and 8).

    For each phase a START unless it has started, and an END unless it has ended; where
    only ends were told, these. Of a phase that contradicts itself nothing is known.
    """
    phases = reading.challenge.phases
    if reading.scope is Scope.ENDS:
        return [_end(phase) for phase in phases]
    return [
        expected for phase in phases for expected in _both_ends(phase, reading.challenge)
    ]


def _both_ends(phase: Phase, challenge: Challenge) -> tuple[Expected, Expected]:
    """Return the phase's START and END."""
    contradiction = find_contradiction(phase)
    if contradiction:
        start, end = (
            Expected(phase=phase, kind=kind, contradiction=contradiction)
            for kind in (TransitionKind.START, TransitionKind.END)
        )
        return start, end
    return _start(phase, challenge), _end(phase)


def find_contradiction(phase: Phase) -> str:
    """Return why a phase's instants can't all be meant; empty where they can.

    What has started or ended already leaves no question open.
    """
    start, end = phase.scheduled_start_at, phase.scheduled_end_at
    has_begun = phase.actual_start_at is not None or phase.actual_end_at is not None
    if has_begun or start is None or end is None or start <= end:
        return ""
    return (
        f"it is to end at {format_instant(end)}, before its start at "
        f"{format_instant(start)}"
    )


def _start(phase: Phase, challenge: Challenge) -> Expected:
    """Return the phase's START: not before the END of the phase that it follows."""
    # What has ended has started, also where upstream forgot to say so.
    if phase.actual_start_at is not None or phase.actual_end_at is not None:
        return Expected(phase=phase, kind=TransitionKind.START, has_happened=True)
    own = phase.scheduled_start_at
    if own is None:
        return Expected(phase=phase, kind=TransitionKind.START)
    before = challenge.find_predecessor(phase)
    ends = _ends(before) if before else []
    return Expected(
        phase=phase,
        kind=TransitionKind.START,
        # A predecessor that ended late has ended at its scheduled instant all the same:
        # otherwise each START would move by those milliseconds, once it is done.
        due_at=max(own, min(ends)) if ends else own,
        same_as=frozenset({own, *(max(own, end) for end in ends)}),
    )


def _ends(phase: Phase) -> list[datetime]:
    """Return the instants at which a phase ends or has ended."""
    return [end for end in (phase.scheduled_end_at, phase.actual_end_at) if end is not None]


def _end(phase: Phase) -> Expected:
    """Return the phase's END."""
    if phase.actual_end_at is not None:
        return Expected(phase=phase, kind=TransitionKind.END, has_happened=True)
    due_at = phase.scheduled_end_at
    return Expected(
        phase=phase,
        kind=TransitionKind.END,
        due_at=due_at,
        same_as=frozenset() if due_at is None else frozenset({due_at}),
    )


class Settled(Protocol):
    """What is remembered of an identity whose rows were cleaned up."""

    @property
    def due_at(self) -> datetime:
        """When it was due."""
        ...

    @property
    def upstream_at(self) -> datetime | None:
        """The instant that upstream showed for it."""
        ...


class Job(Settled, Protocol):
    """What planning asks of a job's row."""

    @property
    def current_status(self) -> TransitionStatus:
        """Where it stands."""
        ...

    @property
    def is_overridden(self) -> bool:
        """Whether a person decided its fate."""
        ...

    @property
    def forced_at(self) -> datetime | None:
        """When a person demanded it at once."""
        ...

    @property
    def replaced_by(self) -> str:
        """The job that took its place, or empty."""
        ...


JobT = TypeVar("JobT", bound=Job)
# Without a bound: mypy would judge it while the fields of Django's models are unknown.
Row = TypeVar("Row")


class Finding(StrEnum):
    """What planning says about one transition; each has exactly one finding.

    SCHEDULE: it has no job, and gets one for its instant ahead.
    FIRE: it has no job, and its instant is past: the job it gets fires at once.
    EXPIRE: as FIRE, but too old for that: the job it gets is expired from the start.
    ASK: as EXPIRE, however young: whether it still makes sense a person decides.
    MOVE: its live job stands at another instant.
    CANCEL: it has happened without us, and its live job has nothing left to do.
    UNCHANGED: all is as it should be.
    RUNNING: its job runs, or a person demanded it now: that is left to finish.
    OVERRIDDEN: a person moved its live job from the instant that upstream still shows.
    SETTLED: for this instant it was completed, has failed or expired, or a person
        cancelled it.
    TOO_FAR: beyond SCHEDULER_MAX_SCHEDULE_ADVANCE; a later reading takes it up.
    UNDATED: upstream gives no instant.
    CONTRADICTORY: upstream's instants contradict each other: nothing is touched.
    """

    SCHEDULE = "schedule"
    FIRE = "fire"
    EXPIRE = "expire"
    ASK = "ask"
    MOVE = "move"
    CANCEL = "cancel"
    UNCHANGED = "unchanged"
    RUNNING = "running"
    OVERRIDDEN = "overridden"
    SETTLED = "settled"
    TOO_FAR = "too_far"
    UNDATED = "undated"
    CONTRADICTORY = "contradictory"


NEEDS_A_JOB = frozenset({Finding.SCHEDULE, Finding.FIRE, Finding.EXPIRE, Finding.ASK})
TOUCHES_A_JOB = frozenset({Finding.MOVE, Finding.CANCEL})


class Decision(StrEnum):
    """What becomes of a transition found overdue without a job.

    FIRE: it gets a job that fires at once.
    EXPIRE, ASK: it gets one that is expired from the start, for a person to run or
        cancel; they differ in what the audit gives as reason.
    """

    FIRE = "fire"
    EXPIRE = "expire"
    ASK = "ask"


@dataclass(frozen=True, kw_only=True)
class Difference(Generic[Row]):
    """A transition as upstream wants it, its live job if there is one, the finding."""

    expected: Expected
    live: Row | None
    finding: Finding


@dataclass(frozen=True, kw_only=True)
class Overdue:
    """A transition found overdue without a job.

    phase: as upstream shows it. due_at: when it should have happened.
    """

    phase: Phase
    kind: TransitionKind
    due_at: datetime
    now: datetime
    age_limit: timedelta

    @property
    def age(self) -> timedelta:
        """For how long it has been overdue."""
        return self.now - self.due_at

    @property
    def is_too_old(self) -> bool:
        """Whether it is overdue by more than the age limit."""
        return self.age > self.age_limit


Decide = Callable[[Overdue], Decision]


def decide_by_age(overdue: Overdue) -> Decision:
    """Return what becomes of an overdue transition where nobody decides otherwise."""
    return Decision.EXPIRE if overdue.is_too_old else Decision.FIRE


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where the present stands, and how far from it a job may be made.

    decide: what becomes of a transition found overdue without a job.
    """

    now: datetime
    age_limit: timedelta
    longest_advance: timedelta
    decide: Decide = decide_by_age

    def find(self, expected: Expected, due_at: datetime) -> Finding:
        """Return what becomes of a transition that needs a job for that instant."""
        if due_at - self.now > self.longest_advance:
            return Finding.TOO_FAR
        if due_at > self.now:
            return Finding.SCHEDULE
        overdue = Overdue(
            phase=expected.phase,
            kind=expected.kind,
            due_at=due_at,
            now=self.now,
            age_limit=self.age_limit,
        )
        return Finding(self.decide(overdue).value)


def diff(
    expected: Expected,
    jobs: Sequence[JobT],
    *,
    remembered: Sequence[Settled],
    limits: Limits,
) -> Difference[JobT]:
    """Compare what upstream wants of a transition with what there is of it.

    Args:
        jobs: All rows of the transition's identity, live and past.
        remembered: What is known of rows that were cleaned up.
    """
    live = next((job for job in jobs if job.current_status in LIVE), None)
    if expected.contradiction:
        finding = Finding.CONTRADICTORY
    elif expected.has_happened:
        finding = Finding.UNCHANGED if live is None else _may_touch(live, Finding.CANCEL)
    elif expected.due_at is None:
        finding = Finding.UNDATED
    elif live is not None:
        finding = _compare(live, expected, expected.due_at)
    elif _is_settled(expected.same_as, jobs, remembered):
        finding = Finding.SETTLED
    else:
        finding = limits.find(expected, expected.due_at)
    return Difference(expected=expected, live=live, finding=finding)


def _may_touch(live: Job, finding: Finding) -> Finding:
    """Return the finding, unless the job runs or is about to by a person's demand."""
    is_running = live.current_status is TransitionStatus.RUNNING
    return Finding.RUNNING if is_running or live.forced_at is not None else finding


def _compare(live: Job, expected: Expected, due_at: datetime) -> Finding:
    """Return what becomes of a live job whose transition is due then."""
    if live.due_at == due_at:
        return Finding.UNCHANGED
    if live.is_overridden and live.upstream_at in expected.same_as:
        return Finding.OVERRIDDEN
    return _may_touch(live, Finding.MOVE)


def _is_settled(
    instants: Collection[datetime], jobs: Sequence[Job], remembered: Sequence[Settled]
) -> bool:
    """Tell whether the transition is settled for one of these instants."""
    return any(instant in instants for instant in _settled_instants(jobs, remembered))


def _settled_instants(
    jobs: Sequence[Job], remembered: Sequence[Settled]
) -> Iterator[datetime | None]:
    """Yield the instants for which no automatism makes the transition again.

    A failed or expired one is left to the person who has to deal with it.
    """
    for job in jobs:
        status = job.current_status
        is_cancelled = status is TransitionStatus.CANCELLED
        if is_cancelled and (not job.is_overridden or job.replaced_by):
            continue
        yield from (job.due_at, job.upstream_at)
    for settled in remembered:
        yield from (settled.due_at, settled.upstream_at)
