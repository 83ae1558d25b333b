"""Replace a scheduled job by one with other data: the old one is cancelled."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.errors import (
    InvalidPhaseDataError,
    InvalidRequestError,
    InvalidScheduleTimeError,
    JobNotUpdatableError,
)
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import (
    FIELDS,
    PhaseData,
    is_same_json,
    read_phase_data,
    why_not_taken,
    wire_id,
)
from scheduling.models import ScheduledTransition
from scheduling.services.audit import shown
from scheduling.services.cancel import (
    Precondition,
    any_state,
    cancel_locked,
    read_reason,
)
from scheduling.services.schedule import (
    insert_jobs,
    make_job_ids_unique,
    new_job,
    window_error,
)
from scheduling.services.seen_upstream import seen_upstream
from scheduling.services.unproven import get_job, is_proven, lock_job, prove_outcome

# Wire name, phase-data attribute, column.
CHANGEABLE = (
    ("endTime", "end_time", "due_at"),
    ("phaseTypeName", "phase_type_name", "phase_type_name"),
    ("projectStatus", "project_status", "project_status"),
    ("metadata", "metadata", "metadata"),
)
MOST_TRIES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """What shall be different; None leaves it as it is.

    upstream_at: the instant that upstream shows, where upstream asks for the change;
        the window of SCHEDULER_*_ADVANCE then does not bind.
    operator, challenge_id, date: written into the new job where there is one; they
        are no reason to make one.
    """

    end_time: datetime | None = None
    phase_type_name: str | None = None
    project_status: str | None = None
    metadata: dict[str, Any] | None = None
    upstream_at: datetime | None = None
    operator: str | None = None
    challenge_id: str | None = None
    date: datetime | None = None


def read_update(changes: Mapping[str, object]) -> Update:
    """Return an update from its camelCase names.

    Raises:
        InvalidRequestError: A field is unknown, can't be changed, or is wrong.
        InvalidScheduleTimeError: Only `endTime` is wrong.
    """
    parsers = {name: parse for name, _, parse, _ in FIELDS}
    attributes = {name: attribute for name, attribute, _ in CHANGEABLE}
    errors: list[tuple[str, str]] = []
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in attributes:
            is_taken = name in parsers
            errors.append((name, "can't be changed" if is_taken else why_not_taken(name)))
            continue
        try:
            values[attributes[name]] = parsers[name](value)
        except ValueError as error:
            errors.append((name, str(error)))
    if [name for name, _ in errors] == ["endTime"]:
        raise InvalidScheduleTimeError(f"endTime: {errors[0][1]}", errors=errors)
    if errors:
        raise InvalidRequestError(errors)
    return Update(**values)


def has_values(job: ScheduledTransition, update: Update) -> bool:
    """Tell whether a job has all that an update asks for."""
    return not _differences(job, update)


def update_transition(
    *,
    job_id: str,
    update: Update,
    actor: Actor,
    now: datetime,
    reason: str = "",
    precondition: Precondition = any_state,
) -> ScheduledTransition:
    """Replace the job by one with the update's values; return the new one.

    Nothing different: the job comes back as it is. A refused update leaves it so too.

    Args:
        precondition: Asked of the locked job first; what it raises goes to the caller.

    Raises:
        OperationNotPermittedError: The actor's role may not update.
        JobNotFoundError: No such job.
        JobNotUpdatableError: It is no longer scheduled, or became so meanwhile.
        PastScheduleTimeError, ScheduleTooSoonError, ScheduleTooFarError: The new instant
            is outside the window.
        ServiceUnavailableError: An earlier attempt had an unknown outcome, and the topic
            can't be searched now.
    """
    authorize(actor, Operation.UPDATE)
    if reason:
        read_reason(reason)
    tries = 0
    while True:
        searched = prove_outcome(job_id, now=now)
        try:
            with transaction.atomic():
                job = lock_job(job_id)
                precondition(job)
                check_updatable(job)
                changes = _differences(job, update)
                if not changes:
                    return job
                if is_proven(job, searched=searched):
                    return _replace(job, update, actor=actor, now=now, reason=reason)
        except IntegrityError:
            # Another writer took the new job id in the same millisecond.
            tries += 1
            if tries == MOST_TRIES:
                raise


def replace_from_phase_data(
    *,
    job_id: str,
    data: PhaseData | Mapping[str, object],
    actor: Actor,
    now: datetime,
) -> ScheduledTransition:
    """Update a job from whole phase data of the same identity (contract, section 3).

    An optional field that the mapping leaves out stays as it is.

    Raises:
        InvalidPhaseDataError: The data names another transition than the job's.
        All that `read_phase_data` and `update_transition` raise.
    """
    authorize(actor, Operation.UPDATE)
    item = read_phase_data(data)
    _check_same_transition(get_job(job_id), item)
    is_without_metadata = isinstance(data, Mapping) and data.get("metadata") is None
    update = Update(
        end_time=item.end_time,
        phase_type_name=item.phase_type_name,
        project_status=item.project_status,
        metadata=None if is_without_metadata else item.metadata,
        operator=item.operator,
        challenge_id=item.challenge_id,
        date=item.date,
    )
    return update_transition(job_id=job_id, update=update, actor=actor, now=now)


def _check_same_transition(job: ScheduledTransition, item: PhaseData) -> None:
    """Refuse phase data of another transition; an id left out differs from nothing.

    Raises:
        InvalidPhaseDataError: Names every field that differs.
    """
    wrong = [
        (name, f"is another than the job's {wire_id(standing)}")
        for name, standing, given in (
            ("projectId", job.project_id, item.project_id),
            ("phaseId", job.phase_id, item.phase_id),
            ("challengeId", job.challenge_id, item.challenge_id),
        )
        if standing and given and standing != given
    ]
    if item.state != job.state:
        wrong.append(("state", f"is another than the job's {job.state}"))
    if wrong:
        raise InvalidPhaseDataError(wrong)


def check_updatable(job: ScheduledTransition) -> None:
    """Refuse a job that is no longer scheduled.

    Raises:
        JobNotUpdatableError: It is running or final.
    """
    if job.current_status is not TransitionStatus.SCHEDULED:
        raise JobNotUpdatableError(
            f"job {job.job_id} is {job.told_status} and can't be updated",
            **job.as_obstacle(),
        )


def _differences(job: ScheduledTransition, update: Update) -> dict[str, list[object]]:
    """Return what the update changes, by wire name: old and new value."""
    return {
        name: [shown(getattr(job, column)), shown(getattr(update, attribute))]
        for name, attribute, column in CHANGEABLE
        if getattr(update, attribute) is not None
        and not is_same_json(getattr(update, attribute), getattr(job, column))
    }


def _replace(
    job: ScheduledTransition,
    update: Update,
    *,
    actor: Actor,
    now: datetime,
    reason: str,
) -> ScheduledTransition:
    """Cancel the locked job and add its successor.

    Raises:
        PastScheduleTimeError, ScheduleTooSoonError, ScheduleTooFarError: The new instant
            is outside the window.
    """
    due_at = update.end_time or job.due_at
    if update.upstream_at is None and due_at != job.due_at:
        error = window_error(due_at, now=now)
        if error is not None:
            raise error
    new = successor(job, update, due_at=due_at, now=now)
    new.replaces = job.job_id
    if actor.is_person:
        new.is_overridden = True
        new.upstream_at = job.upstream_at or seen_upstream(job)
    make_job_ids_unique([new])
    # First the old one: the identity may have one live job only.
    cancel_locked(
        job,
        actor=actor,
        reason=reason,
        now=now,
        action="transition.updated",
        changes=dict(_differences(job, update)),
        replaced_by=new.job_id,
    )
    insert_jobs([new], actor=actor, now=now, reason=reason)
    return new


def successor(
    job: ScheduledTransition, update: Update, *, due_at: datetime, now: datetime
) -> ScheduledTransition:
    """Return the new job, not yet saved."""
    data = PhaseData(
        project_id=job.project_id,
        phase_id=job.phase_id,
        challenge_id=update.challenge_id or job.challenge_id,
        phase_type_name=update.phase_type_name or job.phase_type_name,
        state=job.kind,
        end_time=due_at,
        operator=update.operator or job.operator,
        project_status=update.project_status or job.project_status,
        metadata=job.metadata if update.metadata is None else update.metadata,
        date=update.date or job.date,
    )
    new = new_job(data, now=now)
    new.upstream_at = update.upstream_at or job.upstream_at
    return new
