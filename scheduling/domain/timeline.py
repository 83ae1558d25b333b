"""The instants as an adjustment would leave them, and how they conflict."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from scheduling.domain.changes import (
    ChangeError,
    Conflict,
    ConflictType,
    Identity,
    LiveJob,
)
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import format_instant
from scheduling.domain.relations import PhaseKey, Relations

START, END = TransitionKind.START, TransitionKind.END


@dataclass(frozen=True, kw_only=True)
class Target:
    """An instant that a transition shall have, and the change it is owed to."""

    due_at: datetime
    index: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A conflict or an error, and the changes that it is owed to."""

    found: Conflict | ChangeError
    owed_to: AbstractSet[int]


@dataclass(kw_only=True)
class Timeline:
    """The instants as they would be: those aimed at, over those that stand.

    resolved: conflicts that a shift took away; stuck: phases that it could not move.
    """

    targets: dict[Identity, Target]
    live: Mapping[Identity, LiveJob]
    relations: Relations
    resolved: list[Conflict] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    stuck: set[PhaseKey] = field(default_factory=set)

    def at(self, identity: Identity) -> datetime | None:
        """Return when a transition would happen; None where nothing says so.

        A live job of what upstream shows as done says nothing.
        """
        if target := self.targets.get(identity):
            return target.due_at
        job = self.live.get(identity)
        return None if job is None or self.relations.is_done(*identity) else job.due_at

    def is_moved(self, identity: Identity) -> bool:
        """Tell whether a transition would happen at another instant than now."""
        target, job = self.targets.get(identity), self.live.get(identity)
        return target is not None and (job is None or job.due_at != target.due_at)

    def begins(self, key: PhaseKey) -> Identity:
        """Return what stands for a phase's beginning: its END where it has no START."""
        start = (*key, START)
        return (*key, END) if self.at(start) is None else start

    def moved_phases(self) -> list[PhaseKey]:
        """Return the phases of which something is moved, each once."""
        moved = (identity[:2] for identity in self.targets if self.is_moved(identity))
        return list(dict.fromkeys(moved))

    def owed_to(self, *identities: Identity) -> set[int]:
        """Return the changes to which the instants of transitions are owed."""
        return {self.targets[one].index for one in identities if one in self.targets}


def compare(timeline: Timeline) -> Iterator[Finding]:
    """Yield the conflicts between instants of which at least one is moved."""
    moved = timeline.moved_phases()
    for key in moved:
        conflict = _end_before_start(timeline, key)
        if conflict is not None:
            owed_to = timeline.owed_to((*key, START), (*key, END))
            yield Finding(found=conflict, owed_to=owed_to)
    with_followers = (one for key in moved for one in (key, *timeline.relations.after(key)))
    for key in dict.fromkeys(with_followers):
        overlap = overlap_of(timeline, key)
        if overlap is not None and key not in timeline.stuck:
            owed_to = timeline.owed_to(overlap.end, overlap.first)
            yield Finding(found=too_early(key, overlap), owed_to=owed_to)


def _end_before_start(timeline: Timeline, key: PhaseKey) -> Conflict | None:
    """Return the conflict of a phase that would end before it begins."""
    starts_at, ends_at = timeline.at((*key, START)), timeline.at((*key, END))
    if starts_at is None or ends_at is None or ends_at >= starts_at:
        return None
    return Conflict(
        type=ConflictType.END_BEFORE_START,
        phase_id=key[1],
        conflicts_with=key[1],
        detail=f"phase {key[1]} would end at {format_instant(ends_at)}, before it starts "
        f"at {format_instant(starts_at)}",
    )


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The END of a phase, and the earlier beginning of one that follows it."""

    end: Identity
    ends_at: datetime
    first: Identity
    begins_at: datetime


def overlap_of(timeline: Timeline, key: PhaseKey) -> Overlap | None:
    """Return how a phase would begin before its predecessor ends; None if it would not.

    None also where neither of the two instants is moved: that stood so before.
    """
    before = timeline.relations.before(key)
    if before is None:
        return None
    end, first = (*before, END), timeline.begins(key)
    ends_at, begins_at = timeline.at(end), timeline.at(first)
    if ends_at is None or begins_at is None or begins_at >= ends_at:
        return None
    if not (timeline.is_moved(end) or timeline.is_moved(first)):
        return None
    return Overlap(end=end, ends_at=ends_at, first=first, begins_at=begins_at)


def too_early(key: PhaseKey, overlap: Overlap) -> Conflict:
    """Return the conflict of a phase that would begin before its predecessor ends."""
    return Conflict(
        type=ConflictType.SUCCESSOR_BEFORE_PREDECESSOR,
        phase_id=key[1],
        conflicts_with=overlap.end[1],
        detail=f"the {overlap.first[2]} of phase {key[1]} at "
        f"{format_instant(overlap.begins_at)} would come before the END of its "
        f"predecessor {overlap.end[1]} at {format_instant(overlap.ends_at)}",
    )
