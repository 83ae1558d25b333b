"""The one way by which services write the audit, inside the caller's transaction."""

from datetime import datetime
from typing import Any

from scheduling.adapters.inserts import new_row
from scheduling.domain.actors import Actor, Role
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.domain.texts import printable
from scheduling.models import AuditEntry, ScheduledTransition

# What the column of the actor holds.
LONGEST_ACTOR = 300
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
        "access.logged_in",
        "access.login_failed",
        "access.token_reused",
        "account.added",
        "account.changed",
        "account.deleted",
        "command.done",
        "command.refused",
        "dead_letter.replayed",
        "dead_letter.discarded",
        "recovery.started",
        "recovery.finished",
        "breaker.opened",
        "breaker.half_opened",
        "breaker.closed",
        "breaker.reset",
        "settings.changed",
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
    _check(action)
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


def _write(
    action: str, *, actor: str, role: Role | None, now: datetime, **values: Any
) -> None:
    """Write an entry that has no job.

    Raises:
        ValueError: The action is not one of `ACTIONS`.
    """
    _check(action)
    AuditEntry(at=now, action=action, actor=actor, role=role or "", **values).save()


def _check(action: str) -> None:
    """Refuse an action that nobody registered.

    Raises:
        ValueError: It is not one of `ACTIONS`.
    """
    if action not in ACTIONS:
        raise ValueError(f"unknown audit action {action!r}")


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
    _write(
        "access.refused",
        actor=actor_name,
        role=role,
        now=now,
        changes={"method": method, "path": path},
        request_id=request_id,
    )


def record_command(
    *,
    operator: str,
    is_done: bool,
    project_id: str,
    phase_id: str,
    state: str,
    changes: dict[str, Any],
    reason: str,
    request_id: str,
    now: datetime,
) -> None:
    """Write that a command came in by record, and what became of it.

    Args:
        operator: As the command names it; empty where it names nobody.
        reason: What was answered.
    """
    _write(
        "command.done" if is_done else "command.refused",
        actor=f"kafka:{operator}",
        role=Role.OPERATOR if is_done else None,
        now=now,
        project_id=project_id,
        phase_id=phase_id,
        state=state,
        changes=changes,
        reason=reason,
        request_id=request_id,
    )


def record_act(
    action: str,
    *,
    actor: Actor,
    now: datetime,
    changes: dict[str, Any],
    reason: str = "",
) -> None:
    """Write what a person did that concerns no job: to a dead letter, a setting, a user.

    Raises:
        ValueError: The action is not one of `ACTIONS`.
    """
    _write(
        action,
        actor=actor.name,
        role=actor.role,
        now=now,
        changes=changes,
        reason=reason,
        request_id=actor.request_id,
    )


def record_recovery(
    action: str,
    *,
    actor: Actor,
    now: datetime,
    project_id: str,
    changes: dict[str, Any],
    reason: str,
    run_id: str,
) -> None:
    """Write that a run of recovery began or ended; it has no job.

    Args:
        project_id: The only project that it looks at, or empty.
        run_id: Joins it to the entries of the jobs that the run changed, where no
            request joins them already.

    Raises:
        ValueError: The action is not one of `ACTIONS`.
    """
    _write(
        action,
        actor=actor.name,
        role=actor.role,
        now=now,
        project_id=project_id,
        changes=changes,
        reason=reason,
        request_id=actor.request_id or run_id,
    )


def record_access(
    action: str,
    *,
    name: str,
    role: Role | None,
    door: str,
    address: str,
    request_id: str,
    now: datetime,
    reason: str = "",
) -> None:
    """Write that somebody logged in, failed to, or used a spent token; it has no job.

    Args:
        name: As given, whoever it was that gave it; escaped and cut here.
        door: `api` or `admin`.
        address: Where it came from; empty where the server does not know.

    Raises:
        ValueError: The action is not one of `ACTIONS`.
    """
    _write(
        action,
        actor=f"user:{printable(name[:LONGEST_ACTOR])}"[:LONGEST_ACTOR],
        role=role,
        now=now,
        changes={"door": door, "address": address},
        reason=reason,
        request_id=request_id,
    )


def shown(value: object) -> object:
    """Return a value as the audit's `changes` show it."""
    return format_instant(value) if isinstance(value, datetime) else value
