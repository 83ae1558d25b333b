"""What the verification that runs by itself last found: a word for home, and a page."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from typing_extensions import override

from autopilot_site.verification.report import NAMES, ONLY_ON_THE_TOPIC
from scheduling.models import VerificationResult
from scheduling.pages.base import AdminPage, admin_page
from scheduling.pages.texts import count_text

# As the rule AutopilotVerificationSilent has it: what was well so long ago is not known to
# be well now.
SILENT_AFTER: Final = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A result in a word, and what colours it (see `show_badge`).

    at: when it was found; None where nothing ever was.
    """

    text: str
    kind: str
    at: datetime | None = None


def judge(result: VerificationResult | None, *, now: datetime) -> Verdict:
    """Return what a result means now.

    A violation counts until a later run finds none, however old it is.
    """
    if result is None:
        return Verdict(text="unknown: none yet", kind="quiet")
    count, at = _count(result), result.finished_at
    if count:
        return Verdict(text=count_text(count, "violation"), kind="bad", at=at)
    if now - at > SILENT_AFTER:
        return Verdict(text="unknown since", kind="quiet", at=at)
    if result.unchecked:
        return Verdict(text="not all could be checked", kind="warning", at=at)
    return Verdict(text="no violations", kind="good", at=at)


def last_result() -> VerificationResult | None:
    """Return what was last found; the table has one row."""
    return VerificationResult.objects.first()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One invariant in the table.

    is_looked_at: whether the verification that runs by itself looks at it.
    """

    number: int
    name: str
    violations: int
    is_looked_at: bool


@admin_page
class Verification(AdminPage):
    """The ten invariants, and what was found against them."""

    path = "verification/"
    name = "verification"
    title = "Verification"
    template_name = "admin/verification.html"
    http_method_names = ["get", "head"]

    @override
    def context(self) -> dict[str, Any]:
        """Return the last result, invariant by invariant."""
        result = last_result()
        found = result.violations if result else {}
        return {
            "result": result,
            "verdict": judge(result, now=self.now),
            "took_ms": (result.finished_at - result.started_at) / timedelta(milliseconds=1)
            if result
            else None,
            "lines": [
                Line(
                    number=number,
                    name=name,
                    violations=int(found.get(str(number), 0)),
                    is_looked_at=number not in ONLY_ON_THE_TOPIC,
                )
                for number, name in NAMES.items()
            ],
            "findings": [
                {**one, "name": NAMES.get(one["id"], "")}
                for one in (result.findings if result else [])
            ],
        }


def _count(result: VerificationResult) -> int:
    """Return how many violations there were of all invariants."""
    return sum(int(count) for count in result.violations.values())
