"""The admin site: open to whoever has a role, whatever `is_staff` says."""

import math
from collections.abc import Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from csp import constants as csp
from csp.decorators import csp_update
from django.conf import settings
from django.contrib.admin import AdminSite
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.decorators import method_decorator
from typing_extensions import override
from unfold.sites import UnfoldAdminSite
from unfold.widgets import BASE_INPUT_CLASSES

from autopilot_site.admin_navigation import navigation
from scheduling.adapters.rate_counter import requests
from scheduling.api.client_address import counted_address
from scheduling.api.request_id import request_id_of
from scheduling.api.throttles import read_rate
from scheduling.api.tokens import (
    failure_reason,
    record_failed_log_in,
    record_log_in,
    seconds_locked_out,
)
from scheduling.pages.acting import role_on
from scheduling.pages.base import PAGES
from scheduling.services.audit import record_refusal
from scheduling.services.roles import role_of

if TYPE_CHECKING:
    # unfold tells no types; it is Django's site with other templates.
    Site = AdminSite
else:
    Site = UnfoldAdminSite

# unfold's menus are Alpine's, which evaluates its attributes as code. Only texts of our
# templates come to stand there, and nothing but the admin's pages allows it.
admin_policy = csp_update({"script-src": [csp.UNSAFE_EVAL]})
DOOR = "admin"
NO_ROLE = "no_role"


class RoleLoginForm(AuthenticationForm):
    """Signs in users who have a role, and writes to the audit who tried."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.widget.attrs["class"] = " ".join(BASE_INPUT_CLASSES)

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


class RoleAdminSite(Site):
    """Lets in the members of the three groups, and superusers (contract, section 11)."""

    index_title = "Home"
    login_form = RoleLoginForm

    @override
    def has_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user has a role now."""
        return role_on(request) is not None

    def extra_urls(self) -> list[URLPattern]:
        """Return the addresses of the pages that are no model's."""
        return [
            path(page.path, self.admin_view(page.as_view(admin_site=self)), name=page.name)
            for page in PAGES
        ]

    def get_sidebar_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        """Return the sidebar's groups."""
        return navigation(request, site_name=self.name)

    @override
    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return what every page shows; colours come from our own style sheet."""
        return {**super().each_context(request), "colors": {}}

    @override
    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Guard a view, and write to the audit whom it refuses.

        Raises:
            PermissionDenied: The view refuses; Django answers 403.
        """
        guarded = admin_policy(super().admin_view(view, cacheable))

        @wraps(guarded)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                return guarded(request, *args, **kwargs)
            except PermissionDenied:
                record_refusal(
                    actor_name=f"user:{request.user.get_username()}",
                    role=role_on(request),
                    method=request.method or "",
                    path=request.get_full_path(),
                    request_id=request_id_of(request),
                    now=timezone.now(),
                )
                raise

        return answer

    @override
    @method_decorator(admin_policy)
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
