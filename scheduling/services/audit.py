"""The one way by which services write the audit, inside the caller's transaction."""

from datetime import datetime
from typing import Any

from scheduling.adapters.inserts import new_row
from scheduling.domain.actors import Actor, Role
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition

ACTIONS = frozenset(
    {
        "transition.scheduled",
        "transition.updated",
        "transition.claimed",
        "transition.given_back",
        "transition.rescued",
        "transition.attempt_failed",
        "transition.completed",
        "transition.failed",
        "transition.cancelled",
        "transition.expired",
        "transition.run_now",
        "transition.retried",
        "transition.overtaken",
        "transition.archived",
        "access.refused",
    }
)


def entry(
    action: str,
    job: ScheduledTransition,
    *,
    actor: Actor,
    now: datetime,
    old: TransitionStatus | None,
    changes: dict[str, Any] | None = None,
    reason: str = "",
) -> AuditEntry:
    """Return an entry that tells how the job came from `old` to its present status.

    Raises:
        ValueError: The action is not one of `ACTIONS`.
    """
    if action not in ACTIONS:
        raise ValueError(f"unknown audit action {action!r}")
    made: AuditEntry = new_row(
        AuditEntry,
        at=now,
        action=action,
        job_id=job.job_id,
        project_id=job.project_id,
        phase_id=job.phase_id,
        state=job.state,
        actor=actor.name,
        role=actor.role.value,
        old_status=old or "",
        new_status=job.status,
        changes=changes or {},
        reason=reason,
        request_id=actor.request_id,
    )
    return made


def record(
    action: str,
    job: ScheduledTransition,
    *,
    actor: Actor,
    now: datetime,
    old: TransitionStatus | None,
    changes: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    """Write the entry; the caller's transaction makes it one fact with the change."""
    entry(action, job, actor=actor, now=now, old=old, changes=changes, reason=reason).save()


def record_refusal(
    *,
    actor_name: str,
    role: Role | None,
    method: str,
    path: str,
    request_id: str,
    now: datetime,
) -> None:
    """Write that a signed-in user was refused; such an entry has no job.

    Args:
        actor_name: `user:NAME`; a user without any role is no `Actor`.
        path: Escaped, as in an address.
    """
    AuditEntry(
        at=now,
        action="access.refused",
        actor=actor_name,
        role=role or "",
        changes={"method": method, "path": path},
        request_id=request_id,
    ).save()


def shown(value: object) -> object:
    """Return a value as the audit's `changes` show it."""
    return format_instant(value) if isinstance(value, datetime) else value
