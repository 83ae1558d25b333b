"""The runs' rows: one open at a time over all hosts, held by a lease that the living renew.

The lease is on the database's clock. Whoever finds that a run's process is dead, or let
its lease run out, ends that run and may begin another one; what it had done stays done,
and the next one finds it so.
"""

import logging
import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from django.db import IntegrityError, connection, transaction

from recovery.models import RecoveryRun
from recovery.results import COUNTERS, OPEN, RunStatus, Tally, Trigger
from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner
from scheduling.conf import recovery_settings
from scheduling.domain.actors import RECOVERY, Actor, Operation, Role, authorize
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.services.audit import record_recovery

logger = logging.getLogger("autopilot.recovery")

# Beside RECOVERY_PHASE_TIMEOUT, within which no batch can renew the lease.
LEASE: Final = timedelta(seconds=15)
# Others may open and end runs while we try.
MOST_TRIES: Final = 5
KEPT_RUNS: Final = 5_000


class RunLostError(Exception):
    """Somebody has ended this run and maybe begun another one: nothing may be changed."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is to look at, and who asks for it.

    project_id: canonical id of the only project; empty: all.
    """

    trigger: Trigger
    actor: Actor = RECOVERY
    dry_run: bool = False
    project_id: str = ""


def request_of(run: RecoveryRun) -> Request:
    """Return what a run was asked for, and by whom."""
    return Request(
        trigger=Trigger(run.trigger),
        actor=Actor(name=run.actor, role=Role(run.role), request_id=run.request_id),
        dry_run=run.dry_run,
        project_id=run.project_id,
    )


# --- Beginning ------------------------------------------------------------------------
def ask_for_run(request: Request) -> RecoveryRun:
    """Return the open run, or a new one that waits for a cluster to carry it out.

    Where recovery is disabled the new one is ended already. It may be called inside a
    transaction, and is undone with it.

    Raises:
        OperationNotPermittedError: The actor's role may not recover.
        ServiceUnavailableError: Others keep opening and ending runs meanwhile.
    """
    authorize(request.actor, Operation.RECOVER)
    if not recovery_settings().enabled:
        return _disabled(request)
    for _ in range(MOST_TRIES):
        standing = find_open()
        if standing is not None:
            return standing
        try:
            with transaction.atomic():
                return _new(request, status=RunStatus.NOT_STARTED)
        except IntegrityError:
            # Somebody was faster.
            continue
    raise ServiceUnavailableError("other runs of recovery keep coming in between")


def is_any_open() -> bool:
    """Tell whether a run waits or is carried out.

    Each cluster asks every second: to compose the query takes longer than to answer it.
    """
    with connection.cursor() as cursor:
        cursor.execute(*_any_open())
        return cursor.fetchone() is not None


@cache
def _any_open() -> tuple[str, tuple[Any, ...]]:
    """Return the statement and its parameters."""
    rows = RecoveryRun.objects.open().order_by().values("pk")[:1]
    statement, parameters = rows.query.sql_with_params()
    return statement, tuple(parameters)


def find_open() -> RecoveryRun | None:
    """Return the run that waits or is carried out; a dead one is ended first."""
    run = RecoveryRun.objects.open().first()
    if run is None or not is_dead(run):
        return run
    end_dead(run)
    return None


def is_dead(run: RecoveryRun) -> bool:
    """Tell whether nobody carries the run out any more."""
    if run.lease_until is None or run.started_at is None:
        return False
    if run.lease_until <= database_now():
        return True
    return Owner.parse(run.owner).is_dead(claimed_at=run.started_at)


def end_dead(run: RecoveryRun) -> None:
    """End a run whose process is dead, unless that turns out to live or it was ended."""
    now = database_now()
    began_at = run.started_at or now
    longest = recovery_settings().period("startup_timeout")
    is_late = run.trigger == Trigger.STARTUP and now - began_at > longest
    status = RunStatus.TIMED_OUT if is_late else RunStatus.FAILED
    reason = "its process died, or let its lease run out; the next run goes on"
    with transaction.atomic():
        ended = RecoveryRun.objects.filter(
            pk=run.pk, status=RunStatus.IN_PROGRESS, lease_until=run.lease_until
        ).update(
            status=status,
            token=None,
            lease_until=None,
            finished_at=now,
            errors=[*run.errors, {"phaseId": None, "reason": reason}],
        )
        if not ended:
            return
        run.refresh_from_db()
        _audit_end(run, now=now, reason=reason)
    logger.warning("run %s is ended as %s: %s", run.run_id, status.value, reason)


def _disabled(request: Request) -> RecoveryRun:
    """Return a run that says that there is none."""
    with transaction.atomic():
        run = _new(request, status=RunStatus.DISABLED)
        _audit_end(run, now=run.created_at, reason="recovery is disabled")
    return run


def _new(request: Request, *, status: RunStatus) -> RecoveryRun:
    """Return a new run, saved."""
    now = database_now()
    return RecoveryRun.objects.create(
        trigger=request.trigger.value,
        status=status.value,
        dry_run=request.dry_run,
        project_id=request.project_id,
        actor=request.actor.name,
        role=request.actor.role.value,
        request_id=request.actor.request_id,
        created_at=now,
        finished_at=None if status in OPEN else now,
    )


