"""Pages that change the schedule as one batch: first the plan, then the reason, then done.

The plan is the dry run of `services.adjust`, and what is done is the same request for
earnest. The form carries the plan's fingerprint: where the plan has become another one
meanwhile it is shown again, and nothing is changed. Two clicks so have one effect.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Any, ClassVar, Final

from django.contrib import messages
from django.http.response import HttpResponseBase
from typing_extensions import override

from scheduling.admin.override_page import own_reasons
from scheduling.admin.plain_words import tell_conflicts
from scheduling.domain.actors import Operation
from scheduling.domain.adjustment_request import AdjustmentRequest
from scheduling.domain.changes import OnConflict
from scheduling.domain.errors import InvalidRequestError, SchedulingError
from scheduling.domain.phases import LONGEST_REASON, parse_instant
from scheduling.models import ScheduledTransition
from scheduling.pages.base import AdminPage
from scheduling.pages.confirm import status_of
from scheduling.pages.texts import count_text
from scheduling.services.adjust import adjust_schedules
from scheduling.services.cancel import read_reason

# Of a larger plan the first lines are shown; the figures count all.
MOST_SHOWN: Final = 200
CHOICES: Final[Mapping[OnConflict, str]] = {
    OnConflict.REJECT: "Refuse all if anything conflicts",
    OnConflict.SKIP: "Leave out what conflicts, and make the other changes",
    OnConflict.SHIFT: "Move later phases back so that none begins too early",
}


@dataclass(frozen=True, kw_only=True)
class PlannedMove:
    """One line of a plan: a transition, where it stands, and where it would."""

    phase_id: str
    phase_name: str
    state: str
    old_at: datetime | None
    new_at: datetime
    old_job_id: str
    new_job_id: str


@dataclass(frozen=True, kw_only=True)
class ShownPlan:
    """A plan, or what was done, as the page shows it.

    fingerprint: the same for the same plan.
    """

    moves: Sequence[PlannedMove]
    count: int
    unchanged: int
    conflicts: Sequence[str]
    errors: Sequence[Mapping[str, Any]]
    is_refused: bool
    fingerprint: str

    @property
    def more(self) -> int:
        """How many moves are not shown."""
        return self.count - len(self.moves)


def show_plan(answer: Mapping[str, Any], *, now: datetime) -> ShownPlan:
    """Return an adjustment's answer as the page shows it, by a few queries."""
    details = answer["details"]
    rescheduled, created = details["rescheduled"], details["created"]
    names = [line["oldJobId"] for line in rescheduled[:MOST_SHOWN]]
    rows = ScheduledTransition.objects.filter(job_id__in=names)
    jobs = {job.job_id: job for job in rows}
    moves = [
        PlannedMove(
            phase_id=str(line["phaseId"]),
            phase_name=job.phase_type_name if job else "",
            state=job.state if job else "",
            old_at=parse_instant(line["oldEndTime"]),
            new_at=parse_instant(line["newEndTime"]),
            old_job_id=line["oldJobId"],
            new_job_id=line["newJobId"] or "",
        )
        for line in rescheduled[:MOST_SHOWN]
        for job in [jobs.get(line["oldJobId"])]
    ]
    moves += [
        PlannedMove(
            phase_id=str(line["phaseId"]),
            phase_name="",
            state=line["state"],
            old_at=None,
            new_at=parse_instant(line["newEndTime"]),
            old_job_id="",
            new_job_id=line["newJobId"] or "",
        )
        for line in created[: MOST_SHOWN - len(moves)]
    ]
    return ShownPlan(
        moves=moves,
        count=answer["adjustedCount"],
        unchanged=answer["unchangedCount"],
        conflicts=tell_conflicts(
            [one["detail"] for one in answer["conflicts"][:MOST_SHOWN]], now=now
        ),
        errors=answer["errors"][:MOST_SHOWN],
        is_refused=not answer["success"],
        fingerprint=_fingerprint(answer),
    )


