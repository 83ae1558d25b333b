"""The row that is the timer: one scheduled transition, outside called a job."""

import uuid
from datetime import datetime
from typing import Any, ClassVar, Self

from django.db import models
from django.db.models import F, Q
from typing_extensions import override

from scheduling.domain.lifecycle import FINAL, LIVE, TransitionKind, TransitionStatus

# The default of AUTOPILOT_LATENESS_SLO_MS, from which on an index has those that were late.
LATE_MS = 1_000
_LIVE = Q(status__in=sorted(LIVE))
_FINAL = Q(status__in=sorted(FINAL))
_SCHEDULED = Q(status=TransitionStatus.SCHEDULED)
_RUNNING = Q(status=TransitionStatus.RUNNING)


class ScheduledTransitionQuerySet(models.QuerySet["ScheduledTransition"]):
    """Named sets of jobs."""

    def live(self) -> Self:
        """Jobs that are scheduled or running."""
        return self.filter(_LIVE)

    def of_identity(self, project_id: str, phase_id: str, state: str) -> Self:
        """Jobs of one transition, live and past."""
        return self.filter(project_id=project_id, phase_id=phase_id, state=state)

    def overdue(self, *, now: datetime) -> Self:
        """Live jobs whose instant has passed."""
        return self.live().filter(due_at__lt=now)

    def too_old(self, *, horizon: datetime) -> Self:
        """Scheduled jobs due before the age limit that nobody demanded since."""
        return self.filter(_SCHEDULED, due_at__lt=horizon, forced_at=None)