# --- Holding --------------------------------------------------------------------------
@dataclass
class HeldRun:
    """A run that this process carries out.

    tally: what it has counted so far; each renewal stores it.
    """

    run: RecoveryRun
    token: uuid.UUID
    tally: Tally = field(default_factory=Tally)
    _stored_errors: int = 0

    @property
    def request(self) -> Request:
        """What it was asked for."""
        return request_of(self.run)

    @property
    def actor(self) -> Actor:
        """Who changes jobs in its course: an automatism, whoever asked for the run.

        What a person changes no automatism may undo; so a run is no person, and its
        entries are joined to it by its id.
        """
        return replace(RECOVERY, request_id=str(self.run.run_id))

    def renew(self) -> None:
        """Prolong the lease and store what was counted.

        Inside a transaction that changes something it makes sure that the run is still
        ours when that commits.

        Raises:
            RunLostError: Somebody else has ended this run.
        """
        self._write(lease_until=database_now() + lease(), owner=str(Owner.current()))

    def _write(self, **columns: Any) -> None:
        """Write columns and counters, as long as the run is ours.

        Raises:
            RunLostError: It is not.
        """
        tally = self.tally
        if len(tally.errors) != self._stored_errors or "finished_at" in columns:
            columns["errors"] = tally.shown_errors()
        held = RecoveryRun.objects.filter(pk=self.run.pk, token=self.token)
        if not held.update(rescued_jobs=tally.rescued_jobs, **tally.columns(), **columns):
            raise RunLostError(str(self.run.run_id))
        self._stored_errors = len(tally.errors)

    def finish(self, status: RunStatus, *, reason: str = "") -> RecoveryRun:
        """End the run; return it as it stands.

        Raises:
            RunLostError: Somebody else has ended it before.
        """
        now = database_now()
        with transaction.atomic():
            self._write(status=status.value, token=None, lease_until=None, finished_at=now)
            self.run.refresh_from_db()
            if _is_worth_telling(self.run, self.tally):
                _audit_end(self.run, now=now, reason=reason)
            _forget_old_runs()
        logger.log(
            logging.INFO if status is RunStatus.COMPLETED else logging.WARNING,
            "run %s (%s) ended as %s: %s%s",
            self.run.run_id,
            self.run.trigger,
            status.value,
            _in_words(self.run),
            f"; {reason}" if reason else "",
        )
        return self.run


def lease() -> timedelta:
    """Return for how long a run is believed to live without a sign of it."""
    return LEASE + recovery_settings().period("phase_timeout")


def take(run: RecoveryRun) -> HeldRun | None:
    """Take up a run that waits; None where somebody else was faster."""
    token, now = uuid.uuid4(), database_now()
    with transaction.atomic():
        is_ours = RecoveryRun.objects.filter(
            pk=run.pk, status=RunStatus.NOT_STARTED
        ).update(
            status=RunStatus.IN_PROGRESS,
            token=token,
            owner=str(Owner.current()),
            lease_until=now + lease(),
            started_at=now,
        )
        if not is_ours:
            return None
        run.refresh_from_db()
        if run.trigger != Trigger.SYNC:
            record_recovery(
                "recovery.started",
                actor=request_of(run).actor,
                now=now,
                project_id=run.project_id,
                changes=_shape(run),
                reason=f"{run.trigger} run",
                run_id=str(run.run_id),
            )
    return HeldRun(run=run, token=token)


def _is_worth_telling(run: RecoveryRun, tally: Tally) -> bool:
    """Tell whether the audit needs the run's end.

    A periodic run that found all as it should be would add two entries every few
    minutes, for ever; its own row tells of it.
    """
    is_quiet = run.current_status is RunStatus.COMPLETED and not tally.changes
    return run.trigger != Trigger.SYNC or not is_quiet


def _audit_end(run: RecoveryRun, *, now: datetime, reason: str) -> None:
    """Write the entry of a run's end, in the caller's transaction."""
    record_recovery(
        "recovery.finished",
        actor=request_of(run).actor,
        now=now,
        project_id=run.project_id,
        changes=_shape(run) | {"status": run.status, "counts": _counts(run)},
        reason=reason or f"{run.trigger} run",
        run_id=str(run.run_id),
    )


def _shape(run: RecoveryRun) -> dict[str, Any]:
    """Return what the audit says of any run."""
    return {"runId": str(run.run_id), "trigger": run.trigger, "dryRun": run.dry_run}


def _counts(run: RecoveryRun) -> dict[str, int]:
    """Return the counters that are not zero, by their outside names."""
    names = [*COUNTERS.values(), "rescuedJobs"]
    return {name: run.result[name] for name in names if run.result[name]}


def _in_words(run: RecoveryRun) -> str:
    """Return the counters as a line of the log."""
    return ", ".join(f"{name}={value}" for name, value in _counts(run).items()) or "nothing"


def _forget_old_runs() -> None:
    """Delete what is older than the runs that are kept."""
    keys = RecoveryRun.objects.order_by("-id").values_list("id", flat=True)
    for key in keys[KEPT_RUNS : KEPT_RUNS + 1]:
        RecoveryRun.objects.filter(id__lte=key).delete()
