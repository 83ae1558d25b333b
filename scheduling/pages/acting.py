"""Who acts in the admin: the signed-in user's role and actor, read once a request."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from scheduling.domain.actors import Actor, Operation, Role, is_permitted, user_actor
from scheduling.services.roles import role_of


def role_on(request: HttpRequest) -> Role | None:
    """Return the role that the user has now; None without.

    A page asks for it dozens of times, and the database answers once.
    """
    if not hasattr(request, "autopilot_role"):
        request.autopilot_role = role_of(request.user)  # type: ignore[attr-defined]
    role: Role | None = request.autopilot_role  # type: ignore[attr-defined]
    return role


def may(request: HttpRequest, operation: Operation) -> bool:
    """Tell whether the user's role may do an operation."""
    role = role_on(request)
    return role is not None and is_permitted(role, operation)


def actor_on(request: HttpRequest) -> Actor:
    """Return the signed-in user as the audit names them.

    Raises:
        PermissionDenied: The user has none of the roles.
    """
    role = role_on(request)
    if role is None:
        raise PermissionDenied("the user has none of the roles")
    return user_actor(
        request.user.get_username(),
        role=role,
        request_id=str(getattr(request, "request_id", "")),
    )


def demand(request: HttpRequest, operation: Operation) -> None:
    """Refuse a user whose role may not do the operation.

    Raises:
        PermissionDenied: Says which role it is; the site writes it to the audit.
    """
    if not may(request, operation):
        role = role_on(request)
        name = role.value if role else "none"
        raise PermissionDenied(
            f"the role {name} may not {operation.value.replace('_', ' ')}"
        )
