"""Log in, stay logged in, log out: what the token endpoints do, and what they audit."""

from datetime import timedelta
from typing import Any

from axes.helpers import get_cool_off
from axes.models import AccessAttempt
from django.contrib.auth import authenticate
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.auth.signals import user_logged_in
from django.db import transaction
from django.utils import timezone
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request
from rest_framework.serializers import CharField, Serializer
from rest_framework_simplejwt.serializers import (
    PasswordField,
    TokenObtainPairSerializer,
)
from typing_extensions import override

from scheduling.api.client_address import client_address, counted_address
from scheduling.api.own_tokens import (
    ROLES_CLAIM,
    RefreshToken,
    SpentTokenError,
    end_log_in,
    give_tokens,
    renew_tokens,
    shown_roles,
    user_of,
)
from scheduling.api.request_id import request_id_of
from scheduling.services.audit import record_access
from scheduling.services.roles import role_of

API_DOOR = "api"
# What the column holds by which failures are counted.
_LONGEST_COUNTED_NAME = 255


class RolesTokenSerializer(TokenObtainPairSerializer):
    """Gives tokens for a user's name and password."""

    token_class = RefreshToken

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # As the admin's form takes it: spaces are part of a password.
        self.fields["password"] = PasswordField(trim_whitespace=False)

    @classmethod
    @override
    def get_token(cls, user: Any) -> RefreshToken:
        """Return a refresh token with the roles of now; its access token copies them."""
        token = RefreshToken.for_user(user)
        token[ROLES_CLAIM] = shown_roles(user)
        return token

    @override
    def validate(self, attrs: dict[str, Any]) -> dict[str, str]:
        """Return the tokens of a new log-in.

        Raises:
            AuthenticationFailed: The name or the password is wrong.
            Throttled: The address has failed at this name too often.
        """
        request: Request = self.context["request"]
        name = attrs[self.username_field]
        user = authenticate(request=request, username=name, password=attrs["password"])
        if user is None:
            raise _failed(request, name)
        with transaction.atomic():
            # Resets the count of failures, and notes when the user was last here.
            user_logged_in.send(sender=type(user), request=request, user=user)
            record_log_in(request, user, door=API_DOOR)
            return give_tokens(user)


class RolesRefreshSerializer(Serializer[Any]):
    """Gives new tokens for a refresh token, which is spent by it."""

    refresh = CharField()

    @override
    def validate(self, attrs: dict[str, Any]) -> dict[str, str]:
        """Return the new tokens.

        Raises:
            TokenError: It is no refresh token of ours, was spent, or its user is gone,
                inactive or has another password since.
        """
        refresh = RefreshToken(attrs["refresh"])
        user = user_of(refresh)
        try:
            return renew_tokens(refresh, user)
        except SpentTokenError:
            _end_stolen(refresh, user, request=self.context["request"])
            raise


class LogOutSerializer(Serializer[Any]):
    """Accepts a refresh token, and all that descend from its log-in, no more."""

    refresh = CharField(write_only=True)

    @override
    def validate(self, attrs: dict[str, Any]) -> dict[str, str]:
        """End the log-in.

        Raises:
            TokenError: It is no refresh token of ours, was spent, or its user is gone,
                inactive or has another password since.
        """
        refresh = RefreshToken(attrs["refresh"])
        user = user_of(refresh)
        try:
            refresh.spend(user)
        except SpentTokenError:
            _end_stolen(refresh, user, request=self.context["request"])
            raise
        end_log_in(refresh, now=timezone.now())
        return {}


def record_log_in(request: Any, user: AbstractBaseUser, *, door: str) -> None:
    """Write to the audit that a user has logged in."""
    record_access(
        "access.logged_in",
        name=user.get_username(),
        role=role_of(user),
        door=door,
        address=client_address(request),
        request_id=request_id_of(request),
        now=timezone.now(),
    )


def record_failed_log_in(request: Any, name: str, *, door: str, reason: str) -> None:
    """Write to the audit that somebody failed to log in; never with which password."""
    record_access(
        "access.login_failed",
        name=name,
        role=None,
        door=door,
        address=client_address(request),
        request_id=request_id_of(request),
        now=timezone.now(),
        reason=reason,
    )


def is_locked_out(request: Any) -> bool:
    """Tell whether axes has refused the attempt, or any further one."""
    return bool(getattr(request, "axes_locked_out", False))


def counted_name(request: Any, credentials: dict[str, Any] | None) -> str:
    """Return the name under which axes counts failures (AXES_USERNAME_CALLABLE)."""
    return str((credentials or {}).get("username") or "")[:_LONGEST_COUNTED_NAME]


def seconds_locked_out(request: Any, name: str) -> float:
    """Return how long the address has to wait before it may try the name again."""
    cool_off = get_cool_off(request)
    newest = (
        AccessAttempt.objects.filter(
            username=counted_name(request, {"username": name}),
            ip_address=counted_address(request),
        )
        .order_by("-attempt_time")
        .first()
    )
    if newest is None or cool_off is None:
        return 1.0
    left: timedelta = newest.attempt_time + cool_off - timezone.now()
    return max(1.0, left.total_seconds())


def failure_reason(request: Any) -> str:
    """Return why a log-in failed, for the audit."""
    if is_locked_out(request):
        return "locked out after too many failures"
    return "wrong name or password, or an inactive user"


def _failed(request: Request, name: str) -> AuthenticationFailed | Throttled:
    """Record a failed log-in; return what to answer."""
    record_failed_log_in(request, name, door=API_DOOR, reason=failure_reason(request))
    if is_locked_out(request):
        return Throttled(seconds_locked_out(request, name), "Too many failed log-ins.")
    return AuthenticationFailed("No active account found with the given credentials")


def _end_stolen(refresh: RefreshToken, user: AbstractBaseUser, *, request: Request) -> None:
    """End the log-in of a token that was spent before, and say so in the audit, once."""
    now = timezone.now()
    with transaction.atomic():
        if end_log_in(refresh, now=now):
            record_access(
                "access.token_reused",
                name=user.get_username(),
                role=role_of(user),
                door=API_DOOR,
                address=client_address(request),
                request_id=request_id_of(request),
                now=now,
                reason="a spent refresh token came again: its log-in has ended",
            )
