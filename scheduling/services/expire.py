"""Expire what is too old to fire by itself, for a person to decide."""

import logging
from datetime import datetime

from django.db import transaction

from scheduling.conf import age_limit
from scheduling.domain.actors import SCHEDULER, Actor, Operation, authorize
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import ScheduledTransition
from scheduling.services.audit import record
from scheduling.services.unproven import is_proven, lock_job, prove_outcomes

logger = logging.getLogger("autopilot.expiry")

LARGEST_BATCH = 1_000


def expire_too_old(*, now: datetime, actor: Actor = SCHEDULER) -> int:
    """Expire scheduled jobs overdue by more than the age limit; return how many.

    At most a thousand at a time (see `expire_some`).
    """
    return len(expire_some(now=now, actor=actor))


def expire_some(*, now: datetime, actor: Actor, project_id: str = "") -> list[int]:
    """Expire up to a thousand such jobs, the oldest first; return their keys.

    A job whose last attempt has an unknown outcome is looked for on the topic first;
    where that can't be done now it is left for the next time.

    Args:
        project_id: Canonical id; only the jobs of that project.

    Raises:
        OperationNotPermittedError: The actor's role may not expire.
    """
    authorize(actor, Operation.EXPIRE)
    old = ScheduledTransition.objects.too_old(horizon=now - age_limit())
    if project_id:
        old = old.filter(project_id=project_id)
    jobs = list(old.order_by("due_at")[:LARGEST_BATCH])
    try:
        searched = prove_outcomes(jobs, now=now)
    except ServiceUnavailableError as error:
        searched = {}
        jobs = [job for job in jobs if job.unproven_since is None]
        logger.warning("jobs of unknown outcome are not expired yet: %s", error)
    return [
        job.pk
        for job in jobs
        if _expire(job.job_id, searched=searched.get(job.job_id), actor=actor, now=now)
    ]


def _expire(job_id: str, *, searched: datetime | None, actor: Actor, now: datetime) -> bool:
    """Expire one job, if it still is too old; tell whether it was."""
    with transaction.atomic():
        job = lock_job(job_id)
        is_due = job.due_at < now - age_limit() and job.forced_at is None
        is_scheduled = job.current_status is TransitionStatus.SCHEDULED
        if not (is_due and is_scheduled and is_proven(job, searched=searched)):
            return False
        job.status = TransitionStatus.EXPIRED
        job.finalized_at = job.updated_at = now
        job.next_attempt_at = job.unproven_since = None
        job.save()
        record(
            "transition.expired",
            job,
            actor=actor,
            now=now,
            old=TransitionStatus.SCHEDULED,
            reason="overdue by more than the age limit",
        )
    return True
