"""What a run of recovery found and did, in the contract's words."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from typing_extensions import override

from scheduling.domain.phases import wire_id
from scheduling.domain.plan import Finding

# A run that meets more names the first ones; the counters count all.
MOST_ERRORS: Final = 1_000
LONGEST_REASON: Final = 300


class Trigger(StrEnum):
    """What made a run begin."""

    STARTUP = "startup"
    SYNC = "sync"
    MANUAL = "manual"


class RunStatus(StrEnum):
    """Where a run stands.

    NOT_STARTED waits for a process that carries it out.
    IN_PROGRESS is carried out by a process that renews its lease.
    COMPLETED has looked at everything there was.
    COMPLETED_WITH_ERRORS has done what it could; `errors` names the rest.
    FAILED could do nothing, or its process died.
    TIMED_OUT took longer than RECOVERY_STARTUP_TIMEOUT: the rest is the next run's.
    DISABLED found RECOVERY_ENABLED off.
    """

    NOT_STARTED = "NOT_STARTED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_ERRORS = "COMPLETED_WITH_ERRORS"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    DISABLED = "DISABLED"


OPEN: Final = frozenset({RunStatus.NOT_STARTED, RunStatus.IN_PROGRESS})

# The counters of transitions by column and outside name: each transition is in one.
COUNTERS: Final[Mapping[str, str]] = {
    "upcoming_phases_scheduled": "upcomingPhasesScheduled",
    "rescheduled_phases": "rescheduledPhases",
    "overdue_phases_processed": "overduePhasesProcessed",
    "expired_phases": "expiredPhases",
    "cancelled_jobs": "cancelledJobs",
    "unchanged_phases": "unchangedPhases",
    "skipped_phases": "skippedPhases",
    "failed_phases": "failedPhases",
}
COUNTER_OF: Final[Mapping[Finding, str]] = {
    Finding.SCHEDULE: "upcoming_phases_scheduled",
    Finding.FIRE: "overdue_phases_processed",
    Finding.EXPIRE: "expired_phases",
    Finding.ASK: "expired_phases",
    Finding.MOVE: "rescheduled_phases",
    Finding.CANCEL: "cancelled_jobs",
    Finding.UNCHANGED: "unchanged_phases",
    Finding.RUNNING: "unchanged_phases",
    Finding.OVERRIDDEN: "unchanged_phases",
    Finding.SETTLED: "unchanged_phases",
    Finding.TOO_FAR: "skipped_phases",
    Finding.UNDATED: "skipped_phases",
    Finding.CONTRADICTORY: "skipped_phases",
}
# Of these a phase is left out because of what upstream says of it.
INVALID: Final = frozenset({Finding.UNDATED, Finding.CONTRADICTORY})


@dataclass
class Tally:
    """What a run has counted so far.

    counts: transitions, by counter.
    rescued_jobs: jobs freed from dead owners; they are counted beside.
    errors: canonical phase id, or empty where no one phase is to blame, and the reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rescued_jobs: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many transitions were looked at."""
        return self.counts.total()

    @property
    def changes(self) -> int:
        """How many jobs were made, moved, cancelled, expired or rescued."""
        quiet = ("unchanged_phases", "skipped_phases", "failed_phases")
        return self.total - sum(self.counts[name] for name in quiet) + self.rescued_jobs

    def columns(self) -> dict[str, int]:
        """Return all counters of transitions, by column."""
        return {name: self.counts[name] for name in COUNTERS}

    def find(self, finding: Finding, *, phase_id: str, why: str = "") -> None:
        """Count one transition by what was found of it.

        Args:
            why: What is wrong with its phase, where something is.
        """
        self.counts[COUNTER_OF[finding]] += 1
        if why:
            self.name(phase_id, why)

    def fail(self, phase_ids: Iterable[str], reason: str, *, transitions: int = 2) -> None:
        """Count the transitions of these phases as failed, and name each phase."""
        for phase_id in phase_ids:
            self.counts["failed_phases"] += transitions
            self.name(phase_id, reason)

    def name(self, phase_id: str, reason: str) -> None:
        """Name a phase, or none, with what stood in the way; each once."""
        error = (phase_id, reason[:LONGEST_REASON])
        if len(self.errors) < MOST_ERRORS and error not in self.errors[-2:]:
            self.errors.append(error)

    def shown_errors(self) -> list[dict[str, Any]]:
        """Return the errors as the outside sees them."""
        return [
            {"phaseId": wire_id(phase_id) if phase_id else None, "reason": reason}
            for phase_id, reason in self.errors
        ]


@dataclass(frozen=True, kw_only=True)
class RecoveryResult(Mapping[str, Any]):
    """What became of a run; its names are the contract's, as attributes and as keys.

    Instants are texts as the API shows them; `executionTime` is in milliseconds.

    Source: contract, section 6.
    """

    # ruff: noqa: N815 -- fields are named as on the wire
    runId: str
    trigger: str
    status: str
    dryRun: bool
    projectId: int | str | None = None
    totalPhasesProcessed: int = 0
    upcomingPhasesScheduled: int = 0
    rescheduledPhases: int = 0
    overduePhasesProcessed: int = 0
    expiredPhases: int = 0
    rescuedJobs: int = 0
    cancelledJobs: int = 0
    unchangedPhases: int = 0
    skippedPhases: int = 0
    failedPhases: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    startedAt: str | None = None
    finishedAt: str | None = None
    executionTime: int | None = None

    @override
    def __getitem__(self, name: str) -> Any:
        if name not in _NAMES:
            raise KeyError(name)
        return getattr(self, name)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    @override
    def __len__(self) -> int:
        return len(_NAMES)


_NAMES: Final = tuple(one.name for one in fields(RecoveryResult))
