"""The form that schedules a transition which has no job yet: asked, shown, then done."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.urls import reverse
from typing_extensions import override

from scheduling.admin.end_time import HELP, read_end_time
from scheduling.admin.override_page import own_reasons
from scheduling.admin.override_words import is_about
from scheduling.admin.plain_words import plain, tell_conflicts
from scheduling.domain.actors import Operation
from scheduling.domain.errors import (
    DuplicateJobError,
    InvalidPhaseDataError,
    InvalidRequestError,
    InvalidScheduleTimeError,
    SchedulingError,
)
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import (
    LONGEST_REASON,
    LONGEST_TEXT,
    format_instant,
    parse_query_id,
    read_phase_data,
    wire_id,
)
from scheduling.models import ScheduledTransition
from scheduling.pages.base import AdminPage, admin_page
from scheduling.pages.links import JOBS, job_url
from scheduling.services.cancel import read_reason
from scheduling.services.overrides import Prospect, conflicts_of
from scheduling.services.schedule import (
    Scheduled,
    foresee_scheduling,
    schedule_transition,
)
from scheduling.topics import PHASE_TRANSITION

# Form field, wire name, label, help.
FIELDS = (
    ("project_id", "projectId", "Project id", "A positive integer or a UUID."),
    ("challenge_id", "challengeId", "Challenge id", "May stay empty."),
    ("phase_id", "phaseId", "Phase id", "The phase's own id, not its template's."),
    ("phase_type_name", "phaseTypeName", "Phase", "Its name, such as Registration."),
    ("project_status", "projectStatus", "Challenge status", "Such as ACTIVE."),
)
_ID_FIELDS = frozenset({"project_id", "challenge_id", "phase_id"})
_LABELS = {wire: label for _, wire, label, _ in FIELDS} | {
    "state": "State",
    "endTime": "The due instant:",
}
# In the address of the plan.
_PREVIEW: Final = "preview"
_ANOTHER_PLAN: Final = "Nothing is done yet: read what will happen, and confirm."


@admin_page
class SchedulePage(AdminPage):
    """Asks for a transition and its instant, shows what comes of it, and schedules it."""

    path = "scheduling/scheduledtransition/schedule/"
    name = "schedule"
    title = "Schedule a transition"
    template_name = "admin/schedule.html"
    operation = Operation.SCHEDULE

    @property
    def _fields(self) -> QueryDict:
        """What was sent: by the form, or in the address."""
        is_form = self.request.method == "POST"
        return self.request.POST if is_form else self.request.GET

    @override
    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the form, filled with what the address says, or the plan of it."""
        return self._answer() if _PREVIEW in request.GET else self._show([])

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show what is wrong, or lead to the plan; once that is confirmed, schedule it.

        What was done leads to the job, and so does what is done already. Form and plan
        have addresses, so that a browser goes back to them without sending anything.
        """
        if "change" in request.POST:
            return redirect(self._address())
        return self._answer()

    def _answer(self) -> HttpResponse:
        """Answer what was sent; what is wrong with it is shown with the form."""
        try:
            return self._plan_or_do(self._read())
        except DuplicateJobError as error:
            return self._show([], standing=error.job_id)
        except InvalidPhaseDataError as error:
            return self._show(
                [
                    f"{_LABELS.get(name, name)} {cause.removesuffix('.')}."
                    for name, cause in error.errors
                ]
            )
        except SchedulingError as error:
            return self._show([f"The due instant: {plain(error.detail, now=self.now)}"])

    def _plan_or_do(self, data: Mapping[str, object]) -> HttpResponse:
        """Schedule it where this very plan is confirmed and has a reason; else show it.

        Raises:
            SchedulingError: The family, as the services raise it.
        """
        fields = self._fields
        found = foresee_scheduling(data, now=self.now)
        if not found.is_new:
            return _lead_to(found)
        if self.request.method == "POST" and "confirm" not in fields:
            # A span of time means the instant that is shown, however long one looks.
            end_time = format_instant(found.job.due_at)
            return redirect(self._address(end_time=end_time, **{_PREVIEW: "yes"}))
        conflicts = self._conflicts(found.job)
        if "confirm" not in fields or self.request.method != "POST":
            return self._show_plan(found.job, conflicts)
        if fields.get("plan") != _fingerprint(conflicts):
            return self._show_plan(found.job, conflicts, problem=_ANOTHER_PLAN)
        try:
            reason = read_reason(fields.get("reason"))
        except InvalidRequestError as error:
            problem = f"The reason {error.errors[0][1]}."
            return self._show_plan(found.job, conflicts, problem=problem)
        return _lead_to(
            schedule_transition(data, actor=self.actor, now=self.now, reason=reason)
        )

    def _address(self, **more: str) -> str:
        """Return where the form is shown with what was sent."""
        return f"{self.request.path}?{urlencode(self._sent(**more))}"

    def _sent(self, **more: str) -> dict[str, str]:
        """Return the form's fields as they were sent, and what takes their place."""
        names = [*(name for name, *_ in FIELDS), "state", "end_time"]
        return {name: self._fields.get(name, "") for name in names} | more

    def _read(self) -> Mapping[str, object]:
        """Return the form's phase data.

        Raises:
            InvalidPhaseDataError: All that is wrong with it, the instant too.
        """
        errors: list[tuple[str, str]] = []
        data = self._data()
        try:
            end_time = read_end_time(
                self._fields.get("end_time", ""), now=self.now, is_from_now=True
            )
            data["endTime"] = end_time.for_one(self.now)
        except InvalidScheduleTimeError as error:
            errors.append(("endTime", error.detail))
        try:
            read_phase_data(data)
        except InvalidPhaseDataError as error:
            errors += [one for one in error.errors if one[0] != "endTime"]
        if errors:
            raise InvalidPhaseDataError(errors)
        return data

    def _conflicts(self, job: ScheduledTransition) -> list[str]:
        """Return in words how the instant conflicts; a person may know better."""
        found = conflicts_of([Prospect(job=job, due_at=job.due_at)], now=self.now)
        return tell_conflicts([one.detail for one in found], now=self.now)

    def _show_plan(
        self, job: ScheduledTransition, conflicts: list[str], *, problem: str = ""
    ) -> HttpResponse:
        """Show what would come of it, with a form that holds what was understood."""
        self.template_name = "admin/schedule_plan.html"
        return self.render_to_response(
            self.get_context_data(
                job=job,
                about=is_about(job),
                topic=PHASE_TRANSITION,
                conflicts=conflicts,
                kept=self._sent(end_time=format_instant(job.due_at)),
                plan=_fingerprint(conflicts),
                problem=problem,
                reason=self._fields.get("reason", "")[: LONGEST_REASON + 1],
                longest_reason=LONGEST_REASON,
                suggestions=own_reasons(self.actor.name),
                back=reverse(JOBS),
            )
        )

    def _data(self) -> dict[str, object]:
        """Return the phase data that the form has, without its instant."""
        fields = self._fields
        data: dict[str, object] = {
            wire: _value(name, fields.get(name, "").strip()) for name, wire, *_ in FIELDS
        }
        data["state"] = fields.get("state")
        data["operator"] = self.request.user.get_username()
        return data

    def _show(self, errors: list[str], *, standing: str = "") -> HttpResponse:
        """Show the form, and what is wrong with it."""
        fields = self._fields
        return self.render_to_response(
            self.get_context_data(
                errors=errors,
                standing=standing,
                fields=[
                    {
                        "name": name,
                        "label": label,
                        "help": text,
                        "value": fields.get(name, ""),
                        "is_optional": name == "challenge_id",
                    }
                    for name, _, label, text in FIELDS
                ],
                states=[kind.value for kind in TransitionKind],
                state=fields.get("state", TransitionKind.END.value),
                end_time_text=fields.get("end_time", ""),
                end_time_help=HELP,
                longest_text=LONGEST_TEXT,
                back=reverse(JOBS),
            )
        )


def _lead_to(scheduled: Scheduled) -> HttpResponse:
    """Return the way to the job, with a word on whether it was made now."""
    word = "scheduled" if scheduled.is_new else "stands"
    return redirect(f"{job_url(scheduled.job.job_id)}?done={word}")


def _fingerprint(conflicts: Sequence[str]) -> str:
    """Return a short text that another plan has not: conflicts are all that can change."""
    return hashlib.sha256("\n".join(conflicts).encode()).hexdigest()


def _value(name: str, text: str) -> object:
    """Return a field's value as phase data take it; an empty one is not given."""
    if not text:
        return None
    if name not in _ID_FIELDS:
        return text
    try:
        return wire_id(parse_query_id(text))
    except ValueError:
        # Refused with the field's name.
        return text
