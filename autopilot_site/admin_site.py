"""The admin site: open to whoever has a role, whatever `is_staff` says."""

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from typing_extensions import override

from scheduling.services.roles import role_of


class RoleLoginForm(AuthenticationForm):
    """Signs in users who have a role."""

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
                code="no_role",
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
