"""What a verification found: ten invariants, each with its violations."""

from dataclasses import dataclass, field
from typing import Any

NAMES: dict[int, str] = {
    1: "no early fire",
    2: "at most one fire per job",
    3: "status and position are one fact",
    4: "completed means on the topic",
    5: "nothing else is on the topic",
    6: "cancelled or replaced never fires",
    7: "nothing due stays silent",
    8: "every change has its audit entry",
    9: "the audit is whole",
    10: "stale hands are powerless",
}
# These have nothing to look at without the topic.
ONLY_ON_THE_TOPIC = frozenset({4, 5})
MOST_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One broken promise; `job_id` is None where it concerns no single job."""

    job_id: str | None
    detail: str


@dataclass
class Invariant:
    """One promise, and what looking at it brought.

    checked: how many jobs, records or entries were looked at.
    violations: the first ones; `violation_count` counts all.
    skipped: what could not be judged and need not be, such as jobs whose record the
        topic's retention has deleted.
    unchecked: why something that should have been checked could not be.
    """

    id: int
    checked: int = 0
    violations: list[Violation] = field(default_factory=list)
    violation_count: int = 0
    skipped: int = 0
    unchecked: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The promise in words."""
        return NAMES[self.id]

    @property
    def holds(self) -> bool:
        """Whether it was checked and nothing was found."""
        return not self.violation_count and not self.unchecked


@dataclass
class Report:
    """All ten, in order."""

    with_topic: bool
    invariants: dict[int, Invariant] = field(
        default_factory=lambda: {number: Invariant(number) for number in NAMES}
    )

    @property
    def holds(self) -> bool:
        """Whether all that was asked for was checked and holds."""
        return all(invariant.holds for invariant in self.invariants.values())

    def as_json(self) -> dict[str, Any]:
        """Return the document of `verify --json` (contract, section 9).

        What could not be checked stands among the violations too, without a job: whoever
        reads only those must not take silence for health.
        """
        return {
            "ok": self.holds,
            "invariants": [
                {
                    "id": invariant.id,
                    "name": invariant.name,
                    "checked": invariant.checked,
                    "violations": [
                        *(
                            {"jobId": None, "detail": f"could not be checked: {why}"}
                            for why in invariant.unchecked
                        ),
                        *(
                            {"jobId": violation.job_id, "detail": violation.detail}
                            for violation in invariant.violations
                        ),
                    ],
                    "violationCount": invariant.violation_count,
                    "skipped": invariant.skipped,
                }
                for invariant in self.invariants.values()
            ],
        }
