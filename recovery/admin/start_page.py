"""What a run would do now, by one click; and starting one."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest
from django.http.response import HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from typing_extensions import override

from recovery.admin.shown_runs import show_run
from recovery.models import RecoveryRun
from recovery.results import OPEN, RunStatus, Trigger
from recovery.services import ask_for_recovery
from recovery.services.conduct import carry_out_run
from recovery.services.observing import PlannedChange
from recovery.services.runs import Request, find_open
from scheduling.conf import recovery_settings
from scheduling.domain.actors import Operation
from scheduling.domain.errors import InvalidRequestError, SchedulingError
from scheduling.domain.phases import parse_query_id, wire_id
from scheduling.domain.plan import Finding
from scheduling.pages.base import AdminPage
from scheduling.pages.confirm import status_of

# A look in a web process ends then; a run of a cluster takes as long as it takes.
LOOK_SECONDS: Final = 15.0
MOST_SHOWN: Final = 200
_DOES: Final[Mapping[Finding, str]] = {
    Finding.SCHEDULE: "would be scheduled",
    Finding.FIRE: "would fire at once",
    Finding.EXPIRE: "would expire",
    Finding.ASK: "would wait for a person's word",
    Finding.MOVE: "would be moved",
    Finding.CANCEL: "would be cancelled",
}


@dataclass(frozen=True)
class ShownChange:
    """One line of what a run would do."""

    row: PlannedChange
    does: str


class _Watcher:
    """Keeps the first lines of a plan, and how far the look is."""

    def __init__(self) -> None:
        self.plan: list[PlannedChange] = []
        self.count = 0
        self.looked = self.listed = 0

    def looked_at(self, challenges: int, *, of: int) -> None:
        """Note how far it is."""
        self.looked, self.listed = challenges, of

    def would_change(self, change: PlannedChange) -> None:
        """Keep one line of the plan."""
        self.count += 1
        if len(self.plan) < MOST_SHOWN:
            self.plan.append(change)


class StartRun(AdminPage):
    """Shows what a run would do now, and starts one."""

    path = "start/"
    name = "recovery_recoveryrun_start"
    title = "Start a recovery run"
    template_name = "admin/start_recovery.html"
    operation = Operation.RECOVER

    def post(
        self, request: HttpRequest, *args: object, **kwargs: object
    ) -> HttpResponseBase:
        """Look, or start, by the button that was pressed."""
        try:
            project_id = self._project_id()
            if "start" in request.POST:
                return self._start(project_id)
            if "look" in request.POST:
                return self._look(project_id)
            raise InvalidRequestError([("button", "must be one of the page's")])
        except SchedulingError as error:
            found = self.get_context_data(problem=error.detail)
            return self.render_to_response(found, status=status_of(error))

    @override
    def context(self) -> dict[str, Any]:
        return {
            "project_id": self.request.POST.get("project_id", "")[:40],
            "is_enabled": recovery_settings().enabled,
            "look_seconds": int(LOOK_SECONDS),
        }

    def _project_id(self) -> str:
        """Return the only project to look at; empty for all.

        Raises:
            InvalidRequestError: It is no id.
        """
        text = self.request.POST.get("project_id", "").strip()
        try:
            return parse_query_id(text) if text else ""
        except ValueError as error:
            raise InvalidRequestError([("project id", str(error))]) from None

    def _start(self, project_id: str) -> HttpResponseBase:
        """Have a cluster carry a run out, and go to its page."""
        standing = find_open()
        run = ask_for_recovery(
            dry_run=False,
            project_id=wire_id(project_id) if project_id else None,
            actor=self.actor,
        )
        if run.current_status is RunStatus.DISABLED:
            messages.warning(self.request, "Recovery is disabled by RECOVERY_ENABLED.")
        elif standing is not None and standing.pk == run.pk:
            messages.info(self.request, "A run is in progress already: this is it.")
        else:
            messages.success(self.request, "The run waits for a cluster to carry it out.")
        return self._go_to(run)

    def _look(self, project_id: str) -> HttpResponseBase:
        """Carry a dry run out here and now, and show what it would do."""
        standing = find_open()
        if standing is not None:
            messages.info(self.request, "A run is in progress: look at that one first.")
            return self._go_to(standing)
        watcher, ends_at = _Watcher(), time.monotonic() + LOOK_SECONDS
        run = carry_out_run(
            Request(
                trigger=Trigger.MANUAL,
                actor=self.actor,
                dry_run=True,
                project_id=project_id,
            ),
            observer=watcher,
            is_stopping=lambda: time.monotonic() > ends_at,
        )
        if run.current_status in OPEN:
            messages.info(self.request, "Another run began: look at that one first.")
            return self._go_to(run)
        found = self.get_context_data(
            run=show_run(run),
            reasons=run.errors[:MOST_SHOWN],
            plan=[
                ShownChange(one, _DOES.get(one.finding, one.finding))
                for one in watcher.plan
            ],
            plan_count=watcher.count,
            looked=watcher.looked,
            listed=watcher.listed,
        )
        return self.render_to_response(found)

    def _go_to(self, run: RecoveryRun) -> HttpResponseBase:
        """Lead to a run's page."""
        address = reverse("admin:recovery_recoveryrun_change", args=[run.pk])
        return HttpResponseRedirect(address)
