"""Open and close alerts as conditions come and go, each with its messages.

An alert is opened and closed in one transaction with its messages, and of one condition
one is open at most, whichever hosts look: so it is told once, and once when it is over.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, transaction

from autopilot_site.alerts.rules import (
    MOST_SINGLE_JOBS,
    Condition,
    FailedJob,
    find_conditions,
)
from autopilot_site.health.facts import DatabaseFacts, Facts
from autopilot_site.health.judgement import judge
from scheduling.conf import recovery_settings
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import Alert, Notification, RunningTotal, ScheduledTransition

logger = logging.getLogger("autopilot.alerts")

# Of what is over so much is kept, for whoever asks what was told.
KEPT: Final = timedelta(days=30)
LONGEST_SUMMARY: Final = 500
VERIFICATION: Final = "verification"


def look(
    facts: Facts, *, now: datetime, targets: Sequence[str], overdue_seconds: int
) -> None:
    """Open and close alerts by what the facts tell; without a database nothing changes.

    Args:
        targets: The digests of those who are told.
    """
    if facts.database is None:
        return
    health = judge(facts, now=now, recovery=recovery_settings())
    conditions = find_conditions(
        facts.database,
        health,
        failed=_failed_jobs(),
        violations=_violations(facts.database),
        overdue_seconds=overdue_seconds,
    )
    _compare(conditions, now=now, targets=targets)


def keep_outcome(*, violations: int, now: datetime) -> None:
    """Keep what a whole verification found, for the rule."""
    RunningTotal.objects.update_or_create(
        name=VERIFICATION,
        defaults={"upto_at": now, "counts": {"violations": violations}},
    )


def forget_old(*, now: datetime) -> None:
    """Delete what has been over for long."""
    Alert.objects.filter(ended_at__lt=now - KEPT).delete()


def _failed_jobs() -> list[FailedJob]:
    """Return the jobs that failed for good and that nobody retried."""
    rows = ScheduledTransition.objects.filter(
        status=TransitionStatus.FAILED, replaced_by=""
    ).order_by("due_at", "id")
    return [
        FailedJob(job_id=job_id, state=state, phase_id=phase_id)
        for job_id, state, phase_id in rows.values_list("job_id", "state", "phase_id")[
            : MOST_SINGLE_JOBS + 1
        ]
    ]


def _violations(database: DatabaseFacts) -> int:
    """Return how many violations the last verification by hand, or by itself, found."""
    kept = RunningTotal.objects.filter(name=VERIFICATION).first()
    by_hand = int(kept.counts.get("violations", 0)) if kept else 0
    found = database.verification.violations if database.verification else {}
    by_itself: int = sum(found.values())
    return max(by_hand, by_itself)


def _compare(
    conditions: Iterable[Condition], *, now: datetime, targets: Sequence[str]
) -> None:
    """Open what is new, close what is over."""
    holding = {one.key: one for one in conditions}
    opened = {alert.key: alert for alert in Alert.objects.filter(ended_at=None)}
    for key, condition in holding.items():
        if key not in opened:
            _open(condition, now=now, targets=targets)
    for key, alert in opened.items():
        if key not in holding:
            _close(alert, now=now, targets=targets)


def _open(condition: Condition, *, now: datetime, targets: Sequence[str]) -> None:
    """Open an alert and queue its messages, unless another host just did."""
    summary = condition.summary[:LONGEST_SUMMARY]
    try:
        with transaction.atomic():
            alert = Alert.objects.create(
                key=condition.key, rule=condition.rule, summary=summary, began_at=now
            )
            _queue(
                alert,
                title=f"Autopilot: {condition.rule}",
                body=f"{summary}\nsince {format_instant(now)}",
                is_resolved=False,
                now=now,
                targets=targets,
            )
    except IntegrityError:
        return
    logger.warning("alert %s: %s", condition.key, summary)


def _close(alert: Alert, *, now: datetime, targets: Sequence[str]) -> None:
    """Close an alert and queue its messages, unless another host just did."""
    with transaction.atomic():
        if not Alert.objects.filter(pk=alert.pk, ended_at=None).update(ended_at=now):
            return
        _queue(
            alert,
            title=f"Autopilot: resolved: {alert.rule}",
            body=f"{alert.summary}\nfrom {format_instant(alert.began_at)} "
            f"to {format_instant(now)}",
            is_resolved=True,
            now=now,
            targets=targets,
        )
    logger.warning("alert %s is resolved", alert.key)


def _queue(
    alert: Alert,
    *,
    title: str,
    body: str,
    is_resolved: bool,
    now: datetime,
    targets: Sequence[str],
) -> None:
    """Queue a message for each target."""
    Notification.objects.bulk_create(
        Notification(
            alert=alert,
            target=target,
            title=title,
            body=body,
            is_resolved=is_resolved,
            created_at=now,
            next_attempt_at=now,
        )
        for target in targets
    )
