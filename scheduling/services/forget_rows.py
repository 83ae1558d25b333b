"""How long each kind of row is kept that the product needs only for a while.

What has a home of its own is deleted there: jobs in `clean_up`, answers in `outgoing`,
`idempotency` and `adjustment_batches`, tokens in `token_families`, counts of requests in
`adapters.rate_counter`, dead processes in `adapters.heartbeat`, runs in
`recovery.services.runs`. The audit, its seals, settled transitions and dead letters are
kept for ever.
"""

from datetime import datetime, timedelta
from typing import Final

from axes.models import AccessAttempt
from django.apps import apps
from django.contrib.sessions.models import Session

from scheduling.models import InboxMessage
from scheduling.services.forget import forget, forget_oldest

# A record that comes again later than that is handled again: longer than topics keep any.
INBOX_KEPT: Final = timedelta(days=30)
# Nobody is locked out for so long.
ATTEMPT_KEPT: Final = timedelta(days=1)
# django-q2 keeps what went wrong in a chore; the log has told it.
FAILED_CHORE_KEPT: Final = timedelta(days=7)
BATCH: Final = 1_000


def forget_old_rows(*, now: datetime) -> int:
    """Delete what was kept for long enough; return how many rows that were."""
    inbox = forget_oldest(
        InboxMessage.objects.all(), field="handled_at", before=now - INBOX_KEPT, size=BATCH
    )
    attempts = AccessAttempt.objects.filter(attempt_time__lt=now - ATTEMPT_KEPT)
    sessions = Session.objects.filter(expire_date__lt=now)
    chores = apps.get_model("django_q", "Task").objects.filter(
        stopped__lt=now - FAILED_CHORE_KEPT
    )
    return (
        inbox
        + forget(attempts, order_by="pk", size=BATCH)
        + forget(sessions, order_by="expire_date", size=BATCH)
        + forget(chores, order_by="pk", size=BATCH)
    )