def _fingerprint(answer: Mapping[str, Any]) -> str:
    """Return a short text that another plan has not."""
    details = answer["details"]
    told = [
        answer["success"],
        [(line["oldJobId"], line["newEndTime"]) for line in details["rescheduled"]],
        [
            (line["projectId"], line["phaseId"], line["state"], line["newEndTime"])
            for line in details["created"]
        ],
        [conflict["detail"] for conflict in answer["conflicts"]],
        [error["message"] for error in answer["errors"]],
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


class PlanPage(AdminPage):
    """Shows a plan, and carries it out once a reason is given.

    verb: what the button does, before the number of transitions.
    has_choices: whether the form lets one choose what becomes of conflicts.
    """

    operation = Operation.UPDATE
    post_operation = Operation.UPDATE
    verb: ClassVar[str] = "Move"
    has_choices: ClassVar[bool] = False
    is_done = False

    def read_request(self) -> AdjustmentRequest | None:
        """Return what the form asks for, its reason aside; None: nothing yet.

        Raises:
            SchedulingError: It can't be understood.
        """
        raise NotImplementedError

    def post(self, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Show the plan of what was sent, or carry it out once it is confirmed."""
        if "confirm" not in self.request.POST:
            return self.get(self.request, *args, **kwargs)
        status, found = self._carry_out()
        return self.render_to_response(self.get_context_data(**found), status=status)

    @override
    def context(self) -> dict[str, Any]:
        """Return the plan, and what the form said."""
        reason = self.request.POST.get("reason", "")
        found: dict[str, Any] = {
            "verb": self.verb,
            "reason": reason[: LONGEST_REASON + 1],
            "longest_reason": LONGEST_REASON,
        }
        # Reasons and new instants are refused in words, at their place.
        try:
            request = None if self.is_done else self.read_request()
            if request is not None:
                found |= self.plan_context(request)
        except SchedulingError as error:
            found |= {"problem": error.detail}
        return found

    def plan_context(self, request: AdjustmentRequest) -> dict[str, Any]:
        """Return the plan as things stand, and what the other choices would do."""
        plan = show_plan(self._try_out(request), now=self.now)
        has_other_choices = self.has_choices and bool(plan.conflicts)
        others = list(self._other_choices(request)) if has_other_choices else []
        return {
            "plan": plan,
            "other_choices": others,
            "suggestions": own_reasons(self.actor.name),
            "button": f"{self.verb} {count_text(plan.count, 'transition')}",
        }

    def _try_out(self, request: AdjustmentRequest) -> Mapping[str, Any]:
        """Return what would become of the request now; nothing is written."""
        dry = replace(request, is_dry_run=True)
        return adjust_schedules(dry, actor=self.actor, now=self.now)

    def _other_choices(self, request: AdjustmentRequest) -> Iterable[tuple[str, str]]:
        """Yield each choice of what becomes of conflicts, with what it would do."""
        for choice, label in CHOICES.items():
            answer = self._try_out(replace(request, on_conflict=choice))
            count, left = answer["adjustedCount"], len(answer["conflicts"])
            told = (
                f"{count_text(count, 'transition')} would change"
                if answer["success"] and count
                else "nothing would change"
            )
            yield label, f"{told}, with {count_text(left, 'conflict')}"

    def _carry_out(self) -> tuple[HTTPStatus, dict[str, Any]]:
        """Do what was confirmed, if it is still what was shown."""
        try:
            request = self.read_request()
            if request is None:
                raise InvalidRequestError([("plan", "has nothing to do")])
            request = replace(request, reason=read_reason(self.request.POST.get("reason")))
            shown = self._try_out(request)
            if _fingerprint(shown) != self.request.POST.get("plan"):
                return HTTPStatus.CONFLICT, {"is_changed": True}
            answer = adjust_schedules(request, actor=self.actor, now=self.now)
        except SchedulingError as error:
            return status_of(error), {"problem": error.detail}
        if not answer["success"]:
            return HTTPStatus.CONFLICT, {"is_changed": True}
        self.is_done = True
        done = show_plan(answer, now=self.now)
        changed = count_text(done.count, "transition")
        messages.success(self.request, f"{changed} changed: {request.reason}")
        return HTTPStatus.OK, {"done": done}
