"""Planning an adjustment: many changes of a schedule, judged by themselves and together.

Pure: values in, values out. A dry run and a real one are planned here by the same code;
reading what stands and carrying a plan out is up to `services.adjust`.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scheduling.domain.changes import (
    SCHEDULE_CONFLICT,
    AdjustmentPlan,
    ChangeError,
    Conflict,
    ConflictType,
    Identity,
    LiveJob,
    Move,
    OnConflict,
    ScheduleChange,
    Window,
)
from scheduling.domain.errors import (
    JobNotFoundError,
    OutsideWindowError,
    PastScheduleTimeError,
)
from scheduling.domain.phases import format_instant
from scheduling.domain.relations import PhaseKey, Relations
from scheduling.domain.timeline import (
    END,
    START,
    Finding,
    Overlap,
    Target,
    Timeline,
    compare,
    overlap_of,
    too_early,
)


def plan_adjustment(
    changes: Sequence[ScheduleChange],
    *,
    live: Mapping[Identity, LiveJob],
    relations: Relations,
    on_conflict: OnConflict,
    is_atomic: bool,
    window: Window,
) -> AdjustmentPlan:
    """Return what becomes of the changes.

    Args:
        live: The live jobs of the phases concerned (see `Relations.around`).
        relations: Of what was last read of their challenges.
        is_atomic: Whether one error or refused conflict refuses all.
        window: Judges instants, those of shifted jobs too.

    Source: contract, section 5.
    """
    draft = _Draft(
        changes=changes,
        live=live,
        relations=relations,
        on_conflict=on_conflict,
        is_atomic=is_atomic,
        window=window,
    )
    draft.leave_out_duplicates()
    draft.judge_each()
    timeline = draft.judge_together()
    return draft.plan(timeline)


@dataclass(kw_only=True)
class _Draft:
    """A plan on its way. `asked`: the changes that are still in it, by their places."""

    changes: Sequence[ScheduleChange]
    live: Mapping[Identity, LiveJob]
    relations: Relations
    on_conflict: OnConflict
    is_atomic: bool
    window: Window
    conflicts: list[Conflict] = field(default_factory=list)
    errors: list[ChangeError] = field(default_factory=list)
    asked: dict[int, ScheduleChange] = field(init=False)

    def __post_init__(self) -> None:
        self.asked = dict(enumerate(self.changes))

    @property
    def rejected(self) -> bool:
        """Whether a conflict was found that is refused, not just left out."""
        return bool(self.conflicts) and self.on_conflict is not OnConflict.SKIP

    @property
    def is_refused(self) -> bool:
        """Whether nothing will be done any more, whatever else is found."""
        return self.is_atomic and (self.rejected or bool(self.errors))

    def leave_out_duplicates(self) -> None:
        """Find changes of one transition: which of them is meant, nobody can know."""
        places: dict[Identity, list[int]] = {}
        for index, change in self.asked.items():
            places.setdefault(change.identity, []).append(index)
        for (_, phase_id, kind), same in places.items():
            if len(same) > 1:
                conflict = Conflict(
                    type=ConflictType.DUPLICATE_CHANGE,
                    phase_id=phase_id,
                    conflicts_with=phase_id,
                    detail=f"changes {_listed(same)} are all for the {kind} of phase "
                    f"{phase_id}",
                )
                self._note([Finding(found=conflict, owed_to=set(same))])

    def judge_each(self) -> None:
        """Judge each change by itself."""
        for index, change in list(self.asked.items()):
            found = self._judge(index, change)
            if found is not None:
                self._note([Finding(found=found, owed_to={index})])

    def _judge(self, index: int, change: ScheduleChange) -> Conflict | ChangeError | None:
        """Return what stands in the way of a change, whatever the others say."""
        job = self.live.get(change.identity)
        if job is not None:
            if job.due_at == change.new_due_at:
                return None
            if job.is_running:
                return _running(change.phase_id, job)
        elif change.phase_type_name is None:
            return ChangeError(
                index=index,
                code=JobNotFoundError.code,
                message=f"the {change.kind} of phase {change.phase_id} has no live job; "
                "with phaseTypeName one is made",
            )
        error = self.window(change.new_due_at)
        if isinstance(error, PastScheduleTimeError):
            return Conflict(
                type=ConflictType.PAST_TIME,
                phase_id=change.phase_id,
                conflicts_with=None,
                detail=f"the {change.kind} of phase {change.phase_id}: "
                f"{format_instant(change.new_due_at)} is in the past",
            )
        return None if error is None else _error(index, error)

    def judge_together(self) -> Timeline:
        """Compare what would be; leave out what conflicts until the rest does not.

        Each round but the last leaves out at least one change.
        """
        for _ in range(len(self.asked) + 1):
            timeline = Timeline(
                targets={
                    change.identity: Target(due_at=change.new_due_at, index=index)
                    for index, change in self.asked.items()
                },
                live=self.live,
                relations=self.relations,
            )
            if self.on_conflict is OnConflict.SHIFT:
                self._shift(timeline)
            findings = [*timeline.findings, *compare(timeline)]
            self._note(findings)
            if not findings or self.is_refused:
                return timeline
        raise AssertionError("unreachable")

    def _note(self, findings: Iterable[Finding]) -> None:
        """Keep what was found, and leave out the changes that it is owed to."""
        for finding in findings:
            if isinstance(finding.found, Conflict):
                self.conflicts.append(finding.found)
            else:
                self.errors.append(finding.found)
            for index in finding.owed_to:
                self.asked.pop(index, None)

    def _shift(self, timeline: Timeline) -> None:
        """Move phases that would begin before their predecessors end, and what follows.

        From the front to the back, so that each is looked at once, when the phase before
        it stands.
        """
        moved = timeline.moved_phases()
        after = [key for phase in moved for key in self.relations.after(phase)]
        seen = {*moved, *after}
        waiting = [(depth, *key) for key in seen if (depth := self.relations.depth(key))]
        heapq.heapify(waiting)
        while waiting:
            _, *names = heapq.heappop(waiting)
            key = (names[0], names[1])
            self._push_back(timeline, key)
            if not timeline.is_moved((*key, END)):
                continue
            for follower in self.relations.after(key):
                depth = self.relations.depth(follower)
                if depth and follower not in seen:
                    seen.add(follower)
                    heapq.heappush(waiting, (depth, *follower))

    def _push_back(self, timeline: Timeline, key: PhaseKey) -> None:
        """Move one phase to the end of the one before it, if it would begin earlier."""
        overlap = overlap_of(timeline, key)
        if overlap is None:
            return
        cause = timeline.owed_to(overlap.end) or timeline.owed_to(overlap.first)
        index = min(cause)
        wanted = dict(self._pushed(timeline, key, overlap))
        moved = [
            (job, due_at)
            for identity, due_at in wanted.items()
            if (job := self.live.get(identity)) is None or job.due_at != due_at
        ]
        for job, _ in moved:
            if job is not None and job.is_running:
                timeline.stuck.add(key)
                found = _running(key[1], job)
                timeline.findings.append(Finding(found=found, owed_to=cause))
                return
        for _, due_at in moved:
            error = self.window(due_at)
            if error is not None:
                finding = Finding(found=_error(index, error), owed_to=cause)
                timeline.findings.append(finding)
        timeline.resolved.append(too_early(key, overlap))
        for identity, due_at in wanted.items():
            own = timeline.targets.get(identity)
            timeline.targets[identity] = Target(
                due_at=due_at, index=own.index if own else index
            )

    def _pushed(
        self, timeline: Timeline, key: PhaseKey, overlap: "Overlap"
    ) -> Iterator[tuple[Identity, datetime]]:
        """Yield the instants that a phase gets when it begins as its predecessor ends.

        Its END keeps the duration; an END that the request itself names stays where it
        was asked for as long as that is not too early.
        """
        begins_at, end = overlap.ends_at, (*key, END)
        has_start = overlap.first != end
        if has_start:
            yield overlap.first, begins_at
        ends_at = timeline.at(end)
        if ends_at is None:
            return
        if has_start and end in timeline.targets and ends_at >= begins_at:
            return
        duration = self.relations.duration(key)
        if duration is None and has_start:
            duration = self._live_duration(key)
        new = max(ends_at, begins_at) if duration is None else begins_at + duration
        if new != ends_at:
            yield end, new

    def _live_duration(self, key: PhaseKey) -> timedelta | None:
        """Return how long a phase lasts by its live jobs."""
        start, end = self.live.get((*key, START)), self.live.get((*key, END))
        if start is None or end is None or end.due_at < start.due_at:
            return None
        return end.due_at - start.due_at

    def plan(self, timeline: Timeline) -> AdjustmentPlan:
        """Return the plan, once all has been judged."""
        moves = [] if self.is_refused else list(self._moves(timeline))
        unchanged = tuple(
            index
            for index, change in self.asked.items()
            if not timeline.is_moved(change.identity)
        )
        is_in_vain = not moves and not unchanged and (self.rejected or bool(self.errors))
        errors = tuple(sorted(self.errors, key=lambda error: error.index))
        code = ""
        if self.is_refused or is_in_vain:
            code = SCHEDULE_CONFLICT if self.rejected else errors[0].code
        return AdjustmentPlan(
            moves=tuple(moves),
            unchanged=unchanged,
            conflicts=(*self.conflicts, *timeline.resolved),
            errors=errors,
            code=code,
        )

    def _moves(self, timeline: Timeline) -> Iterator[Move]:
        """Yield what is to be done: the changes in their order, then what follows them."""
        for identity, target in timeline.targets.items():
            if timeline.is_moved(identity):
                yield Move(
                    identity=identity,
                    job=self.live.get(identity),
                    due_at=target.due_at,
                    index=target.index,
                )


def _running(phase_id: str, job: LiveJob) -> Conflict:
    """Return the conflict of a job that can't be moved any more."""
    return Conflict(
        type=ConflictType.JOB_RUNNING,
        phase_id=phase_id,
        conflicts_with=job.job_id,
        detail=f"job {job.job_id} is running",
    )


def _error(index: int, error: OutsideWindowError) -> ChangeError:
    """Return the error of a change."""
    return ChangeError(index=index, code=error.code, message=error.told)


def _listed(places: Sequence[int]) -> str:
    """Return places in a request as a list in words."""
    *most, last = map(str, places)
    return f"{', '.join(most)} and {last}"
