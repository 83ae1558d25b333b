"""What an adjustment is made of: changes, conflicts, and the plan that comes of them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from scheduling.domain.errors import OutsideWindowError
from scheduling.domain.lifecycle import TransitionKind

# Project, phase, and which end of it.
Identity = tuple[str, str, TransitionKind]
# Says why nothing may be scheduled at an instant; None where something may.
Window = Callable[[datetime], OutsideWindowError | None]
SCHEDULE_CONFLICT = "schedule_conflict"


class OnConflict(StrEnum):
    """What becomes of changes that conflict.

    REJECT: they are reported and refused.
    SKIP: they are reported and left out; the others are made.
    SHIFT: a phase that would begin before its predecessor ends is moved, and what
        follows it; all other conflicts are refused.
    """

    REJECT = "reject"
    SKIP = "skip"
    SHIFT = "shift"


class ConflictType(StrEnum):
    """How a change conflicts: with another one, with what stands, or with the present."""

    DUPLICATE_CHANGE = "duplicate_change"
    END_BEFORE_START = "end_before_start"
    SUCCESSOR_BEFORE_PREDECESSOR = "successor_before_predecessor"
    JOB_RUNNING = "job_running"
    PAST_TIME = "past_time"


@dataclass(frozen=True, kw_only=True)
class ScheduleChange:
    """One transition that shall happen at another instant.

    new_due_at: aware UTC, whole milliseconds.
    phase_type_name: of a job that has to be made; None: only a live job is moved.
    """

    project_id: str
    phase_id: str
    kind: TransitionKind
    new_due_at: datetime
    phase_type_name: str | None = None
    reason: str | None = None

    @property
    def identity(self) -> Identity:
        """The transition."""
        return self.project_id, self.phase_id, self.kind


@dataclass(frozen=True, kw_only=True)
class LiveJob:
    """A scheduled or running job; `due_at` in whole milliseconds."""

    job_id: str
    due_at: datetime
    is_running: bool = False


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """One conflict that was found.

    conflicts_with: the other phase's id, or the phase's own where its own START, END or
        second change is meant; of a running job its id; None for an instant in the past.
    """

    type: ConflictType
    phase_id: str
    conflicts_with: str | None
    detail: str


@dataclass(frozen=True, kw_only=True)
class ChangeError:
    """Why one change, by its place in the request, can't be made."""

    index: int
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Move:
    """A transition that gets another instant, or a job.

    job: the live one, to be replaced; None: one has to be made.
    index: the change that names it, or that made it follow.
    """

    identity: Identity
    job: LiveJob | None
    due_at: datetime
    index: int


@dataclass(frozen=True, kw_only=True)
class AdjustmentPlan:
    """What becomes of all changes.

    moves: what is to be done; nothing where the request is refused as a whole.
    unchanged: places of the changes whose instant is the present one.
    conflicts: all that were found, also those that were left out or shifted away.
    code: why nothing is done; empty where it succeeds.
    """

    moves: tuple[Move, ...]
    unchanged: tuple[int, ...]
    conflicts: tuple[Conflict, ...]
    errors: tuple[ChangeError, ...]
    code: str = ""

    @property
    def is_success(self) -> bool:
        """Whether it is not refused as a whole."""
        return not self.code
