"""Carry out commands that came in as records, and answer each.

Whatever a command does, its answer is an outgoing record of the same transaction: there
is no effect without an answer, and no answer without its effect.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q

from scheduling.adapters.inserts import insert_rows
from scheduling.conf import message_settings
from scheduling.domain.actors import Actor, kafka_actor
from scheduling.domain.commands import (
    Command,
    CommandName,
    CommandResult,
    is_allowed_operator,
)
from scheduling.domain.errors import (
    InvalidRequestError,
    InvalidScheduleTimeError,
    JobNotCancellableError,
    JobNotFoundError,
    JobNotUpdatableError,
    OperationNotPermittedError,
    SchedulingError,
    ServiceUnavailableError,
)
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import (
    LONGEST_TEXT,
    WIRE_NAMES,
    format_instant,
    parse_instant,
    parse_state,
    parse_text,
)
from scheduling.messages import MIME_TYPE, write_command_result
from scheduling.models import OutgoingRecord, ScheduledTransition
from scheduling.models.scheduled_transition import ScheduledTransitionQuerySet
from scheduling.queries import list_jobs
from scheduling.services.audit import record_command
from scheduling.services.cancel import cancel_locked
from scheduling.services.schedule import schedule_transition
from scheduling.services.unproven import Proven, hold_scheduled
from scheduling.services.update import Update, update_transition
from scheduling.topics import COMMAND_RESULT
from scheduling.tracing import current_parent, trace_headers

MOST_LISTED = 1_000
# An answer of more ids would not fit into a record.
MOST_ANSWERED = 5_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command that may be carried out now, and by whom.

    proven: what is known of attempts of unknown outcome (`unproven.prove_by_id`).
    """

    command: Command
    actor: Actor
    now: datetime
    proven: Proven


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command did."""

    message: str
    job_ids: Sequence[str] = ()


CarryOut = Callable[[Request], Done]


def handle_command(
    command: Command, *, now: datetime, proven: Proven | None = None
) -> CommandResult:
    """Carry a command out or refuse it, audit it, and queue its answer.

    One transaction, the caller's where there is one.

    Args:
        now: Aware UTC instant at which the command was taken up.

    Raises:
        OutcomeUnknownError: The topic must be searched first; nothing was changed.
        ServiceUnavailableError: A neighbour is out of reach; nothing was changed.

    Source: contract, section 8.
    """
    with transaction.atomic():
        try:
            with transaction.atomic():
                done = _carry_out(command, now=now, proven=proven or {})
        except ServiceUnavailableError:
            raise
        except SchedulingError as error:
            result = _result(command, message=error.detail, code=error.code)
        else:
            result = _result(command, message=done.message, job_ids=done.job_ids)
        _record(command, result, now=now)
        queue_answer(result, key=command.key, now=now)
    return result


def queue_answer(result: CommandResult, *, key: str, now: datetime) -> None:
    """Write the record that answers a command, in the caller's transaction."""
    answer = OutgoingRecord(
        topic=COMMAND_RESULT,
        key=key.encode() or None,
        value=write_command_result(result, at=now),
        headers={
            "correlation-id": result.correlation_id,
            "content-type": MIME_TYPE,
            **trace_headers(current_parent()),
        },
        created_at=now,
    )
    insert_rows([answer])


def register_command(name: CommandName, carry_out: CarryOut) -> None:
    """Let another app carry out a command."""
    _CARRY_OUT[name] = carry_out


def _result(
    command: Command, *, message: str, code: str = "", job_ids: Sequence[str] = ()
) -> CommandResult:
    """Return the answer to a command."""
    return CommandResult(
        command=command.given_name,
        correlation_id=command.correlation_id,
        message=message,
        code=code,
        job_ids=job_ids[:MOST_ANSWERED],
    )


