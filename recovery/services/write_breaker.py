"""The circuit breaker of what recovery writes."""

from contextlib import AbstractContextManager

from django.db import InterfaceError, OperationalError

from scheduling.adapters.breakers import SharedBreaker, shared_breaker
from scheduling.conf import recovery_settings


def write_breaker() -> SharedBreaker:
    """Return it.

    Failures are a database that does not take a write in time, or is away. What is wrong
    with one challenge is none.
    """
    return shared_breaker("recovery", counts=_is_failure)


def guarding_a_write() -> AbstractContextManager[None]:
    """Guard by it what a run writes in one transaction.

    Raises:
        BreakerOpenError: It lets nobody through.
    """
    return write_breaker().guarding(longest=recovery_settings().period("phase_timeout"))


def _is_failure(error: BaseException) -> bool:
    """Tell whether an error says that writing fails, whatever is written."""
    return isinstance(error, (OperationalError, InterfaceError))
