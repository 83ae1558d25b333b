"""What django-q2 calls by dotted path; a renamed path is a migration."""

from autopilot_site.metrics import totals
from scheduling.adapters.clock import database_now


def settle_totals() -> None:
    """Count what has happened into the running totals of the metrics."""
    totals.settle(now=database_now())
