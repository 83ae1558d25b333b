"""Our own tokens: signed with a key of their own, each refresh token spent once.

They carry `roles` for a client's display only (contract, section 4).
"""

import re
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

import jwt
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from rest_framework_simplejwt import tokens as simplejwt
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import (
    TokenBackendError,
    TokenBackendExpiredToken,
    TokenError,
)
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.utils import get_md5_hash_password
from typing_extensions import override

from scheduling.services import token_families
from scheduling.services.roles import role_of

ROLES_CLAIM = "roles"
FAMILY_CLAIM = "family"
_REQUIRED = ("iss", "aud", "exp", "jti")
# A token's own name and that of its family: hexadecimal as we give them.
_NAME = re.compile(r"[0-9A-Za-z-]{1,64}")
_LAST_SECOND = datetime.max.replace(tzinfo=UTC).timestamp()


class SpentTokenError(TokenError):
    """The refresh token was spent, or its log-in ended, before."""


class KeyRing(TokenBackend):
    """Signs with one key, and verifies with that and the older ones."""

    def __init__(self, *, signing_key: str, older_keys: tuple[str, ...]) -> None:
        super().__init__(
            api_settings.ALGORITHM,
            signing_key,
            audience=api_settings.AUDIENCE,
            issuer=api_settings.ISSUER,
        )
        self._verifying_keys = (signing_key, *older_keys)

    @override
    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        """Return the claims of a token that one of the keys has signed and that is valid.

        Raises:
            TokenBackendExpiredToken: It was valid.
            TokenBackendError: It is none of ours, not for us, or not yet valid.
        """
        for key in self._verifying_keys:
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[self.algorithm],
                    audience=self.audience,
                    issuer=self.issuer,
                    options={
                        "require": list(_REQUIRED),
                        # When it was made decides nothing (RFC 7519, section 4.1.6), and
                        # the host that made it may be a little ahead of this one.
                        "verify_iat": False,
                        "verify_signature": verify,
                    },
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError as error:
                raise TokenBackendExpiredToken("Token is expired") from error
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
                raise TokenBackendError("Token is invalid") from error
            if _are_ours(claims):
                return claims
            break
        raise TokenBackendError("Token is invalid")


def _are_ours(claims: dict[str, Any]) -> bool:
    """Tell whether claims have the forms that we give them; a key may sign any others."""
    names = (claims["jti"], claims.get(FAMILY_CLAIM, claims["jti"]))
    ends_at = claims["exp"]
    is_instant = isinstance(ends_at, int | float) and ends_at <= _LAST_SECOND
    return is_instant and all(
        isinstance(one, str) and _NAME.fullmatch(one) for one in names
    )


@lru_cache(maxsize=8)
def _key_ring(signing_key: str, older_keys: tuple[str, ...]) -> KeyRing:
    """Return the one ring of these keys."""
    return KeyRing(signing_key=signing_key, older_keys=older_keys)


class _OwnKeys:
    """Signs and verifies with the keys of the settings."""

    @property
    def token_backend(self) -> KeyRing:
        """The keys."""
        return _key_ring(settings.JWT_SIGNING_KEY, settings.JWT_VERIFYING_KEYS)


class AccessToken(_OwnKeys, simplejwt.AccessToken):
    """Opens the API for five minutes."""


class RefreshToken(_OwnKeys, simplejwt.RefreshToken):
    """Gives the next pair of tokens, once.

    All that descend from one log-in are a family, which the claim `family` names.
    """

    access_token_class = AccessToken

    @classmethod
    @override
    def for_user(cls, user: Any) -> "RefreshToken":
        """Return the first token of a log-in."""
        # Past simplejwt's own, which would keep the token itself in the database.
        token: RefreshToken = super(simplejwt.BlacklistMixin, cls).for_user(user)
        token[FAMILY_CLAIM] = uuid.uuid4().hex
        token.note(user)
        return token

    @override
    def check_blacklist(self) -> None:
        """Leave it to `spend`, which looks and spends in one step."""

    @property
    @override
    def access_token(self) -> AccessToken:
        """An access token, which lives from the instant at which this one was read."""
        token = cast("AccessToken", super().access_token)
        token.set_iat(at_time=self.current_time)
        return token

    @property
    def family(self) -> str:
        """The log-in it descends from."""
        return str(self.payload.get(FAMILY_CLAIM) or self.payload[api_settings.JTI_CLAIM])

    def note(self, user: AbstractBaseUser) -> None:
        """Remember that it was given out."""
        token_families.note_given(**self._row(user))

    def spend(self, user: AbstractBaseUser) -> None:
        """Spend it, so that it is accepted no more.

        Raises:
            SpentTokenError: It was spent before, or its log-in has ended.
        """
        is_first = token_families.spend(**self._row(user))
        if not is_first or token_families.is_revoked(self.family):
            raise SpentTokenError(
                "This refresh token was used before or its log-in has ended: log in again."
            )

    def renew(self, user: AbstractBaseUser) -> None:
        """Become the next token of the family, with the roles of now."""
        self[ROLES_CLAIM] = shown_roles(user)
        self.set_jti()
        self.set_exp()
        self.set_iat()
        self.note(user)

    def _row(self, user: AbstractBaseUser) -> dict[str, Any]:
        """Return what is remembered of it."""
        return {
            "jti": str(self.payload[api_settings.JTI_CLAIM]),
            "user": user,
            "given_at": self.current_time,
            "expires_at": datetime.fromtimestamp(int(self.payload["exp"]), UTC),
        }


def shown_roles(user: AbstractBaseUser) -> list[str]:
    """Return the claim's value: the user's highest role, or none."""
    role = role_of(user)
    return [] if role is None else [role.value]


def give_tokens(user: AbstractBaseUser) -> dict[str, str]:
    """Return the pair of a new log-in."""
    with transaction.atomic():
        refresh = RefreshToken.for_user(user)
    refresh[ROLES_CLAIM] = shown_roles(user)
    return _pair(refresh)


def renew_tokens(refresh: RefreshToken, user: AbstractBaseUser) -> dict[str, str]:
    """Return the next pair; the given token is spent by it.

    Raises:
        SpentTokenError: It was spent before, or its log-in has ended.
    """
    with transaction.atomic():
        refresh.spend(user)
        refresh.renew(user)
    return _pair(refresh)


def end_log_in(refresh: RefreshToken, *, now: datetime) -> bool:
    """Accept none of the family's tokens any more; False if that was so before."""
    lifetime = api_settings.REFRESH_TOKEN_LIFETIME
    return token_families.revoke(refresh.family, lifetime=lifetime, now=now)


def user_of(token: RefreshToken) -> AbstractBaseUser:
    """Return the user who may still use the token.

    Raises:
        TokenError: There is none: gone, inactive, or with another password since.
    """
    user_id = str(token.get(api_settings.USER_ID_CLAIM, ""))
    is_number = user_id.isascii() and user_id.isdecimal()
    users = get_user_model().objects.filter(pk=user_id if is_number else "0")
    user = cast("AbstractBaseUser | None", users.first())
    if user is None or not user.is_active:
        raise TokenError("No active account found for the given token.")
    if token.get(api_settings.REVOKE_TOKEN_CLAIM) != get_md5_hash_password(user.password):
        raise TokenError("The user's password has been changed.")
    return user


def _pair(refresh: RefreshToken) -> dict[str, str]:
    """Return the refresh token and an access token made of it."""
    return {"refresh": str(refresh), "access": str(refresh.access_token)}
