"""The circuit breaker of what recovery writes."""

from django.db import InterfaceError, OperationalError

from scheduling.adapters.breakers import SharedBreaker, shared_breaker


def write_breaker() -> SharedBreaker:
    """Return it; guard by it whatever a run writes.

    Failures are a database that does not take a write in time, or is away. What is wrong
    with one challenge is none.
    """
    return shared_breaker("recovery", counts=_is_failure)


def _is_failure(error: BaseException) -> bool:
    """Tell whether an error says that writing fails, whatever is written."""
    return isinstance(error, (OperationalError, InterfaceError))
