"""What django-q2 calls by dotted path; a renamed path is a migration."""

from recovery import services
from scheduling.adapters.clock import database_now


def expire_overdue() -> int:
    """Expire what is overdue by more than the age limit."""
    return services.expire_overdue(now=database_now())
