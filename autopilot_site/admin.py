"""What the site adds to the admin: the home page's refresh, users and groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.utils import timezone
from typing_extensions import override
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

# Registers the page that the home page asks every five seconds.
from autopilot_site.home import page as _home  # noqa: F401
from scheduling.domain.actors import Role
from scheduling.pages.acting import actor_on, role_on
from scheduling.pages.texts import NOTHING
from scheduling.services.audit import record_act
from scheduling.services.roles import GROUPS

if TYPE_CHECKING:
    # unfold tells no types; its class only changes templates and widgets.
    Accounts = admin.ModelAdmin[Any]
    Users = UserAdmin[Any]
    Groups = GroupAdmin
else:

    class Accounts(ModelAdmin):
        """unfold's look."""

    class Users(UserAdmin, ModelAdmin):
        """Django's users in unfold's look."""

    class Groups(GroupAdmin, ModelAdmin):
        """Django's groups in unfold's look."""


ROLE_GROUPS = frozenset(role.value for role in GROUPS)


class ForAdmins(Accounts):
    """Pages of the role admin alone; every change is in the audit."""

    # Deleting many at once would be one gesture without a second look.
    actions = None

    @override
    def has_module_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user is an admin."""
        return role_on(request) is Role.ADMIN

    @override
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether the user is an admin."""
        return role_on(request) is Role.ADMIN

    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user is an admin."""
        return role_on(request) is Role.ADMIN

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether the user is an admin."""
        return role_on(request) is Role.ADMIN

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether the user is an admin."""
        return role_on(request) is Role.ADMIN

    @override
    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Write to the audit what was added, beside Django's own log."""
        self._record("account.added", request, obj, message)
        return super().log_addition(request, obj, message)

    @override
    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Write to the audit what was changed."""
        self._record("account.changed", request, obj, message)
        return super().log_change(request, obj, message)

    @override
    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """Write to the audit what is deleted."""
        for obj in queryset:
            self._record("account.deleted", request, obj, "")
        return super().log_deletions(request, queryset)

    def _record(self, action: str, request: HttpRequest, obj: Any, message: Any) -> None:
        """Write one entry."""
        changes: dict[str, Any] = {obj._meta.model_name: str(obj)}
        if isinstance(obj, User):
            changes["groups"] = sorted(obj.groups.values_list("name", flat=True))
            changes["isActive"] = obj.is_active
            changes["isSuperuser"] = obj.is_superuser
        fields = [
            name
            for part in (message if isinstance(message, list) else [])
            for name in part.get("changed", {}).get("fields", [])
        ]
        if fields:
            changes["fields"] = [str(name) for name in fields]
        record_act(action, actor=actor_on(request), now=timezone.now(), changes=changes)


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class RoleUserAdmin(ForAdmins, Users):
    """Users and their roles: the groups they are in."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "show_role", "is_active", "last_login")
    list_filter = ("groups", "is_active")
    search_fields = ("username", "first_name", "last_name", "email")
    filter_horizontal = ()
    empty_value_display = NOTHING
    show_full_result_count = False

    @admin.display(description="role")
    def show_role(self, user: User) -> str:
        """Return the highest role."""
        if user.is_superuser:
            return "admin (superuser)"
        names = {group.name for group in user.groups.all()}
        return next((r.value for r in reversed(GROUPS) if r.value in names), "none")

    @override
    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the users with their groups."""
        return super().get_queryset(request).prefetch_related("groups")

    @override
    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields; what makes a superuser is a superuser's to give."""
        if obj is None:
            return super().get_fieldsets(request, obj)
        rights: Sequence[str] = ("is_active", "groups")
        if getattr(request.user, "is_superuser", False):
            rights = ("is_active", "is_superuser", "groups")
        return (
            (None, {"fields": ("username", "password")}),
            ("Person", {"fields": ("first_name", "last_name", "email")}),
            ("Role", {"fields": rights}),
        )

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether the user may: a superuser is changed by superusers alone."""
        return super().has_change_permission(request, obj) and self._may_touch(request, obj)

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether the user may; nobody deletes themselves."""
        is_self = obj is not None and obj.pk == request.user.pk
        allowed = super().has_delete_permission(request, obj)
        return allowed and not is_self and self._may_touch(request, obj)

    def _may_touch(self, request: HttpRequest, obj: Any) -> bool:
        """Tell whether the user stands no lower than the other one."""
        is_higher = obj is not None and obj.is_superuser
        return not is_higher or bool(getattr(request.user, "is_superuser", False))


@admin.register(Group)
class RoleGroupAdmin(ForAdmins, Groups):
    """Groups: the three that are roles stay as they are."""

    fields = ("name",)
    filter_horizontal = ()
    list_display = ("name", "is_role")

    @admin.display(description="is a role", boolean=True)
    def is_role(self, group: Group) -> bool:
        """Tell whether the group is one of the roles."""
        return group.name in ROLE_GROUPS

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse to rename a role."""
        return super().has_change_permission(request, obj) and not _is_role(obj)

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse to delete a role."""
        return super().has_delete_permission(request, obj) and not _is_role(obj)


def _is_role(group: Group | None) -> bool:
    """Tell whether a group is one of the roles."""
    return group is not None and group.name in ROLE_GROUPS
