"""What came in as records: none is lost between the inbox, its dead letter, its answer."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, Min, OuterRef

from autopilot_site.verification.report import Invariant, Report, Violation
from scheduling.adapters.event_publisher import process_publisher
from scheduling.models import DeadLetter, InboxMessage, OutgoingRecord
from scheduling.services.incoming import FAILED, REFUSED

# An answer or dead letter that is owed longer than this is not on its way.
GRACE = timedelta(seconds=60)
BROKER_SECONDS = 3.0


def check_records(report: Report, *, now: datetime, most_shown: int) -> None:
    """Look for records set aside without a trace, and for answers that nobody sends."""
    _check_dead_letters(report.invariants[8], most_shown=most_shown)
    _check_answers(report.invariants[7], now=now, most_shown=most_shown)


def _check_dead_letters(invariant: Invariant, *, most_shown: int) -> None:
    """Each record that was set aside has its dead letter, since there are any."""
    first = DeadLetter.objects.aggregate(at=Min("set_aside_at"))["at"]
    if first is None:
        return
    letter = DeadLetter.objects.filter(
        cluster_id=OuterRef("cluster_id"),
        topic=OuterRef("topic"),
        partition=OuterRef("partition"),
        offset=OuterRef("offset"),
    )
    set_aside = InboxMessage.objects.filter(
        outcome__in=[REFUSED, FAILED], handled_at__gte=first
    )
    invariant.checked += set_aside.count()
    lost = set_aside.filter(~Exists(letter)).order_by("id")
    invariant.violation_count += lost.count()
    invariant.violations += [
        Violation(job_id=None, detail=f"{row} was set aside without a dead letter")
        for row in lost[: max(0, most_shown - len(invariant.violations))]
    ]


def _check_answers(invariant: Invariant, *, now: datetime, most_shown: int) -> None:
    """What handlers owe is sent within the grace, unless no broker answers."""
    unsent = OutgoingRecord.objects.filter(acknowledged_at=None)
    invariant.checked += unsent.count()
    late = unsent.filter(created_at__lt=now - GRACE).order_by("id")
    count = late.count()
    if not count:
        return
    if not process_publisher().is_in_reach(timeout_seconds=BROKER_SECONDS):
        servers = settings.KAFKA_CLIENT["bootstrap.servers"]
        invariant.unchecked.append(
            f"{count} answers and dead letters wait while no Kafka broker answers at "
            f"{servers}"
        )
        return
    invariant.violation_count += count
    invariant.violations += [
        Violation(
            job_id=None,
            detail=f"a record for {row.topic} waits since {row.created_at:%FT%TZ}"
            + (f": {row.last_error}" if row.last_error else ""),
        )
        for row in late[: max(0, most_shown - len(invariant.violations))]
    ]