class ScheduledTransition(models.Model):
    """One START or END of one phase, due at an instant.

    `status` is changed by `services` (one row at a time, guarded) and by
    `adapters.claims` (batches of the engine), nowhere else.
    """

    job_id = models.CharField(max_length=128)
    # Stable over every attempt, and over a retry's new row: consumers de-duplicate by it.
    event_id = models.UUIDField(default=uuid.uuid4)

    project_id = models.CharField(max_length=36)
    phase_id = models.CharField(max_length=36)
    challenge_id = models.CharField(max_length=36, null=True, blank=True)  # noqa: DJ001
    phase_type_name = models.CharField(max_length=255)
    state = models.CharField(
        max_length=5, choices=[(kind.value, kind.value) for kind in TransitionKind]
    )
    operator = models.CharField(max_length=255)
    project_status = models.CharField(max_length=255)
    metadata = models.JSONField(default=dict, blank=True)
    # What the caller gave as `date`, kept as said; nothing is computed from it.
    date = models.DateTimeField(null=True, blank=True)

    # Record key: the challenge, or else the project. Order on the topic is kept per key.
    key = models.CharField(max_length=36)
    due_at = models.DateTimeField()
    # The `date` of the event: the due instant, or that of an operator's run-now.
    event_at = models.DateTimeField()
    # The instant that upstream showed for this transition; null where it never did.
    upstream_at = models.DateTimeField(null=True, blank=True)
    # A person decided its fate (cancelled it, or moved it here), or somebody else
    # published it: no automatism undoes that until upstream shows another instant than
    # `upstream_at`.
    is_overridden = models.BooleanField(default=False)
    # When an operator demanded it now (run-now, retry): exempt from order and age limit.
    forced_at = models.DateTimeField(null=True, blank=True)
    # Claimable from then on: due_at, later after a failed attempt, sooner when forced.
    ready_at = models.DateTimeField()

    status = models.CharField(
        max_length=9,
        default=TransitionStatus.SCHEDULED,
        choices=[(status.value, status.value) for status in TransitionStatus],
    )
    attempts = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField()
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True, default="")

    # Who holds the job while it runs: see adapters.claims and claim_ends.
    claim_token = models.UUIDField(null=True, blank=True)
    claimed_by = models.CharField(max_length=255, blank=True, default="")
    lease_until = models.DateTimeField(null=True, blank=True)
    # First instant from which an attempt may have put the record on the topic without
    # our knowing: the topic is searched from there before anything else is done.
    unproven_since = models.DateTimeField(null=True, blank=True)

    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    finalized_at = models.DateTimeField(null=True, blank=True)
    lateness_ms = models.FloatField(null=True, blank=True)
    topic_partition = models.IntegerField(null=True, blank=True)
    topic_offset = models.BigIntegerField(null=True, blank=True)
    # The W3C `traceparent` of the request or record that asked for it, where there was
    # one. With the database's own default, as the release before knows no such column.
    trace_parent = models.CharField(max_length=55, blank=True, default="", db_default="")
    # Job ids, not foreign keys: they name a job also after its row was cleaned up.
    replaces = models.CharField(max_length=128, blank=True, default="")
    replaced_by = models.CharField(max_length=128, blank=True, default="")

    objects: ClassVar[ScheduledTransitionQuerySet] = (
        ScheduledTransitionQuerySet.as_manager()  # type: ignore[assignment]
    )

    class Meta:
        ordering = ["due_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["job_id"], name="transition_job_id"),
            # Whatever races, a transition has one live job.
            models.UniqueConstraint(
                fields=["project_id", "phase_id", "state"],
                condition=_LIVE,
                name="transition_one_live",
            ),
            models.CheckConstraint(
                condition=Q(status__in=[status.value for status in TransitionStatus]),
                name="transition_status_known",
            ),
            models.CheckConstraint(
                condition=Q(state__in=[kind.value for kind in TransitionKind]),
                name="transition_state_known",
            ),
            models.CheckConstraint(
                condition=(_FINAL & Q(finalized_at__isnull=False))
                | (_LIVE & Q(finalized_at__isnull=True)),
                name="transition_final_iff_finalized",
            ),
            models.CheckConstraint(
                condition=(
                    _RUNNING
                    & Q(claim_token__isnull=False)
                    & Q(lease_until__isnull=False)
                    & Q(started_at__isnull=False)
                )
                | (~_RUNNING & Q(claim_token__isnull=True) & Q(lease_until__isnull=True)),
                name="transition_running_iff_claimed",
            ),
            models.CheckConstraint(
                condition=~Q(status=TransitionStatus.COMPLETED)
                | Q(
                    completed_at__isnull=False,
                    topic_partition__isnull=False,
                    topic_offset__isnull=False,
                ),
                name="transition_completed_has_position",
            ),
            models.CheckConstraint(
                condition=Q(attempts__lte=F("max_attempts")),
                name="transition_attempts_bounded",
            ),
            # Never early: only an operator's demand makes it ready before its instant.
            models.CheckConstraint(
                condition=Q(ready_at__gte=F("due_at")) | Q(forced_at__isnull=False),
                name="transition_never_early",
            ),
        ]
        indexes = [
            # The due-broker's look and the claim, in due order, END before START. Its
            # condition says more than "scheduled", or else the planner, whose figures
            # lag behind a burst, takes it for the searches by key and by id as well.
            models.Index(
                fields=["ready_at", "state", "id"],
                condition=_SCHEDULED & Q(claim_token__isnull=True),
                name="transition_ready",
            ),
            # The claim's question "is an earlier one of this key unfinished": two small
            # indexes, since one over all live rows makes a burst on one key quadratic.
            models.Index(
                fields=["key", "due_at"],
                condition=_RUNNING,
                name="transition_key_running",
            ),
            models.Index(
                fields=["key", "due_at"],
                condition=_SCHEDULED & Q(ready_at__gt=F("due_at")),
                name="transition_key_deferred",
            ),
            # Planning asks for the past of an identity; lists filter by phase.
            models.Index(
                fields=["phase_id", "project_id", "state"], name="transition_phase"
            ),
            # Lists filter by project: of the live jobs `transition_one_live` has it, and
            # what is only in this one costs the firing path one entry instead of three.
            models.Index(
                fields=["project_id"], condition=_FINAL, name="transition_final_project"
            ),
            # Lists filter by challenge; a terminal challenge cancels its jobs.
            models.Index(
                fields=["challenge_id"],
                condition=Q(challenge_id__isnull=False),
                name="transition_challenge",
            ),
            # The API's default order; with status and state in it, a filter by them needs
            # no look at the rows. (One of the live jobs alone would serve some lists
            # better, but the planner takes it for the claim's questions after a burst.)
            models.Index(
                fields=["due_at", "id", "status", "state"], name="transition_due_order"
            ),
            # A few failed ones would have to be searched among all.
            models.Index(
                fields=["status", "due_at", "id"],
                condition=_FINAL,
                name="transition_final_due",
            ),
            # What was published late; all else costs it nothing.
            models.Index(
                fields=["lateness_ms"],
                condition=Q(lateness_ms__gt=LATE_MS),
                name="transition_late",
            ),
            # Clean-up finds what has been final for long enough.
            models.Index(
                fields=["finalized_at"],
                condition=Q(finalized_at__isnull=False),
                name="transition_finalized",
            ),
        ]

    @override
    def __str__(self) -> str:
        return self.job_id

    @property
    def kind(self) -> TransitionKind:
        """START or END, as a value of the domain."""
        return TransitionKind(self.state)

    @property
    def current_status(self) -> TransitionStatus:
        """The status as a value of the domain; a column reads back as text."""
        return TransitionStatus(self.status)

    @property
    def told_status(self) -> str:
        """The status in words, with the job that took its place."""
        replaced = f", was replaced by {self.replaced_by}" if self.replaced_by else ""
        return f"{self.status}{replaced}"

    def as_obstacle(self) -> dict[str, str]:
        """Return what a refusal tells programs of a job that is in the way."""
        replaced = {"replacedBy": self.replaced_by} if self.replaced_by else {}
        return {"status": self.status, **replaced}

    @property
    def is_live(self) -> bool:
        """Whether it is scheduled or running."""
        return self.current_status in LIVE

    def values(self) -> dict[str, Any]:
        """Return every column by name, for the audit's archive."""
        return {f.attname: getattr(self, f.attname) for f in self._meta.concrete_fields}
