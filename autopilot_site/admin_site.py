"""The admin site: open to whoever has a role, whatever `is_staff` says."""

import math
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from typing_extensions import override

from scheduling.adapters.rate_counter import requests
from scheduling.api.client_address import counted_address
from scheduling.api.throttles import read_rate
from scheduling.api.tokens import (
    failure_reason,
    record_failed_log_in,
    record_log_in,
    seconds_locked_out,
)
from scheduling.services.roles import role_of

DOOR = "admin"
NO_ROLE = "no_role"


class RoleLoginForm(AuthenticationForm):
    """Signs in users who have a role, and writes to the audit who tried."""

    @override
    def clean(self) -> dict[str, Any]:
        """Find the user whom name and password name.

        Raises:
            ValidationError: There is none, or the user may not sign in.
        """
        name = self.cleaned_data.get("username")
        try:
            cleaned = super().clean()
        except ValidationError as error:
            is_stranger = getattr(error, "code", "") == NO_ROLE
            reason = "none of the roles" if is_stranger else failure_reason(self.request)
            record_failed_log_in(self.request, name or "", door=DOOR, reason=reason)
            raise
        user = self.get_user()
        if user is not None:
            record_log_in(self.request, user, door=DOOR)
        return cleaned

    @override
    def confirm_login_allowed(self, user: Any) -> None:
        """Refuse an inactive user, and one without a role.

        Raises:
            ValidationError: The user may not sign in.
        """
        super().confirm_login_allowed(user)
        if role_of(user) is None:
            raise ValidationError(
                "Ask an administrator to put you into one of the groups viewer, "
                "operator or admin.",
                code=NO_ROLE,
            )


class RoleAdminSite(AdminSite):
    """Lets in the members of the three groups, and superusers (contract, section 11)."""

    site_header = "Autopilot"
    site_title = "Autopilot"
    index_title = "Transitions and their audit"
    login_form = RoleLoginForm

    @override
    def has_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user has a role now."""
        return role_of(request.user) is not None

    @override
    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the form and sign in, so many times a minute for one address."""
        if request.method == "POST":
            key = f"admin-log-in:{counted_address(request) or ''}"
            wait = requests.take(key, read_rate(settings.ADMIN_THROTTLE_LOG_IN))
            if wait:
                return too_many(wait)
        return super().login(request, extra_context)


def locked_out(
    request: HttpRequest,
    response: HttpResponse | None = None,
    credentials: Mapping[str, Any] | None = None,
) -> HttpResponse:
    """Answer whoever has failed too often (AXES_LOCKOUT_CALLABLE).

    Args:
        response: Not to be relied on: in an async process axes gives the credentials.
        credentials: Likewise; axes leaves them on the request, too.
    """
    tried: Mapping[str, Any] = getattr(request, "axes_credentials", None) or {}
    return too_many(seconds_locked_out(request, tried.get("username", "")))


def too_many(wait: float) -> HttpResponse:
    """Answer that the address has to wait so many seconds."""
    seconds = math.ceil(wait)
    return HttpResponse(
        f"Too many log-ins. Try again in {seconds} seconds.\n",
        status=429,
        content_type="text/plain; charset=utf-8",
        headers={"Retry-After": str(seconds)},
    )