def _record(command: Command, result: CommandResult, *, now: datetime) -> None:
    """Write what was commanded into the audit."""
    arguments = command.arguments
    kept = {name: value for name, value in arguments.items() if name != "metadata"}
    record_command(
        operator=(command.operator or "")[:LONGEST_TEXT],
        is_done=result.is_success,
        project_id=command.project_id or "",
        phase_id=command.phase_id or "",
        state=_state_if_any(arguments.get("state")),
        changes={
            "command": command.name.value,
            "arguments": {name: _shortened(value) for name, value in kept.items()},
            "correlationId": command.correlation_id,
            "code": result.code,
            "jobCount": len(result.job_ids),
        },
        reason=_shortened(result.message),
        request_id=command.correlation_id[:64],
        now=now,
    )


def _shortened(value: Any) -> Any:
    """Return a value that is no longer than a name."""
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def _state_if_any(value: object) -> str:
    """Return START or END, or nothing where it is neither."""
    try:
        return parse_state(value).value
    except ValueError:
        return ""


def _carry_out(command: Command, *, now: datetime, proven: Proven) -> Done:
    """Ask for the right, then do it.

    Raises:
        SchedulingError: Why it is refused.
    """
    operator = _operator(command)
    if not is_allowed_operator(operator, message_settings().command_operators):
        raise OperationNotPermittedError(
            f"the operator {operator!r} may not command: "
            "AUTOPILOT_COMMAND_OPERATORS names who may"
        )
    actor = kafka_actor(operator, request_id=command.correlation_id[:64])
    return _CARRY_OUT[command.name](
        Request(command=command, actor=actor, now=now, proven=proven)
    )


def _operator(command: Command) -> str:
    """Return who commands.

    Raises:
        InvalidRequestError: Nobody is named, or by what can't be a name.
    """
    if command.operator is None:
        raise InvalidRequestError([("operator", "is required")])
    try:
        return parse_text(command.operator)
    except ValueError as error:
        raise InvalidRequestError([("operator", str(error))]) from None


def _schedule(request: Request) -> Done:
    """Schedule a transition from the command's phase data."""
    command = request.command
    data = {name: value for name, value in command.arguments.items() if name in WIRE_NAMES}
    scheduled = schedule_transition(
        {**data, "operator": command.operator}, actor=request.actor, now=request.now
    )
    job = scheduled.job
    verb = "scheduled" if scheduled.is_new else "is scheduled already"
    return Done(
        message=f"{job.job_id} {verb} for {format_instant(job.due_at)}",
        job_ids=[job.job_id],
    )


def _reschedule(request: Request) -> Done:
    """Move the live job of a phase."""
    command = request.command
    if command.phase_id is None:
        raise InvalidRequestError([("phaseId", "is required")])
    if not (command.project_id or command.challenge_id):
        raise InvalidRequestError([("projectId", "is required, or challengeId")])
    instant = _new_instant(command)
    kind = _state(command) or TransitionKind.END
    jobs = list(_live_jobs(command).filter(state=kind).order_by("due_at", "id")[:2])
    if not jobs:
        raise JobNotFoundError(f"the {kind} of phase {command.phase_id} has no live job")
    if len(jobs) > 1:
        raise InvalidRequestError(
            [("phaseId", "names phases of several projects: projectId is required")]
        )
    if jobs[0].pk not in hold_scheduled(jobs, proven=request.proven):
        raise JobNotUpdatableError(
            f"job {jobs[0].job_id} is running, or another change came first"
        )
    job = update_transition(
        job_id=jobs[0].job_id,
        update=Update(end_time=instant),
        actor=request.actor,
        now=request.now,
        reason=f"{command.name.value} by {command.operator}"[:LONGEST_TEXT],
    )
    is_moved = job.job_id != jobs[0].job_id
    return Done(
        message=(
            f"{jobs[0].job_id} was replaced by {job.job_id}, due {format_instant(instant)}"
            if is_moved
            else f"{job.job_id} is due {format_instant(instant)} already"
        ),
        job_ids=[job.job_id],
    )


