"""Carry a run out from its beginning to its end, and leave it with a status."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from recovery.models import RecoveryRun
from recovery.results import RunStatus, Trigger
from recovery.services.observing import Nobody, Observer
from recovery.services.pulse import Pulse, StopError, TimeIsUpError
from recovery.services.reconcile import Reconciliation
from recovery.services.runs import (
    HeldRun,
    Request,
    RunLostError,
    ask_for_run,
    request_of,
    take,
)
from scheduling.conf import recovery_settings
from scheduling.log_context import bound_contextvars

logger = logging.getLogger("autopilot.recovery")

_LOOK_SECONDS: Final = 0.5


def go_on() -> bool:
    """Tell that nobody wants the run to stop."""
    return False


def carry_out_run(
    request: Request,
    *,
    observer: Observer | None = None,
    is_stopping: Callable[[], bool] = go_on,
    waits_for: timedelta = timedelta(),
) -> RecoveryRun:
    """Carry out a run as asked for, and return it as it ended.

    A run that waits for a cluster is carried out first. Where another one is in progress
    elsewhere for longer than `waits_for`, that one is returned as it stands.

    Raises:
        OperationNotPermittedError: The actor's role may not recover.
        ServiceUnavailableError: Others keep opening and ending runs meanwhile.
        OperationalError, InterfaceError: The database stays away.
    """
    gives_up_at = time.monotonic() + waits_for.total_seconds()
    while True:
        run = ask_for_run(request)
        if run.current_status is RunStatus.DISABLED:
            return run
        if run.current_status is RunStatus.IN_PROGRESS:
            if time.monotonic() >= gives_up_at or is_stopping():
                return run
            time.sleep(_LOOK_SECONDS)
            continue
        is_ours = request_of(run) == request
        held = take(run)
        if held is None:
            continue
        ended = conduct(
            held, observer=observer if is_ours else None, is_stopping=is_stopping
        )
        if is_ours:
            return ended


def do_nothing() -> None:
    """Have nothing to do beside the run."""


def conduct(
    held: HeldRun,
    *,
    observer: Observer | None = None,
    is_stopping: Callable[[], bool] = go_on,
    while_working: Callable[[], None] = do_nothing,
) -> RecoveryRun:
    """Carry out a run that this process holds, and return it as it ended.

    Args:
        while_working: Called each time that the run renews its lease, every few seconds.

    Raises:
        OperationalError, InterfaceError: The database stays away; the run is ended as
            dead by whoever finds it so.
    """
    is_startup = held.request.trigger is Trigger.STARTUP
    longest = recovery_settings().period("startup_timeout").total_seconds()
    try:
        pulse = Pulse(
            held,
            is_stopping=is_stopping,
            while_working=while_working,
            most_seconds=longest if is_startup else None,
        )
        work = Reconciliation(held, observer=observer or Nobody(), pulse=pulse)
        with bound_contextvars(run_id=str(held.run.run_id)):
            work.run()
        return _finish(held, failure=work.failure)
    except RunLostError:
        logger.warning("run %s was ended by another process", held.run.run_id)
        held.run.refresh_from_db()
        return held.run
    except TimeIsUpError as error:
        return _end(held, RunStatus.TIMED_OUT, str(error))
    except StopError as error:
        return _end(held, RunStatus.FAILED, str(error))
    except Exception as error:
        _end(held, RunStatus.FAILED, f"it ended with {type(error).__name__}")
        raise


def _finish(held: HeldRun, *, failure: str) -> RecoveryRun:
    """End a run that is through.

    Args:
        failure: Why the Challenge service could not be read to the end, if so.
    """
    if failure:
        held.tally.name("", failure)
    has_errors = bool(held.tally.errors)
    return held.finish(
        RunStatus.COMPLETED_WITH_ERRORS if has_errors else RunStatus.COMPLETED,
        reason=failure,
    )


def _end(held: HeldRun, status: RunStatus, reason: str) -> RecoveryRun:
    """End a run that is not through."""
    held.tally.name("", reason)
    return held.finish(status, reason=reason)
