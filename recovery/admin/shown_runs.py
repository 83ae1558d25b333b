"""How the admin shows a run: its status as a word, its counters as a bar of kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from recovery.models import RecoveryRun
from recovery.results import COUNTERS, OPEN, RunStatus

_WORDS: Final[Mapping[str, str]] = {
    "upcoming_phases_scheduled": "scheduled",
    "rescheduled_phases": "moved",
    "overdue_phases_processed": "fired late",
    "expired_phases": "expired",
    "cancelled_jobs": "cancelled",
    "unchanged_phases": "unchanged",
    "skipped_phases": "skipped",
    "failed_phases": "failed",
}
_KINDS: Final[Mapping[RunStatus, str]] = {
    RunStatus.NOT_STARTED: "quiet",
    RunStatus.IN_PROGRESS: "info",
    RunStatus.COMPLETED: "good",
    RunStatus.COMPLETED_WITH_ERRORS: "warning",
    RunStatus.FAILED: "bad",
    RunStatus.TIMED_OUT: "bad",
    RunStatus.DISABLED: "quiet",
}


@dataclass(frozen=True)
class Part:
    """One kind of transitions in a run's bar; `left` and `width` in per cent."""

    name: str
    word: str
    count: int
    left: str
    width: str


@dataclass(frozen=True)
class ShownRun:
    """A run as the pages show it; its counters in their order, those that are not zero."""

    row: RecoveryRun
    word: str
    kind: str
    parts: Sequence[Part]
    total: int

    @property
    def is_open(self) -> bool:
        """Whether it waits or is carried out."""
        return self.row.current_status in OPEN

    @property
    def took_ms(self) -> int | None:
        """How long it took; None until it has ended."""
        return self.row.execution_ms

    @property
    def summary(self) -> str:
        """Its counters in words."""
        told = [f"{part.count} {part.word}" for part in self.parts]
        if self.row.rescued_jobs:
            told.append(f"{self.row.rescued_jobs} rescued")
        return ", ".join(told) or ("nothing yet" if self.is_open else "nothing to do")


def show_run(row: RecoveryRun) -> ShownRun:
    """Return a run as the pages show it."""
    counts = {name: int(getattr(row, name)) for name in COUNTERS}
    total = sum(counts.values())
    parts, left = [], 0.0
    for name, count in counts.items():
        if not count:
            continue
        width = 100 * count / total
        parts.append(
            Part(name, _WORDS[name], count, left=f"{left:.2f}%", width=f"{width:.2f}%")
        )
        left += width
    status = row.current_status
    return ShownRun(
        row=row,
        word=status.value.replace("_", " ").lower(),
        kind=_KINDS[status],
        parts=parts,
        total=total,
    )
