"""What upstream tells of a challenge: the challenge, its phases, and the telling itself."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

# Who is named as a job's operator where upstream names nobody.
NOBODY = "system"
ACTIVE = "ACTIVE"


class Scope(StrEnum):
    """How much a reading says about each phase it lists.

    WHOLE: everything, so that an instant that is absent does not exist.
    ENDS: its name and its end's instant; all else stays as read before.
    """

    WHOLE = "whole"
    ENDS = "ends"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stage of a challenge; an instant that upstream does not give is None.

    phase_id: canonical id of the phase itself (`phases[].id`).
    template_id: canonical id of its template (`phases[].phaseId`), or empty.
    predecessor: canonical id of another phase, or of its template; or empty.
    """

    phase_id: str
    name: str
    template_id: str = ""
    scheduled_start_at: datetime | None = None
    scheduled_end_at: datetime | None = None
    actual_start_at: datetime | None = None
    actual_end_at: datetime | None = None
    predecessor: str = ""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """A challenge with the phases that were told, each `phase_id` once."""

    challenge_id: str
    project_id: str
    status: str
    operator: str = NOBODY
    name: str = ""
    phases: tuple[Phase, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether its transitions are to happen."""
        return self.status == ACTIVE

    def find_predecessor(self, phase: Phase) -> Phase | None:
        """Return the phase that `phase` follows, by its own or its template's id."""
        if not phase.predecessor:
            return None
        others = [other for other in self.phases if other.phase_id != phase.phase_id]
        for other in others:
            if other.phase_id == phase.predecessor:
                return other
        for other in others:
            if other.template_id == phase.predecessor:
                return other
        return None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One telling of a challenge: what was read, where, and when it was said.

    source: where it was read, in words for the audit.
    said_at: aware UTC instant of the message; older ones lose against newer ones. None
        for what was asked for and answered now.
    asked_at: when it was asked for, where the answer was not applied at once: what was
        read or told since is newer.
    """

    challenge: Challenge
    source: str
    scope: Scope = Scope.WHOLE
    said_at: datetime | None = None
    asked_at: datetime | None = None

    @property
    def reason(self) -> str:
        """Why jobs change because of it, for the audit."""
        return f"{self.source}, by {self.challenge.operator}"
