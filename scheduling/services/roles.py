"""The role groups and their Django permissions, filled from the one table."""

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission

from scheduling.domain.actors import OutsideUser, Role

GROUPS = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
SHOWN_MODELS = ("scheduledtransition", "auditentry")


def fill_role_groups(sender: AppConfig, **kwargs: Any) -> None:
    """Create the groups `viewer`, `operator` and `admin`, which may view our tables.

    What a group's members may *do* is asked of `domain.actors` at each request; the
    Django permissions only open the admin's read-only pages to them.
    """
    # Django makes them in a receiver of the same signal, which may run after this one.
    create_permissions(sender, verbosity=0)
    viewable = Permission.objects.filter(
        content_type__app_label="scheduling",
        codename__in=[f"view_{model}" for model in SHOWN_MODELS],
    )
    for role in GROUPS:
        group, _ = Group.objects.get_or_create(name=role.value)
        group.permissions.add(*viewable)


def role_of(user: Any) -> Role | None:
    """Return the highest role of a user, read from the database now; None without.

    Superusers count as admin; an outside issuer's user has the role of the token
    (contract, section 4).
    """
    if isinstance(user, OutsideUser):
        return user.role
    if not user.is_active:
        return None
    if user.is_superuser:
        return Role.ADMIN
    names = set(user.groups.values_list("name", flat=True))
    return next((role for role in reversed(GROUPS) if role.value in names), None)
