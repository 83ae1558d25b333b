"""Log in, stay logged in, log out: simplejwt's endpoints in our words."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt.views import (
    TokenBlacklistView,
    TokenObtainPairView,
    TokenRefreshView,
)
from typing_extensions import override

from scheduling.api.schema import REFRESH_EXAMPLE, TOKEN_EXAMPLE, responses
from scheduling.api.serializers import (
    RefreshRequestSerializer,
    TokenRequestSerializer,
    TokensSerializer,
)
from scheduling.api.tokens import RolesRefreshSerializer


class TokenObtain(TokenObtainPairView):
    """The door to log in."""

    @extend_schema(
        operation_id="obtainTokens",
        summary="Log in",
        description="Gives a pair of tokens; their claim `roles` is for display.",
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


class TokenRefresh(TokenRefreshView):
    """The door to stay logged in."""

    serializer_class = RolesRefreshSerializer

    @extend_schema(
        operation_id="refreshTokens",
        summary="Renew the tokens",
        description="Gives a new pair; the given refresh token is spent by it.",
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


class TokenRevoke(TokenBlacklistView):
    """The door to log out."""

    @extend_schema(
        operation_id="blacklistToken",
        summary="Log out",
        description="The refresh token is accepted no more.",
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
