"""Who asks: a bearer token becomes a user, and a user an actor."""

from typing import Any

from rest_framework.request import Request
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import (
    ExpiredTokenError,
    InvalidToken,
    TokenError,
)
from rest_framework_simplejwt.tokens import Token
from typing_extensions import override

from scheduling.adapters.outside_issuer import UnacceptableTokenError, outside_issuer
from scheduling.api.own_tokens import FAMILY_CLAIM, AccessToken
from scheduling.api.request_id import request_id_of
from scheduling.domain.actors import PEOPLES, Actor, user_actor
from scheduling.domain.errors import OperationNotPermittedError
from scheduling.services.roles import role_of
from scheduling.services.token_families import is_revoked


class BearerToken(JWTAuthentication):
    """Accepts our own access tokens, or those of an outside issuer in their place.

    Only the user is taken from a token of ours: roles are read from the database at each
    request (contract, section 4), so that a withdrawn one ends at once.
    """

    @override
    def authenticate(self, request: Request) -> Any:
        """Return the user and the token; None where the request has none.

        Raises:
            InvalidToken: It is not to be accepted.
            ServiceUnavailableError: The outside issuer's keys can't be read.
        """
        issuer = outside_issuer()
        if issuer is None:
            return super().authenticate(request)
        header: bytes | None = self.get_header(request)
        token = None if header is None else self.get_raw_token(header)
        if token is None:
            return None
        try:
            return issuer.read(token), token
        except UnacceptableTokenError:
            raise InvalidToken("The token is not acceptable") from None

    @override
    def get_raw_token(self, header: bytes) -> bytes | None:
        """Return the token; the scheme's case doesn't matter (RFC 9110, section 11.1)."""
        scheme, _, rest = header.strip().partition(b" ")
        is_bearer = scheme.lower() == b"bearer"
        token: bytes | None = super().get_raw_token(
            b"Bearer " + rest if is_bearer else header
        )
        return token

    @override
    def get_validated_token(self, raw_token: bytes) -> Token:
        """Return the token, where it is one of our access tokens and still valid.

        Raises:
            InvalidToken: It is not; says whether another one would help.
        """
        try:
            return AccessToken(raw_token)  # type: ignore[arg-type]
        except ExpiredTokenError:
            raise InvalidToken("The access token has expired: renew it.") from None
        except TokenError:
            raise InvalidToken("This is no access token of this API.") from None

    @override
    def get_user(self, validated_token: Token) -> Any:
        """Return the user whom the token names.

        Raises:
            InvalidToken: There is none, or the log-in that it descends from has ended.
        """
        try:
            user = super().get_user(validated_token)
        except (TypeError, ValueError, OverflowError):
            # A well-signed token whose user id is none of ours.
            raise InvalidToken("Token contained no recognizable user") from None
        family = validated_token.get(FAMILY_CLAIM)
        if family is not None and is_revoked(str(family)):
            raise InvalidToken("The log-in of this token has ended.")
        return user

    @override
    def authenticate_header(self, request: Request) -> str:
        """Return how to come in; tells a wrong token from none (RFC 6750, section 3)."""
        challenge: str = super().authenticate_header(request)
        header: bytes = self.get_header(request) or b""
        is_bearer = header.lower().split()[:1] == [b"bearer"]
        return f'{challenge}, error="invalid_token"' if is_bearer else challenge


def actor_of(request: Request) -> Actor:
    """Return the signed-in user as an actor, with the role that the database has now.

    It is read once for each request.

    Raises:
        OperationNotPermittedError: The user has none of the roles.
    """
    known: Actor | None = getattr(request, "actor", None)
    if known is not None:
        return known
    role = role_of(request.user)
    if role is None:
        roles = ", ".join(PEOPLES)
        raise OperationNotPermittedError(f"the user has none of the roles: {roles}")
    actor = user_actor(
        request.user.get_username(), role=role, request_id=request_id_of(request)
    )
    request.actor = actor  # type: ignore[attr-defined]
    return actor
