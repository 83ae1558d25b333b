"""Get the queued messages to their targets, each for itself, again for a bounded time."""

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from datetime import datetime, timedelta
from typing import Final

from autopilot_site.alerts.targets import Message, Notifier, Target
from scheduling.adapters.clock import database_now
from scheduling.models import Notification

logger = logging.getLogger("autopilot.alerts")

# One target may take so long for one message; its thread is then left behind.
PATIENCE_SECONDS: Final = 15.0
LEASE: Final = timedelta(seconds=60)
MOST_ATTEMPTS: Final = 8
FIRST_WAIT: Final = timedelta(seconds=5)
LONGEST_WAIT: Final = timedelta(minutes=5)
# Of one round; the rest is the next one's.
MOST_MESSAGES: Final = 20


def send_waiting(targets: Mapping[str, Target], *, now: datetime) -> int:
    """Send what waits, a target that fails once not again in this round; return how many.

    Args:
        targets: By their digests; a message to one that is not among them is given up.
    """
    sent = 0
    broken: set[str] = set()
    waiting = Notification.objects.filter(settled_at=None, next_attempt_at__lte=now)
    for message in waiting.select_related("alert").order_by("id")[:MOST_MESSAGES]:
        if message.target in broken or not _take(message):
            continue
        target = targets.get(message.target)
        if target is None:
            _give_up(message, "its target is configured no more")
        elif error := _tell(target.notify, message):
            broken.add(message.target)
            _note_failure(message, error)
        else:
            _settle(message, was_sent=True, error="")
            sent += 1
    return sent


def _take(message: Notification) -> bool:
    """Hold the message for a while; of several hosts one does."""
    now = database_now()
    free = Notification.objects.filter(
        pk=message.pk, settled_at=None, attempts=message.attempts
    ).exclude(lease_until__gt=now)
    if not free.update(lease_until=now + LEASE, attempts=message.attempts + 1):
        return False
    message.attempts += 1
    return True


def _tell(notify: Notifier, row: Notification) -> str:
    """Tell a target; return why it failed, empty where it did not.

    What an error says may quote the address: only its kind is kept.
    """
    message = Message(
        key=row.alert.key,
        rule=row.alert.rule,
        title=row.title,
        body=row.body,
        is_resolved=row.is_resolved,
    )
    answer: Future[None] = Future()

    def run() -> None:
        try:
            notify(message)
            answer.set_result(None)
        except BaseException as error:  # noqa: BLE001 -- raised again where it is awaited
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True, name="notifier").start()
    try:
        answer.result(PATIENCE_SECONDS)
    except NoAnswerError:
        return f"no answer within {PATIENCE_SECONDS:.0f} s"
    except Exception as error:  # noqa: BLE001 -- whatever is plugged in, the others go on
        return type(error).__name__
    return ""


def _note_failure(message: Notification, error: str) -> None:
    """Try again later, or give up after the last attempt."""
    if message.attempts >= MOST_ATTEMPTS:
        _give_up(message, error)
        return
    wait = min(FIRST_WAIT * 2 ** (message.attempts - 1), LONGEST_WAIT)
    Notification.objects.filter(pk=message.pk).update(
        next_attempt_at=database_now() + wait, lease_until=None, last_error=error[:200]
    )
    logger.warning("message %d is not taken yet: %s", message.pk, error)


def _give_up(message: Notification, error: str) -> None:
    """Leave a message that nobody takes."""
    _settle(message, was_sent=False, error=error)
    logger.error("message %d is given up: %s", message.pk, error)


def _settle(message: Notification, *, was_sent: bool, error: str) -> None:
    """Be done with a message."""
    Notification.objects.filter(pk=message.pk).update(
        settled_at=database_now(),
        was_sent=was_sent,
        lease_until=None,
        last_error=error[:200],
    )
