"""The doors to log in, stay logged in, log out: simplejwt's endpoints in our words.

With an outside issuer there is nothing behind them (contract, section 4).
"""

from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework_simplejwt.views import (
    TokenBlacklistView,
    TokenObtainPairView,
    TokenRefreshView,
)
from typing_extensions import override

from scheduling.api.base import check_fields
from scheduling.api.schema import REFRESH_EXAMPLE, TOKEN_EXAMPLE, responses
from scheduling.api.serializers import (
    RefreshRequestSerializer,
    TokenRequestSerializer,
    TokensSerializer,
)
from scheduling.api.throttles import AddressThrottle, LogInThrottle
from scheduling.api.tokens import (
    LogOutSerializer,
    RolesRefreshSerializer,
    RolesTokenSerializer,
)

if TYPE_CHECKING:
    # For the type checker alone: at run time it is mixed into simplejwt's views.
    from rest_framework.generics import GenericAPIView

    Base = GenericAPIView[Any]
else:
    Base = object


class OwnTokensOnly(Base):
    """Is there only where tokens are our own."""

    # OPTIONS would describe the view in a shape of its own; /api/schema/ does that.
    http_method_names = ["post"]

    @override
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse where tokens come from outside, and fields that are not known.

        Raises:
            NotFound: Tokens come from outside.
            InvalidRequestError: Names every unknown field.
        """
        if settings.JWT_ISSUER:
            raise NotFound("Tokens come from an outside issuer here.")
        super().initial(request, *args, **kwargs)
        serializer = cast("Serializer[Any]", self.get_serializer())
        check_fields(request.data, known=serializer.fields.keys())

    @override
    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Return the response; nobody keeps it (RFC 6749, section 5.1)."""
        final = super().finalize_response(request, response, *args, **kwargs)
        final.headers["Cache-Control"] = "no-store"
        return final


def only_what_answers(
    endpoints: list[tuple[str, str, str, Any]],
) -> list[tuple[str, str, str, Any]]:
    """Return the endpoints that the API's document has to describe.

    Args:
        endpoints: Path, pattern, method and view of each.
    """
    if not settings.JWT_ISSUER:
        return endpoints
    return [
        endpoint
        for endpoint in endpoints
        if not issubclass(getattr(endpoint[3], "cls", object), OwnTokensOnly)
    ]


class TokenObtain(OwnTokensOnly, TokenObtainPairView):
    """The door to log in."""

    serializer_class = RolesTokenSerializer
    throttle_classes = [LogInThrottle]

    @extend_schema(
        operation_id="obtainTokens",
        summary="Log in",
        description="Gives a pair of tokens: `access` opens the API for five minutes, as "
        "`Authorization: Bearer …`, and `refresh` gives the next pair. Their claim `roles` "
        "is for display. Too many failures are answered 429, with `Retry-After`.",
        auth=[],
        request=TokenRequestSerializer,
        examples=[TOKEN_EXAMPLE],
        responses=responses(is_read=False, status_200=TokensSerializer),
        tags=["auth"],
    )
    @override
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Give tokens for a name and a password."""
        return super().post(request, *args, **kwargs)


class TokenRefresh(OwnTokensOnly, TokenRefreshView):
    """The door to stay logged in."""

    serializer_class = RolesRefreshSerializer
    throttle_classes = [AddressThrottle]

    @extend_schema(
        operation_id="refreshTokens",
        summary="Renew the tokens",
        description="Gives a new pair; the given refresh token is spent by it. Who uses a "
        "spent one ends the whole log-in: all tokens descended from it, access tokens too.",
        auth=[],
        request=RefreshRequestSerializer,
        examples=[REFRESH_EXAMPLE],
        responses=responses(is_read=False, status_200=TokensSerializer),
        tags=["auth"],
    )
    @override
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Give new tokens for a refresh token."""
        return super().post(request, *args, **kwargs)


class TokenRevoke(OwnTokensOnly, TokenBlacklistView):
    """The door to log out."""

    serializer_class = LogOutSerializer
    throttle_classes = [AddressThrottle]

    @extend_schema(
        operation_id="blacklistToken",
        summary="Log out",
        description="The refresh token, and every other token that descends from its "
        "log-in, is accepted no more.",
        auth=[],
        request=RefreshRequestSerializer,
        examples=[REFRESH_EXAMPLE],
        responses=responses(is_read=False, status_200=OpenApiTypes.OBJECT),
        tags=["auth"],
    )
    @override
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Accept a refresh token no more."""
        return super().post(request, *args, **kwargs)
