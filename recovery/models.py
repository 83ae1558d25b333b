"""What each run of recovery was asked for, found and did."""

import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from django.db import models
from django.db.models import Case, Q, Value, When
from typing_extensions import override

from recovery.results import COUNTERS, OPEN, RecoveryResult, RunStatus, Trigger
from scheduling.domain.phases import format_instant, wire_id

_OPEN = Q(status__in=sorted(one.value for one in OPEN))
_RUNNING = Q(status=RunStatus.IN_PROGRESS.value)


class RecoveryRunQuerySet(models.QuerySet["RecoveryRun"]):
    """Named sets of runs."""

    def open(self) -> Self:
        """Return the run that waits or is carried out; there is one at most."""
        return self.filter(_OPEN)

    def whole(self) -> Self:
        """Runs over everything that changed what they found."""
        return self.filter(dry_run=False, project_id="").exclude(status=RunStatus.DISABLED)


class RecoveryRun(models.Model):
    """One run, and its progress while it runs.

    Whoever carries it out holds `token`, and writes `WHERE token = mine`: a process that
    was paused past its lease, and whose place was taken, changes nothing more.
    """

    run_id = models.UUIDField(default=uuid.uuid4, unique=True)
    trigger = models.CharField(
        max_length=7, choices=[(one.value, one.value) for one in Trigger]
    )
    status = models.CharField(
        max_length=21,
        default=RunStatus.NOT_STARTED.value,
        choices=[(one.value, one.value) for one in RunStatus],
    )
    dry_run = models.BooleanField(default=False)
    # Canonical id of the only project that is looked at; empty: all.
    project_id = models.CharField(max_length=36, blank=True, default="")
    # Who asked for it: see scheduling.domain.actors.
    actor = models.CharField(max_length=300)
    role = models.CharField(max_length=8)
    request_id = models.CharField(max_length=64, blank=True, default="")

    upcoming_phases_scheduled = models.PositiveIntegerField(default=0)
    rescheduled_phases = models.PositiveIntegerField(default=0)
    overdue_phases_processed = models.PositiveIntegerField(default=0)
    expired_phases = models.PositiveIntegerField(default=0)
    cancelled_jobs = models.PositiveIntegerField(default=0)
    unchanged_phases = models.PositiveIntegerField(default=0)
    skipped_phases = models.PositiveIntegerField(default=0)
    failed_phases = models.PositiveIntegerField(default=0)
    rescued_jobs = models.PositiveIntegerField(default=0)
    # As the outside sees them: `phaseId` and `reason` of each.
    errors = models.JSONField(default=list)

    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    # Who carries it out, and until when that is believed without a sign of life.
    token = models.UUIDField(null=True, blank=True)
    owner = models.CharField(max_length=255, blank=True, default="")
    lease_until = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[RecoveryRunQuerySet] = RecoveryRunQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ["-id"]
        constraints = [
            # Over all hosts one run at a time: all others are null here, and nulls
            # never equal one another.
            models.UniqueConstraint(
                Case(When(_OPEN, then=Value(1)), default=None), name="run_one_open"
            ),
            models.CheckConstraint(
                condition=Q(status__in=[one.value for one in RunStatus]),
                name="run_status_known",
            ),
            models.CheckConstraint(
                condition=(
                    _RUNNING
                    & Q(token__isnull=False)
                    & Q(lease_until__isnull=False)
                    & Q(started_at__isnull=False)
                )
                | (~_RUNNING & Q(token__isnull=True) & Q(lease_until__isnull=True)),
                name="run_in_progress_iff_held",
            ),
            models.CheckConstraint(
                condition=(_OPEN & Q(finished_at__isnull=True))
                | (~_OPEN & Q(finished_at__isnull=False)),
                name="run_finished_iff_not_open",
            ),
        ]
        indexes = [
            # Each cluster asks every second whether one is open.
            models.Index(fields=["id"], condition=_OPEN, name="run_open"),
        ]

    @override
    def __str__(self) -> str:
        return str(self.run_id)

    @property
    def current_status(self) -> RunStatus:
        """The status as a value; a column reads back as text."""
        return RunStatus(self.status)

    @property
    def result(self) -> RecoveryResult:
        """The run as the outside sees it."""
        counts: dict[str, int] = {
            outside: getattr(self, column) for column, outside in COUNTERS.items()
        }
        return RecoveryResult(
            runId=str(self.run_id),
            trigger=self.trigger,
            status=self.status,
            dryRun=self.dry_run,
            projectId=wire_id(self.project_id) if self.project_id else None,
            totalPhasesProcessed=sum(counts.values()),
            rescuedJobs=self.rescued_jobs,
            errors=self.errors,
            startedAt=_shown(self.started_at),
            finishedAt=_shown(self.finished_at),
            executionTime=self.execution_ms,
            **counts,
        )

    @property
    def execution_ms(self) -> int | None:
        """How long it took; null until it has ended."""
        if self.finished_at is None:
            return None
        took = self.finished_at - (self.started_at or self.finished_at)
        return max(0, took // timedelta(milliseconds=1))

    def show(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return dict(self.result)


def _shown(instant: datetime | None) -> str | None:
    """Return an instant as the outside sees it."""
    return format_instant(instant) if instant else None
