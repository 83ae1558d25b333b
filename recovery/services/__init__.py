"""The Python API of recovery: what programs in this process call (contract, section 3).

These functions are an edge: they read the clock once and pass it down.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from recovery.models import RecoveryRun
from recovery.results import COUNTERS, RecoveryResult, RunStatus, Tally, Trigger
from recovery.services import steps
from recovery.services.conduct import carry_out_run
from recovery.services.runs import Request, ask_for_run
from recovery.services.steps import GivenPhase
from scheduling.adapters.clock import database_now
from scheduling.conf import recovery_settings
from scheduling.domain.actors import RECOVERY, SCHEDULER, Actor
from scheduling.domain.errors import ConflictError, InvalidRequestError
from scheduling.domain.phases import PhaseData, parse_id
from scheduling.services.commands import Done
from scheduling.services.commands import Request as CommandRequest
from scheduling.services.expire import expire_too_old


def execute_startup_recovery(
    *,
    trigger: str = Trigger.STARTUP,
    dry_run: bool = False,
    project_id: int | str | None = None,
    actor: Actor = RECOVERY,
) -> RecoveryResult:
    """Compare what should exist with what does, and bring it there; return what was done.

    While another run is in progress that one is returned as it stands.

    Args:
        trigger: `startup`, `sync` or `manual`.
        dry_run: Look only, and count what would be done.
        project_id: Only the challenges and jobs of this project.
        actor: Who asks for it. Jobs are changed by `system:recovery` all the same: what
            a person changes, no later run may undo.

    Raises:
        OperationNotPermittedError: The actor's role may not recover.
        InvalidRequestError: The trigger or the project's id is none.
        ServiceUnavailableError: Others keep opening and ending runs meanwhile.

    Source: contract, section 6.
    """
    request = Request(
        trigger=_read_trigger(trigger),
        actor=actor,
        dry_run=dry_run,
        project_id=read_project_id(project_id),
    )
    return carry_out_run(request).result


def ask_for_recovery(*, dry_run: bool, project_id: object, actor: Actor) -> RecoveryRun:
    """Return the open run, or a new one by hand that a cluster carries out.

    Raises:
        OperationNotPermittedError, InvalidRequestError, ServiceUnavailableError: As
            `execute_startup_recovery`.
    """
    return ask_for_run(
        Request(
            trigger=Trigger.MANUAL,
            actor=actor,
            dry_run=dry_run,
            project_id=read_project_id(project_id),
        )
    )


def scan_active_phases() -> list[PhaseData]:
    """Return each START and END that upstream wants and that has not happened yet.

    Raises:
        ServiceUnavailableError: The list can't be read to its end.
    """
    return steps.scan_active_phases()


def schedule_upcoming_transitions(phases: Iterable[GivenPhase]) -> dict[str, Any]:
    """Schedule, or move, those of the transitions whose instant lies ahead.

    Args:
        phases: Phase data, as dataclass or as mapping with camelCase names; of the
            challenges only those that are ACTIVE count. One that can't be understood is
            counted and named, and stops no other.

    Returns:
        The counters and errors of a `RecoveryResult`.
    """
    return _show(steps.schedule_upcoming(phases, now=database_now()))


def process_overdue_phases(phases: Iterable[GivenPhase]) -> dict[str, Any]:
    """Fire those of the transitions whose instant has passed, in due order.

    Those beyond the age limit, and all where RECOVERY_PROCESS_OVERDUE_PHASES is off, get
    an expired job.

    Args, Returns:
        As `schedule_upcoming_transitions`.
    """
    return _show(steps.process_overdue(phases, now=database_now()))


def _show(tally: Tally) -> dict[str, Any]:
    """Return the counters as the outside sees them."""
    return {
        "totalPhasesProcessed": tally.total,
        **{COUNTERS[name]: value for name, value in tally.columns().items()},
        "errors": tally.shown_errors(),
    }


def _read_trigger(value: str) -> Trigger:
    """Return a trigger.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        return Trigger(value)
    except ValueError:
        names = ", ".join(Trigger)
        raise InvalidRequestError([("trigger", f"must be one of {names}")]) from None


def read_project_id(value: object) -> str:
    """Return the canonical id of a project; empty for none.

    Raises:
        InvalidRequestError: It is no id.
    """
    if value is None:
        return ""
    try:
        return parse_id(value)
    except ValueError as error:
        raise InvalidRequestError([("projectId", str(error))]) from None


def expire_overdue(*, now: datetime) -> int:
    """Expire jobs overdue by more than RECOVERY_MAX_PHASE_AGE_HOURS; return how many.

    The due-broker never fires them: whether they still make sense a person decides, by
    `run-now` or `cancel`. While a run is open it is left to that one, which may find
    that upstream has moved them; with recovery disabled housekeeping does it (contract,
    section 6).
    """
    if not recovery_settings().enabled:
        return expire_too_old(now=now, actor=SCHEDULER)
    if RecoveryRun.objects.open().exists():
        return 0
    return expire_too_old(now=now, actor=RECOVERY)


def recover(request: CommandRequest) -> Done:
    """Carry out the command `recover`: have a cluster begin a run, and name it.

    Raises:
        ConflictError: Recovery is disabled.
    """
    run = ask_for_run(
        Request(
            trigger=Trigger.MANUAL,
            actor=request.actor,
            project_id=request.command.project_id or "",
        )
    )
    if run.current_status is RunStatus.DISABLED:
        raise ConflictError("recovery is disabled by RECOVERY_ENABLED")
    return Done(message=f"run {run.run_id} is {run.status}")
