"""The jobs of a benchmark: made by the product's services, and taken away at the end.

What remains of them is in the audit, which nobody can shorten.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from scheduling.adapters.claim_ends import rescue_abandoned
from scheduling.adapters.clock import database_now
from scheduling.adapters.inserts import insert_rows
from scheduling.domain.actors import Actor
from scheduling.domain.errors import SchedulingError
from scheduling.domain.lifecycle import LIVE, TransitionKind, TransitionStatus
from scheduling.domain.phases import PhaseData
from scheduling.models import ScheduledTransition
from scheduling.models.scheduled_transition import ScheduledTransitionQuerySet
from scheduling.services.audit import entry
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import archived
from scheduling.services.schedule import schedule_many

# The last 254 thousand million ids of a project: nobody else's, and known at sight.
FIRST_PROJECT = 9_007_199_000_000_000
_PREFIX = "9007199"
OPERATOR = "benchmark"
CHUNK = 1_000
# Longer than the lease of a cluster that had to be killed.
_RESCUE_SECONDS = 20.0
Tick = Callable[[int], None]


def whole_milliseconds(instant: datetime) -> datetime:
    """Return the instant cut as the product cuts every due instant."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def of_benchmarks() -> ScheduledTransitionQuerySet:
    """Return the rows of this and of earlier benchmarks."""
    return ScheduledTransition.objects.filter(
        project_id__startswith=_PREFIX,
        project_id__gte=str(FIRST_PROJECT),
        operator=OPERATOR,
    )


class Workload:
    """Makes jobs of one run, waits for them and removes them."""

    def __init__(self, *, run: str, actor: Actor) -> None:
        self.run = run
        self._actor = actor
        self._number = 0

    def phase(self, due_at: datetime, *, challenge_id: str | None = None) -> PhaseData:
        """Return the data of the next job; each has a project, so a key, of its own."""
        self._number += 1
        return PhaseData(
            project_id=str(FIRST_PROJECT + self._number),
            phase_id=str(self._number),
            challenge_id=challenge_id,
            phase_type_name="Benchmark",
            state=TransitionKind.END,
            end_time=due_at,
            operator=OPERATOR,
            project_status="ACTIVE",
            metadata={"benchmark": self.run},
        )

    def schedule(
        self, instants: Sequence[datetime], *, tick: Tick, challenge_id: str | None = None
    ) -> None:
        """Schedule one job for each instant, a thousand at a time.

        Raises:
            SchedulingError: The settings refuse such jobs.
        """
        for start in range(0, len(instants), CHUNK):
            chunk = instants[start : start + CHUNK]
            results = schedule_many(
                [self.phase(due, challenge_id=challenge_id) for due in chunk],
                actor=self._actor,
                now=database_now(),
            )
            for result in results:
                if isinstance(result, SchedulingError):
                    raise result
            tick(len(chunk))

    def far_ahead(self) -> datetime:
        """Return an instant that does not come while a benchmark runs."""
        furthest = settings.SCHEDULER.period("max_schedule_advance")
        return whole_milliseconds(database_now() + min(timedelta(days=30), furthest * 0.5))

    def lead(self, jobs: int) -> timedelta:
        """Return how far ahead so many jobs must be due, to be there in time."""
        least: timedelta = settings.SCHEDULER.period("min_schedule_advance")
        return least + timedelta(seconds=2 + jobs / 800)

    def wait_until_done(
        self,
        last_due: datetime,
        *,
        timeout_seconds: float,
        poll_seconds: float,
        check: Callable[[], None],
    ) -> bool:
        """Wait until nothing due is left; False when the time is up.

        Asked by two small indexes only, so that the question costs next to nothing.
        """
        give_up_at = time.monotonic() + timeout_seconds
        rows = ScheduledTransition.objects.order_by()
        while time.monotonic() < give_up_at:
            waiting = rows.filter(status=TransitionStatus.SCHEDULED, ready_at__lte=last_due)
            running = rows.filter(status=TransitionStatus.RUNNING)
            if not waiting.exists() and not running.exists():
                return True
            check()
            time.sleep(poll_seconds)
        return False

    def remove(self, *, tick: Tick, rows: ScheduledTransitionQuerySet | None = None) -> int:
        """Cancel what is live, archive all and delete the rows; return how many.

        As clean-up does it, a thousand at a time, so that `verify` finds each job whole.
        To be called when no cluster of ours runs any more.

        Args:
            rows: Those rows only, none of which ever runs; without it all that
                benchmarks schedule.
        """
        if rows is None:
            self._settle()
            rows = of_benchmarks()
        removed = 0
        while True:
            with transaction.atomic():
                left = rows.exclude(status=TransitionStatus.RUNNING)
                jobs = list(left.select_for_update().order_by("id")[:CHUNK])
                self._archive(jobs)
            removed += len(jobs)
            tick(len(jobs))
            if len(jobs) < CHUNK:
                return removed

    def _settle(self) -> None:
        """Free what a killed cluster held, and look on the topic for what it left open."""
        give_up_at = time.monotonic() + _RESCUE_SECONDS
        running = of_benchmarks().filter(status=TransitionStatus.RUNNING)
        while running.exists() and time.monotonic() < give_up_at:
            rescue_abandoned()
            time.sleep(0.2)
        unproven = of_benchmarks().filter(
            status=TransitionStatus.SCHEDULED, unproven_since__isnull=False
        )
        for job_id in list(unproven.values_list("job_id", flat=True)):
            try:
                cancel_transition(
                    job_id=job_id,
                    actor=self._actor,
                    reason=self._reason,
                    now=database_now(),
                )
            except SchedulingError:
                # Found on the topic and so completed, or the topic is away: whether the
                # record is there will then stay unknown.
                continue

    @property
    def _reason(self) -> str:
        """Why what is left is cancelled."""
        return f"benchmark {self.run} is over"

    def _archive(self, jobs: Sequence[ScheduledTransition]) -> None:
        """Write the last entries of the jobs and delete their rows."""
        now = database_now()
        entries = []
        for job in jobs:
            old = job.current_status
            if old in LIVE:
                job.status = TransitionStatus.CANCELLED
                job.finalized_at = job.updated_at = now
                entries.append(
                    entry(
                        "transition.cancelled",
                        job,
                        actor=self._actor,
                        now=now,
                        old=old,
                        reason=self._reason,
                    )
                )
            entries.append(
                entry(
                    "transition.archived",
                    job,
                    actor=self._actor,
                    now=now,
                    old=job.current_status,
                    changes={"job": archived(job)},
                )
            )
        insert_rows(entries)
        ScheduledTransition.objects.filter(pk__in=[job.pk for job in jobs]).delete()
