"""Circuit breakers: how each stands, why, when it is tried again; closing one by hand."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.http import Http404
from django.urls import reverse
from typing_extensions import override

from scheduling.conf import BREAKER_SETTINGS, breaker_settings
from scheduling.domain.actors import Operation
from scheduling.models import CircuitBreaker
from scheduling.models.circuit_breaker import CLOSED, HALF_OPEN, OPEN
from scheduling.pages.base import AdminPage, admin_page
from scheduling.pages.confirm import ConfirmPage
from scheduling.queries.breakers import list_breakers
from scheduling.services.breakers import reset_breaker

_GUARDS: Final = {
    "scheduler": "publishing to Kafka: jobs wait meanwhile, and fire late",
    "recovery": "what recovery writes: a run ends early, and the next one goes on",
    "challenge": "the Challenge service: what was last read counts meanwhile",
}
_WORDS: Final = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half open"}
_KINDS: Final = {CLOSED: "good", OPEN: "bad", HALF_OPEN: "warning"}


@dataclass(frozen=True)
class ShownBreaker:
    """A breaker as the page shows it.

    since: when its state last changed; None where it never did.
    next_try_at: when it will be tried again; None where it is not open.
    """

    row: CircuitBreaker
    word: str
    kind: str
    guards: str
    since: datetime | None
    next_try_at: datetime | None
    failure_threshold: int
    success_threshold: int


def show_breaker(row: CircuitBreaker) -> ShownBreaker:
    """Return a breaker as the page shows it."""
    conf = breaker_settings(row.name)
    next_try_at = None
    if row.state == OPEN and row.opened_at is not None:
        next_try_at = row.opened_at + timedelta(milliseconds=conf.reset_timeout)
    return ShownBreaker(
        row=row,
        word=_WORDS[row.state],
        kind=_KINDS[row.state],
        guards=_GUARDS.get(row.name, ""),
        since=row.changed_at or row.opened_at,
        next_try_at=next_try_at,
        failure_threshold=conf.failure_threshold,
        success_threshold=conf.success_threshold,
    )


@admin_page
class CircuitBreakers(AdminPage):
    """All breakers."""

    path = "circuit-breakers/"
    name = "circuit_breakers"
    title = "Circuit breakers"
    template_name = "admin/circuit_breakers.html"
    http_method_names = ["get", "head"]

    @override
    def context(self) -> dict[str, Any]:
        return {
            "breakers": [show_breaker(row) for row in list_breakers()],
            "may_reset": self.may(Operation.RESET_BREAKER),
        }


@admin_page
class ResetBreaker(ConfirmPage):
    """Closes a breaker before its time."""

    path = "circuit-breakers/<str:name>/reset/"
    name = "reset_breaker"
    title = "Reset this breaker"
    button = "Reset this breaker"
    operation = Operation.RESET_BREAKER
    template_name = "admin/reset_breaker.html"

    @override
    def context(self) -> dict[str, Any]:
        return {"breaker": show_breaker(self._row)}

    @property
    def _row(self) -> CircuitBreaker:
        """The breaker that the address names.

        Raises:
            Http404: There is none.
        """
        name = str(self.kwargs["name"])
        if name not in BREAKER_SETTINGS:
            raise Http404("there is no such circuit breaker")
        return next(row for row in list_breakers() if row.name == name)

    @override
    def carry_out(self, reason: str) -> tuple[str, str]:
        row = reset_breaker(self._row.name, actor=self.actor, reason=reason, now=self.now)
        return f"The breaker {row.name} is closed.", reverse("admin:circuit_breakers")
