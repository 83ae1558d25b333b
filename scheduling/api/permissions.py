"""Who may read; what an actor may do is asked in the services, once for every door."""

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from typing_extensions import override

from scheduling.api.authentication import actor_of
from scheduling.domain.actors import Operation, authorize

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
        """
        if not request.user.is_authenticated:
            return False
        authorize(actor_of(request), Operation.VIEW)
        return True
