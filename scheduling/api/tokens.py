"""Tokens that carry `roles`, for a client's display only (contract, section 4)."""

from typing import Any, cast

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.serializers import (
    TokenObtainPairSerializer,
    TokenRefreshSerializer,
)
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import RefreshToken, Token
from rest_framework_simplejwt.utils import get_md5_hash_password
from typing_extensions import override

from scheduling.services.roles import role_of

ROLES_CLAIM = "roles"


def shown_roles(user: AbstractBaseUser) -> list[str]:
    """Return the claim's value: the user's highest role, or none."""
    role = role_of(user)
    return [] if role is None else [role.value]


class RolesTokenSerializer(TokenObtainPairSerializer):
    """Gives tokens for a user's name and password."""

    @classmethod
    @override
    def get_token(cls, user: Any) -> Token:
        """Return a refresh token with the roles of now; its access token copies them."""
        token = super().get_token(user)
        token[ROLES_CLAIM] = shown_roles(user)
        return token


class RolesRefreshSerializer(TokenRefreshSerializer):
    """Gives new tokens for a refresh token, which is spent by it.

    simplejwt's own fails with an unexpected error where the user is gone, lets one token
    be spent twice at the same time, and copies the roles of the log-in.
    """

    @override
    def validate(self, attrs: dict[str, Any]) -> dict[str, str]:
        """Return the new tokens.

        Raises:
            TokenError: It is no refresh token of ours, was spent, or its user is gone,
                inactive or has another password since.
        """
        refresh = RefreshToken(attrs["refresh"])
        user = _user_of(refresh)
        _, is_first = cast("tuple[object, bool]", refresh.blacklist())
        if not is_first:
            raise TokenError("Token is blacklisted")
        refresh[ROLES_CLAIM] = shown_roles(user)
        refresh.set_jti()
        refresh.set_exp()
        refresh.set_iat()
        refresh.outstand()
        return {"access": str(refresh.access_token), "refresh": str(refresh)}


def _user_of(token: Token) -> AbstractBaseUser:
    """Return the user who may still use the token.

    Raises:
        TokenError: There is none.
    """
    user_id = str(token.get(api_settings.USER_ID_CLAIM, ""))
    users = get_user_model().objects.filter(pk=user_id if user_id.isdecimal() else "0")
    user = users.first()
    if user is None or not user.is_active:
        raise TokenError("No active account found for the given token.")
    if token.get(api_settings.REVOKE_TOKEN_CLAIM) != get_md5_hash_password(user.password):
        raise TokenError("The user's password has been changed.")
    return user
