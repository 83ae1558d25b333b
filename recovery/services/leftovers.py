"""What the rows alone tell: jobs of dead workers, and those whose instant has passed."""

from datetime import datetime

from recovery.services.ledger import Ledger
from recovery.services.pulse import Pulse
from recovery.services.runs import HeldRun
from recovery.services.write_breaker import write_breaker
from scheduling.adapters.breakers import BreakerOpenError
from scheduling.adapters.clock import database_now
from scheduling.conf import age_limit
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import ScheduledTransition
from scheduling.models.scheduled_transition import ScheduledTransitionQuerySet
from scheduling.services.expire import LARGEST_BATCH, expire_some
from scheduling.services.rescue import count_jobs_to_rescue, rescue_jobs


def rescue(held: HeldRun) -> None:
    """Free what dead workers hold, and count it."""
    is_dry = held.request.dry_run
    held.tally.rescued_jobs += count_jobs_to_rescue() if is_dry else rescue_jobs()


def look_after_overdue(held: HeldRun, *, ledger: Ledger, pulse: Pulse) -> None:
    """Expire what is too old to fire, and count what fires by itself.

    A job that was found overdue and is gone by now has fired. Those that this run has
    made are counted already.
    """
    now = database_now()
    is_dry = held.request.dry_run
    expired = set() if is_dry else _expire(held, pulse=pulse, now=now)
    too_old = _overdue_jobs(held, now=now - age_limit())
    old = set(too_old.values_list("pk", flat=True))
    due = set(_overdue_jobs(held, now=now).values_list("pk", flat=True))
    if is_dry:
        ledger.would_expire(too_old.order_by("due_at", "pk").iterator())
        expired, old = old, set()
    firing = (ledger.firing | due) - old - expired
    held.tally.counts["expired_phases"] += len(expired)
    held.tally.counts["overdue_phases_processed"] += len(firing)
    if old:
        held.tally.counts["failed_phases"] += len(old)
        held.tally.name("", f"{len(old)} jobs can't be expired yet")


def _expire(held: HeldRun, *, pulse: Pulse, now: datetime) -> set[int]:
    """Expire all that is too old; return the keys of those not counted otherwise."""
    expired: set[int] = set()
    while True:
        try:
            with write_breaker().guarding():
                some = expire_some(
                    now=now, actor=held.actor, project_id=held.request.project_id
                )
        except BreakerOpenError as error:
            held.tally.name("", error.detail)
            break
        expired.update(some)
        pulse.show()
        if len(some) < LARGEST_BATCH:
            break
    if not expired:
        return expired
    made = ScheduledTransition.objects.filter(
        status=TransitionStatus.EXPIRED, created_at__gte=held.run.started_at
    )
    return expired.difference(made.values_list("pk", flat=True))


def _overdue_jobs(held: HeldRun, *, now: datetime) -> ScheduledTransitionQuerySet:
    """Return the scheduled jobs due before then, of before this run.

    Without those that somebody demanded since.
    """
    jobs = ScheduledTransition.objects.too_old(horizon=now).order_by()
    jobs = jobs.filter(created_at__lt=held.run.started_at)
    project_id = held.request.project_id
    return jobs.filter(project_id=project_id) if project_id else jobs
