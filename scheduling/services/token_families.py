"""Refresh tokens: each is spent once, and who uses a spent one ends the whole log-in.

A client uses each refresh token once. A spent one that comes again was stolen, before or
after it was spent; which of the two holders is the thief can't be told, so that all
tokens descended from the log-in end, and the user logs in again (RFC 9700,
section 4.14.2).
"""

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from rest_framework_simplejwt.token_blacklist.models import (
    BlacklistedToken,
    OutstandingToken,
)

from scheduling.models import RevokedTokenFamily
from scheduling.services.forget import forget

# What tokens may still be given out for while their family ends.
MARGIN = timedelta(minutes=5)
BATCH = 1_000


def note_given(jti: str, *, user: Any, given_at: datetime, expires_at: datetime) -> None:
    """Remember that a refresh token was given out.

    The token itself is not kept: whoever reads the table can't use it.
    """
    OutstandingToken.objects.get_or_create(
        jti=jti,
        defaults={
            "user": user,
            "token": "",
            "created_at": given_at,
            "expires_at": expires_at,
        },
    )


def spend(jti: str, *, user: Any, given_at: datetime, expires_at: datetime) -> bool:
    """Spend a refresh token; False where it was spent before. Of twins one wins."""
    with transaction.atomic():
        note_given(jti, user=user, given_at=given_at, expires_at=expires_at)
        outstanding = OutstandingToken.objects.get(jti=jti)
        _, is_first = BlacklistedToken.objects.get_or_create(token=outstanding)
    return is_first


def is_revoked(family: str) -> bool:
    """Tell whether the tokens of a log-in are accepted no more."""
    return RevokedTokenFamily.objects.filter(family=family).exists()


def revoke(family: str, *, lifetime: timedelta, now: datetime) -> bool:
    """End all tokens of a log-in; False where they were ended before.

    Args:
        lifetime: How long a refresh token given out now would live.
    """
    _, is_new = RevokedTokenFamily.objects.get_or_create(
        family=family, defaults={"expires_at": now + lifetime + MARGIN}
    )
    return is_new


def flush(*, now: datetime) -> int:
    """Forget what has expired by itself; return how many tokens and families that were."""
    tokens = OutstandingToken.objects.filter(expires_at__lte=now)
    families = RevokedTokenFamily.objects.filter(expires_at__lte=now)
    return sum(forget(rows, order_by="pk", size=BATCH) for rows in (tokens, families))
