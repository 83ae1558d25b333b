"""What whoever waits for a run is told while it goes on."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.plan import Finding


@dataclass(frozen=True, kw_only=True)
class PlannedChange:
    """One change that a dry run would make.

    old_due_at, new_due_at: where the transition's job stands, and where it would.
    """

    project_id: str
    phase_id: str
    phase_name: str
    kind: TransitionKind
    finding: Finding
    old_due_at: datetime | None = None
    new_due_at: datetime | None = None


class Observer(Protocol):
    """Who is told; it must neither wait nor use the database."""

    def looked_at(self, challenges: int, *, of: int) -> None:
        """Learn how many challenges were looked at, of how many that are listed."""
        ...

    def would_change(self, change: PlannedChange) -> None:
        """Learn what a dry run would do."""
        ...


class Nobody:
    """Is told, and does nothing."""

    def looked_at(self, challenges: int, *, of: int) -> None:
        """Do nothing."""

    def would_change(self, change: PlannedChange) -> None:
        """Do nothing."""
