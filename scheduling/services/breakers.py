"""What a person does about a circuit breaker: close it before its time."""

from datetime import datetime

from django.db import transaction

from scheduling.adapters.breakers import changes, close_by_hand
from scheduling.conf import BREAKER_SETTINGS
from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.errors import BreakerNotFoundError
from scheduling.models import CircuitBreaker
from scheduling.services.audit import record_act
from scheduling.services.cancel import read_reason


def reset_breaker(
    name: str, *, actor: Actor, reason: object, now: datetime
) -> CircuitBreaker:
    """Close a breaker and forget its failures; return it as it stands then.

    One that is closed is reset too: a person says that what failed is mended. All
    processes see it within a second.

    Raises:
        OperationNotPermittedError: The actor's role may not.
        InvalidRequestError: The reason is missing or blank.
        BreakerNotFoundError: There is none of that name.

    Source: contract, section 4.
    """
    authorize(actor, Operation.RESET_BREAKER)
    why = read_reason(reason)
    if name not in BREAKER_SETTINGS:
        known = ", ".join(BREAKER_SETTINGS)
        raise BreakerNotFoundError(f"there is no such circuit breaker; known are {known}")
    CircuitBreaker.objects.get_or_create(name=name)
    with transaction.atomic():
        breaker = CircuitBreaker.objects.select_for_update().get(name=name)
        old = breaker.state
        close_by_hand(breaker, now=now)
        breaker.save()
        record_act(
            "breaker.reset",
            actor=actor,
            now=now,
            changes=changes(breaker, old=old),
            reason=why,
        )
    return breaker