def _new_instant(command: Command) -> datetime:
    """Return the instant to which a phase shall be moved.

    Raises:
        InvalidRequestError: None is given, or two that differ.
        InvalidScheduleTimeError: It can't be read.
    """
    given = [name for name in ("date", "endTime") if name in command.arguments]
    if not given:
        raise InvalidRequestError([("date", "is required, or endTime")])
    instants = []
    for name in given:
        try:
            instants.append(parse_instant(command.arguments[name]))
        except ValueError as error:
            raise InvalidScheduleTimeError(f"{name}: {error}") from None
    if len(set(instants)) > 1:
        raise InvalidRequestError([("endTime", "is another instant than date")])
    return instants[0]


def _state(command: Command) -> TransitionKind | None:
    """Return the state that is named; None where none is.

    Raises:
        InvalidRequestError: It is neither START nor END.
    """
    value = command.arguments.get("state")
    if value is None:
        return None
    try:
        return parse_state(value)
    except ValueError as error:
        raise InvalidRequestError([("state", str(error))]) from None


def _live_jobs(command: Command) -> ScheduledTransitionQuerySet:
    """Return the live jobs of what the command names.

    Those of its challenge; where it names a project too, also those of the project
    that name no challenge.
    """
    project_id, challenge_id = command.project_id, command.challenge_id
    jobs = ScheduledTransition.objects.live()
    if challenge_id and project_id:
        jobs = jobs.filter(
            Q(challenge_id=challenge_id, project_id=project_id)
            | Q(challenge_id=None, project_id=project_id)
        )
    elif challenge_id:
        jobs = jobs.filter(challenge_id=challenge_id)
    elif project_id:
        jobs = jobs.filter(project_id=project_id)
    return jobs.filter(phase_id=command.phase_id) if command.phase_id else jobs


def _cancel(request: Request) -> Done:
    """Cancel the jobs of a phase, or all of a project or challenge."""
    command = request.command
    if not (command.project_id or command.challenge_id):
        raise InvalidRequestError([("projectId", "is required, or challengeId")])
    kind = _state(command)
    jobs = _live_jobs(command)
    found = list(jobs.filter(state=kind) if kind else jobs)
    if command.phase_id and not found:
        raise JobNotFoundError(f"the phase {command.phase_id} has no live job")
    cancelled = _cancel_scheduled(found, request)
    running = len(found) - len(cancelled)
    if command.phase_id and not cancelled:
        raise JobNotCancellableError("its job is running and can't be cancelled")
    message = f"{len(cancelled)} cancelled"
    if running:
        message += f", {running} running and left to finish"
    return Done(message=message, job_ids=cancelled)


def _cancel_scheduled(jobs: Sequence[ScheduledTransition], request: Request) -> list[str]:
    """Cancel those that are not running; return their ids, in due order."""
    held = hold_scheduled(jobs, proven=request.proven)
    cancelled = []
    for job in sorted(held.values(), key=lambda job: (job.due_at, job.pk)):
        cancel_locked(
            job,
            actor=request.actor,
            reason=f"{request.command.name.value} by {request.command.operator}",
            now=request.now,
        )
        cancelled.append(job.job_id)
    return cancelled


def _list(request: Request) -> Done:
    """List live jobs in due order."""
    command = request.command
    kind = _state(command)
    filters: dict[str, Any] = {"state": kind} if kind else {}
    for name in ("project_id", "challenge_id", "phase_id"):
        if getattr(command, name):
            filters[name] = getattr(command, name)
    jobs = list_jobs(filters, now=request.now)
    found = list(jobs.values_list("job_id", flat=True)[: MOST_LISTED + 1])
    is_cut = len(found) > MOST_LISTED
    shown = found[:MOST_LISTED]
    return Done(
        message=f"the first {MOST_LISTED} live jobs"
        if is_cut
        else f"{len(shown)} live jobs",
        job_ids=shown,
    )


def _not_there(_: Request) -> Done:
    """Refuse what no app of this site carries out."""
    raise InvalidRequestError([("command", "is carried out by no part of this site")])


_CARRY_OUT: dict[CommandName, CarryOut] = {
    CommandName.SCHEDULE: _schedule,
    CommandName.RESCHEDULE: _reschedule,
    CommandName.CANCEL: _cancel,
    CommandName.LIST: _list,
    CommandName.RECOVER: _not_there,
}
