"""The settings that may change while the system runs, and the form that changes them."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from typing_extensions import override

from scheduling.domain.actors import Operation
from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.phases import LONGEST_REASON
from scheduling.live_settings import live_settings, read_overrides
from scheduling.models import AuditEntry
from scheduling.pages.base import AdminPage, admin_page
from scheduling.queries.audit_prose import name_actor
from scheduling.queries.settings import last_changes
from scheduling.services.change_settings import change_settings

_SWITCH = {"true": True, "false": False}


@admin_page
class SettingsPage(AdminPage):
    """Shows each setting; an admin may set some, or leave them to the environment."""

    path = "settings/"
    name = "settings"
    title = "Settings"
    subtitle = "What changes while the system runs; all else needs a restart"
    template_name = "admin/settings.html"
    post_operation = Operation.CHANGE_SETTINGS

    @override
    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show what is in force."""
        return self._show([])

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Change what differs, all of it or nothing; or show what is wrong."""
        wanted = self._wanted()
        if not wanted:
            return self._show(["Nothing differs from what is in force."])
        try:
            change_settings(
                wanted,
                actor=self.actor,
                reason=request.POST.get("reason"),
                now=self.now,
            )
        except InvalidRequestError as error:
            return self._show([f"{name} {cause}." for name, cause in error.errors])
        return redirect(f"{reverse('admin:settings')}?done={len(wanted)}")

    def _wanted(self) -> dict[str, object]:
        """Return what the form asks for beyond what is set; None for the environment's."""
        overrides = read_overrides()
        wanted: dict[str, object] = {}
        for name, one in live_settings().items():
            text = self.request.POST.get(name, "").strip()
            value = _value(text, is_switch=isinstance(one.default, bool))
            if value != overrides.get(name):
                wanted[name] = value
        return wanted

    def _show(self, errors: list[str]) -> HttpResponse:
        """Show the form, and what is wrong with it."""
        fields = self.request.POST
        overrides, changed = read_overrides(), last_changes()
        return self.render_to_response(
            self.get_context_data(
                errors=errors,
                done=self.request.GET.get("done", "") if not errors else "",
                may_change=self.may(Operation.CHANGE_SETTINGS),
                reason=fields.get("reason", ""),
                longest_reason=LONGEST_REASON,
                settings=[
                    {
                        "name": name,
                        "meaning": one.info.description,
                        "in_force": _text(overrides.get(name, one.default)),
                        "default": _text(one.default),
                        "is_set": name in overrides,
                        "is_switch": isinstance(one.default, bool),
                        "least": one.bound("ge"),
                        "most": one.bound("le"),
                        "text": fields.get(name, _text(overrides.get(name))),
                        "last": _last_change(changed.get(name)),
                    }
                    for name, one in live_settings().items()
                ],
            )
        )


def _last_change(entry: AuditEntry | None) -> dict[str, Any] | None:
    """Return who changed a setting last, when, from what to what, and why."""
    if entry is None:
        return None
    return {
        "row": entry,
        "who": name_actor(entry.actor),
        "old": _text(entry.changes.get("old")),
        "new": _text(entry.changes.get("new")),
    }


def _value(text: str, *, is_switch: bool) -> object:
    """Return a field's value; what is no number is left to the product to refuse."""
    if not text:
        return None
    if is_switch:
        return _SWITCH.get(text, text)
    try:
        return int(text)
    except ValueError:
        return text


def _text(value: bool | int | None) -> str:  # noqa: FBT001 -- a setting's value
    """Return a value as one writes it."""
    return "" if value is None else str(value).lower()
