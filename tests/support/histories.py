"""Named pasts of a job: rows and audit entries as the product itself leaves them."""

import uuid
from datetime import timedelta
from itertools import count, pairwise

from scheduling.adapters.owner import Owner, host_identity
from scheduling.domain.actors import SCHEDULER, Role, user_actor
from scheduling.domain.lifecycle import LIVE, TransitionStatus
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.audit import entry

S = TransitionStatus
_PERSON = user_actor("hannah", role=Role.OPERATOR)
# Each step: action, status after it, actor.
_SCHEDULED = ("transition.scheduled", S.SCHEDULED, _PERSON)
_CLAIMED = ("transition.claimed", S.RUNNING, SCHEDULER)
SCHEDULED = (_SCHEDULED,)
RUNNING = (_SCHEDULED, _CLAIMED)
COMPLETED = (*RUNNING, ("transition.completed", S.COMPLETED, SCHEDULER))
FAILED = (*RUNNING, ("transition.failed", S.FAILED, SCHEDULER))
CANCELLED = (_SCHEDULED, ("transition.cancelled", S.CANCELLED, _PERSON))
EXPIRED = (_SCHEDULED, ("transition.expired", S.EXPIRED, SCHEDULER))
# A worker died while it published: nobody knows whether the record is on the topic.
UNPROVEN = (*RUNNING, ("transition.rescued", S.SCHEDULED, SCHEDULER))
FAILED_UNPROVEN = (*RUNNING, ("transition.failed", S.FAILED, SCHEDULER))
ALL = {
    S.SCHEDULED: SCHEDULED,
    S.RUNNING: RUNNING,
    S.COMPLETED: COMPLETED,
    S.FAILED: FAILED,
    S.CANCELLED: CANCELLED,
    S.EXPIRED: EXPIRED,
}

_numbers = count(1)


def make_job(history=SCHEDULED, *, now, due_in=3600.0, **fields):
    """Return a saved job with that past, due that many seconds from now.

    Each gets a project and phase of its own unless told otherwise.
    """
    number = next(_numbers)
    status = history[-1][1]
    due_at = fields.pop("due_at", now + timedelta(seconds=due_in))
    values = {
        "project_id": str(1_000_000 + number),
        "phase_id": str(2_000_000 + number),
        "phase_type_name": "Registration",
        "state": "END",
        "operator": "admin",
        "project_status": "ACTIVE",
        "due_at": due_at,
        "event_at": due_at,
        "ready_at": due_at,
        "max_attempts": 4,
        "created_at": now - timedelta(minutes=1),
        "updated_at": now - timedelta(minutes=1),
        "status": status.value,
        **_marks(history, now=now),
        **fields,
    }
    values.setdefault("key", values.get("challenge_id") or values["project_id"])
    values.setdefault("job_id", f"job-{number}-{values['project_id']}-{values['phase_id']}")
    job = ScheduledTransition.objects.create(**values)
    _write_audit(job, history, now=now)
    return job


def _marks(history, *, now):
    """Return the columns that tell of the past."""
    status = history[-1][1]
    marks = {}
    if status not in LIVE:
        marks["finalized_at"] = now
    if _CLAIMED in history:
        marks |= {"started_at": now, "attempts": 1}
    if status is S.RUNNING:
        marks |= {
            "claim_token": uuid.uuid4(),
            "claimed_by": str(Owner.current()),
            "lease_until": now + timedelta(seconds=10),
        }
    if status is S.COMPLETED:
        marks |= {
            "completed_at": now,
            "topic_partition": 0,
            "topic_offset": 0,
            "lateness_ms": 4.0,
        }
    if status is S.FAILED:
        marks |= {"attempts": 4, "last_error": "refused"}
    if history is UNPROVEN:
        marks |= {"attempts": 0, "unproven_since": now, "last_error": "its worker died"}
    if history is FAILED_UNPROVEN:
        marks |= {"unproven_since": now}
    return marks


def _write_audit(job, history, *, now):
    """Write one entry for each step."""
    old = None
    for action, status, actor in history:
        step = entry(action, job, actor=actor, now=now, old=old)
        step.new_status = status.value
        step.save()
        old = status


def a_dead_owner():
    """Return a process of this host that is no more, as rows name it."""
    return str(Owner(host=host_identity(), process="1@1", session=""))


def columns(job):
    """Return the stored row, every column."""
    return ScheduledTransition.objects.filter(job_id=job.job_id).values().get()


def audit_of(job_id):
    """Return the audit entries of a job, oldest first."""
    return list(AuditEntry.objects.filter(job_id=job_id).order_by("id"))


def chain_breaks(job_id):
    """Return where a job's entries don't follow from one another."""
    entries = audit_of(job_id)
    breaks = [
        f"{job_id}: {later.action} begins at {later.old_status!r}, not at "
        f"{earlier.new_status!r}"
        for earlier, later in pairwise(entries)
        if later.old_status != earlier.new_status
    ]
    if entries and entries[0].old_status:
        breaks.append(f"{job_id}: begins with {entries[0].action}")
    return breaks


def state_of(job):
    """Return all that a refused request must leave alone: columns and audit."""
    return columns(job), [one.pk for one in audit_of(job.job_id)]
