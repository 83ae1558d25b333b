"""What django-q2 calls by dotted path; a renamed path is a migration."""

from scheduling.adapters.clock import database_now
from scheduling.services import clean_up as cleaning
from scheduling.services import publish


def publish_due(not_before: float) -> int:
    """Publish what is due from that instant (epoch seconds) on."""
    return publish.publish_due(not_before=not_before)


def clean_up() -> int:
    """Move what has been finished for long enough out of the live table."""
    return cleaning.clean_up(now=database_now())
