"""The form that schedules a transition which has no job yet."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from typing_extensions import override

from scheduling.admin.end_time import HELP, read_end_time
from scheduling.admin.override_page import own_reasons
from scheduling.admin.plain_words import plain
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
    parse_query_id,
    read_phase_data,
    wire_id,
)
from scheduling.pages.base import AdminPage, admin_page
from scheduling.pages.links import JOBS, job_url
from scheduling.services.cancel import read_reason
from scheduling.services.schedule import Scheduled, schedule_transition

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
    "reason": "The reason",
}


@admin_page
class SchedulePage(AdminPage):
    """Asks for a transition, its instant and the reason, and schedules it."""

    path = "scheduling/scheduledtransition/schedule/"
    name = "schedule"
    title = "Schedule a transition"
    template_name = "admin/schedule.html"
    operation = Operation.SCHEDULE

    @override
    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the form, filled with what the address says."""
        return self._show([])

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Schedule it, and lead to the job; or show what is wrong."""
        try:
            scheduled = self._schedule()
        except DuplicateJobError as error:
            return self._show([], standing=error.job_id)
        except (InvalidPhaseDataError, InvalidRequestError) as error:
            return self._show(
                [
                    f"{_LABELS.get(name, name)} {cause.removesuffix('.')}."
                    for name, cause in error.errors
                ]
            )
        except SchedulingError as error:
            return self._show([f"The due instant: {plain(error.detail, now=self.now)}"])
        word = "scheduled" if scheduled.is_new else "stands"
        return redirect(f"{job_url(scheduled.job.job_id)}?done={word}")

    def _schedule(self) -> Scheduled:
        """Schedule what the form says.

        Raises:
            SchedulingError: The family, as the service and the parsers raise it.
        """
        fields = self.request.POST
        errors: list[tuple[str, str]] = []
        reason, data = "", self._data()
        try:
            end_time = read_end_time(
                fields.get("end_time", ""), now=self.now, is_from_now=True
            )
            data["endTime"] = end_time.for_one(self.now)
        except InvalidScheduleTimeError as error:
            errors.append(("endTime", error.detail))
        try:
            read_phase_data(data)
        except InvalidPhaseDataError as error:
            errors += [one for one in error.errors if one[0] != "endTime"]
        try:
            reason = read_reason(fields.get("reason"))
        except InvalidRequestError as error:
            errors += error.errors
        if not fields.get("confirm"):
            errors.append(("confirm", "is required"))
        if errors:
            raise InvalidRequestError(errors)
        return schedule_transition(data, actor=self.actor, now=self.now, reason=reason)

    def _data(self) -> dict[str, object]:
        """Return the phase data that the form has, without its instant."""
        fields = self.request.POST
        data: dict[str, object] = {
            wire: _value(name, fields.get(name, "").strip()) for name, wire, *_ in FIELDS
        }
        data["state"] = fields.get("state")
        data["operator"] = self.request.user.get_username()
        return data

    def _show(self, errors: list[str], *, standing: str = "") -> HttpResponse:
        """Show the form, and what is wrong with it."""
        fields = self.request.POST if self.request.method == "POST" else self.request.GET
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
                reason=fields.get("reason", ""),
                longest_text=LONGEST_TEXT,
                longest_reason=LONGEST_REASON,
                suggestions=own_reasons(self.actor.name),
                back=reverse(JOBS),
            )
        )


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
