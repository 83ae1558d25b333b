"""Who may read; what an actor may do is asked in the services, once for every door."""

from typing import TYPE_CHECKING

from rest_framework.exceptions import Throttled
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from typing_extensions import override

from scheduling.api.authentication import actor_of
from scheduling.api.throttles import UserThrottle
from scheduling.domain.actors import Operation, authorize
from scheduling.domain.errors import OperationNotPermittedError

if TYPE_CHECKING:
    # REST framework's views load this module for their defaults.
    from rest_framework.views import APIView


class RolePermission(BasePermission):
    """Lets in whoever has one of the roles: each includes the viewer's."""

    @override
    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Tell whether the user is signed in (else 401).

        Raises:
            OperationNotPermittedError: The user has none of the roles.
            Throttled: Nor has it any request left.
        """
        if not request.user.is_authenticated:
            return False
        try:
            actor = actor_of(request)
        except OperationNotPermittedError:
            _count(request, view)
            raise
        authorize(actor, Operation.VIEW)
        return True


def _count(request: Request, view: "APIView") -> None:
    """Count a request that is refused before the view's throttles are asked.

    Each refusal is written to the audit, which must not grow without a bound.

    Raises:
        Throttled: The user has made too many.
    """
    throttle = UserThrottle()
    if not throttle.allow_request(request, view):
        raise Throttled(throttle.wait())
