"""What django-q2 calls by dotted path; a renamed path is a migration."""

from scheduling.adapters.clock import database_now
from scheduling.adapters.event_publisher import process_publisher
from scheduling.adapters.rate_counter import forget_old_windows
from scheduling.services import (
    adjustment_batches,
    forget_rows,
    idempotency,
    outgoing,
    publish,
    read_marked,
    token_families,
)
from scheduling.services import clean_up as cleaning


def publish_due(not_before: float) -> int:
    """Publish what is due from that instant (epoch seconds) on."""
    return publish.publish_due(not_before=not_before)


def clean_up() -> int:
    """Move what has been finished for long enough out of the live table."""
    now = database_now()
    outgoing.forget_sent(now=now)
    return cleaning.clean_up(now=now)


def send_outgoing() -> int:
    """Send answers and dead letters that no consumer has sent."""
    return outgoing.send_left_over(process_publisher(), now=database_now())


def forget_old_answers() -> int:
    """Delete the answers kept for repeated requests once their day is over."""
    return idempotency.forget_old_answers(now=database_now())


def forget_old_batches() -> int:
    """Delete the answers kept for repeated batches once their 30 days are over."""
    return adjustment_batches.forget_old_batches(now=database_now())


def flush_tokens() -> int:
    """Forget the tokens that have expired by themselves, and counts that are over."""
    forget_old_windows()
    return token_families.flush(now=database_now())


def forget_old_rows() -> int:
    """Delete what is kept for a while only, and belongs to nothing else."""
    return forget_rows.forget_old_rows(now=database_now())


def read_marked_challenges() -> int:
    """Read again challenges of which a change was told and not yet read."""
    return len(read_marked.read_marked_challenges(now=database_now()).read)
