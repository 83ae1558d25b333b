"""Move finished jobs out of the live table, once the audit holds them whole."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from scheduling.adapters.inserts import insert_rows
from scheduling.conf import scheduler_settings
from scheduling.domain.actors import SCHEDULER
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import (
    JobText,
    RunningTotal,
    ScheduledTransition,
    SettledTransition,
)
from scheduling.models.job_text import REACH
from scheduling.services.audit import entry

BATCH = 500
# The workers are there for firing: a longer backlog is left to the next run.
MOST_SECONDS = 20.0


def clean_up(*, now: datetime) -> int:
    """Archive and delete what has been finished for long enough; return how many.

    Completed and cancelled jobs go after SCHEDULER_MAX_COMPLETED_JOB_AGE, failed ones
    that somebody retried after SCHEDULER_MAX_FAILED_JOB_AGE. Failed and expired jobs
    that nobody dealt with stay (contract, section 2).
    """
    conf = scheduler_settings()
    old_enough = Q(
        status__in=[TransitionStatus.COMPLETED, TransitionStatus.CANCELLED],
        finalized_at__lte=now - conf.period("max_completed_job_age"),
    ) | (
        Q(
            status=TransitionStatus.FAILED,
            finalized_at__lte=now - conf.period("max_failed_job_age"),
        )
        & ~Q(replaced_by="")
    )
    cleaned = 0
    ends_at = time.monotonic() + MOST_SECONDS
    while True:
        with transaction.atomic():
            jobs = list(
                ScheduledTransition.objects.select_for_update(skip_locked=True)
                .filter(old_enough)
                .order_by("finalized_at")[:BATCH]
            )
            _archive(jobs, now=now)
        cleaned += len(jobs)
        if len(jobs) < BATCH or time.monotonic() > ends_at:
            return cleaned


def _archive(jobs: Sequence[ScheduledTransition], *, now: datetime) -> None:
    """Write the archive entries, remember what is settled, delete the rows."""
    insert_rows(
        [
            entry(
                "transition.archived",
                job,
                actor=SCHEDULER,
                now=now,
                old=job.current_status,
                changes={"job": archived(job)},
            )
            for job in jobs
        ]
    )
    _remember_settled(jobs, now=now)
    keys = [job.pk for job in jobs]
    # Whoever keeps texts of these at this moment comes to an end first: its own would stay.
    list(RunningTotal.objects.select_for_update().filter(name=REACH))
    JobText.objects.filter(pk__in=keys).delete()
    ScheduledTransition.objects.filter(pk__in=keys).delete()


def archived(job: ScheduledTransition) -> dict[str, Any]:
    """Return the whole row as JSON values, by column."""
    return {name: _plain(value) for name, value in job.values().items()}


def _plain(value: object) -> object:
    """Return a column's value as JSON holds it."""
    if isinstance(value, datetime):
        return format_instant(value)
    return str(value) if isinstance(value, UUID) else value


def _remember_settled(jobs: Sequence[ScheduledTransition], *, now: datetime) -> None:
    """Keep what no automatism may make again once its row is gone."""
    SettledTransition.objects.bulk_create(
        [
            SettledTransition(
                project_id=job.project_id,
                phase_id=job.phase_id,
                state=job.state,
                job_id=job.job_id,
                due_at=job.due_at,
                upstream_at=job.upstream_at or job.due_at,
                settled_at=now,
            )
            for job in jobs
            if job.current_status is TransitionStatus.COMPLETED
            or (job.is_overridden and not job.replaced_by)
        ],
        ignore_conflicts=True,
    )
