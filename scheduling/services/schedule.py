"""Schedule transitions: one, or many by few statements."""

import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from django.db import IntegrityError, connection, transaction

from scheduling.adapters.inserts import (
    insert_one,
    insert_rows,
    insert_where_free,
    new_row,
)
from scheduling.adapters.standing import Standing, ever_given, find_standing
from scheduling.adapters.wake import WITHIN as WAKE_WITHIN
from scheduling.adapters.wake import wake
from scheduling.conf import scheduler_settings
from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.errors import (
    ConflictError,
    DuplicateJobError,
    OutsideWindowError,
    PastScheduleTimeError,
    ScheduleTooFarError,
    ScheduleTooSoonError,
    SchedulingError,
)
from scheduling.domain.lifecycle import LIVE, TransitionStatus
from scheduling.domain.phases import PhaseData, format_instant, read_phase_data
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.audit import entry
from scheduling.tracing import current_parent

Identity = tuple[str, str, str]
# Another writer may take an identity or a job id between our look and our insert.
MOST_TRIES = 5
LARGEST_CHUNK = 1_000


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """What became of one item: its job, and whether it was made now."""

    job: ScheduledTransition
    is_new: bool


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """How a job that upstream asks for differs from one that a caller schedules.

    The window of SCHEDULER_*_ADVANCE does not bind it: upstream's past instant fires at
    once, and `status` may be expired from the start.
    """

    at: datetime
    status: TransitionStatus = TransitionStatus.SCHEDULED


def schedule_transition(
    data: PhaseData | Mapping[str, object],
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
) -> Scheduled:
    """Schedule one transition, or return the live job that is the same.

    Args:
        data: Phase data, as dataclass or as mapping with camelCase names.
        now: Aware UTC instant at which the request arrived.
        reason: Why, where somebody said so; kept in the audit.

    Raises:
        OperationNotPermittedError: The actor's role may not schedule.
        InvalidPhaseDataError, InvalidScheduleTimeError: The data can't be understood.
        PastScheduleTimeError, ScheduleTooSoonError, ScheduleTooFarError: The instant is
            outside the window.
        DuplicateJobError: The identity has a live job at another instant.

    Source: contract, sections 1 and 3.
    """
    authorize(actor, Operation.SCHEDULE)
    item = read_phase_data(data)
    added = _add_in_one_statement(item, actor=actor, now=now, reason=reason)
    if added is not None:
        return Scheduled(job=added, is_new=True)
    (result,) = schedule_many([item], actor=actor, now=now, reason=reason)
    if isinstance(result, SchedulingError):
        raise result
    return result


def foresee_scheduling(data: Mapping[str, object], *, now: datetime) -> Scheduled:
    """Return what `schedule_transition` would return now; nothing is written.

    A new job is not saved, and another instant may give it another job id.

    Raises:
        The same, but for the actor's role.
    """
    item = read_phase_data(data)
    live, _ = _standing([item], now=now)
    found = _decide(item, live, _Window.at(now))
    if isinstance(found, SchedulingError):
        raise found
    return found


def _add_in_one_statement(
    item: PhaseData, *, actor: Actor, now: datetime, reason: str
) -> ScheduledTransition | None:
    """Add the usual single job fast; None where anything is not as usual.

    A job that is not due at once, on PostgreSQL, outside any transaction, where nothing
    stands in its way: one round trip and one commit instead of six.
    """
    is_plain = connection.vendor == "postgresql" and not connection.in_atomic_block
    if not is_plain or item.end_time - now < WAKE_WITHIN:
        return None
    window = _Window.at(now)
    if window.error(item.end_time) is not None:
        return None
    job = _job(item, now=now, max_attempts=window.max_attempts, upstream=None)
    is_added = insert_one(job, _entry(job, actor=actor, now=now, reason=reason))
    return job if is_added else None


def schedule_many(
    items: Sequence[PhaseData | Mapping[str, object]],
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
) -> list[Scheduled | SchedulingError]:
    """Schedule many transitions; each stands alone, and errors come back in its place.

    Few statements, whatever the number: two reads and two writes for each thousand.

    Raises:
        OperationNotPermittedError: The actor's role may not schedule.
    """
    authorize(actor, Operation.SCHEDULE)
    results: list[Scheduled | SchedulingError] = []
    for start in range(0, len(items), LARGEST_CHUNK):
        chunk = items[start : start + LARGEST_CHUNK]
        results.extend(_schedule_chunk(chunk, actor=actor, now=now, reason=reason))
    return results


def _schedule_chunk(
    items: Sequence[PhaseData | Mapping[str, object]],
    *,
    actor: Actor,
    now: datetime,
    reason: str,
) -> list[Scheduled | SchedulingError]:
    """Schedule up to a thousand, in one transaction unless others are at the same ones.

    The first try is the fast one, and fails as a whole. Those after it insert what they
    may, and only what somebody else has just made is asked for again: otherwise one who
    schedules the same transitions one by one would be in the way of each try.
    """
    read = [read_item(item) for item in items]
    results: dict[int, Scheduled | SchedulingError] = {}
    waiting = list(range(len(read)))
    for attempt in range(1, MOST_TRIES + 1):
        try:
            with transaction.atomic():
                answers = _insert_missing(
                    [read[index] for index in waiting],
                    actor=actor,
                    now=now,
                    reason=reason,
                    is_contended=attempt > 1,
                )
        except IntegrityError:
            if attempt == MOST_TRIES:
                raise
            continue
        results.update(
            (index, answer)
            for index, answer in zip(waiting, answers, strict=True)
            if answer is not None
        )
        waiting = [index for index in waiting if index not in results]
        if not waiting:
            break
    left = ConflictError("others schedule and end the same transition all the time")
    return [results.get(index, left) for index in range(len(read))]


def read_item(item: PhaseData | Mapping[str, object]) -> PhaseData | SchedulingError:
    """Return the item understood, or why it can't be."""
    try:
        return read_phase_data(item)
    except SchedulingError as error:
        return error


def _insert_missing(
    items: Sequence[PhaseData | SchedulingError],
    *,
    actor: Actor,
    now: datetime,
    reason: str,
    is_contended: bool,
) -> Sequence[Scheduled | SchedulingError | None]:
    """Insert what is new; the caller's transaction holds it together.

    Returns:
        What became of each; None where somebody else was faster.

    Raises:
        IntegrityError: Somebody was, and it is not said to be contended.
    """
    live, given = _standing([i for i in items if isinstance(i, PhaseData)], now=now)
    results: list[Scheduled | SchedulingError] = []
    new: list[ScheduledTransition] = []
    window = _Window.at(now)
    for item in items:
        result = item if isinstance(item, SchedulingError) else _decide(item, live, window)
        results.append(result)
        if isinstance(result, Scheduled) and result.is_new:
            new.append(result.job)
            live[_identity(result.job)] = result.job
    if not new:
        return results
    _make_unique(new, given)
    if not is_contended:
        insert_jobs(new, actor=actor, now=now, reason=reason)
        return results
    free = insert_where_free(_in_one_order(new))
    added = [job for job in new if job.event_id in free]
    _tell_of(added, actor=actor, now=now, reason=reason)
    # What others in the batch were answered about such a job does not hold either.
    taken = {_identity(job) for job in new if job.event_id not in free}
    return [
        None if isinstance(item, PhaseData) and _identity_of(item) in taken else result
        for item, result in zip(items, results, strict=True)
    ]


def _standing(items: Sequence[PhaseData], *, now: datetime) -> Standing:
    """Return what stands in the items' way: live jobs, and job ids that were given."""
    if not items:
        return Standing({}, set())
    return find_standing(
        [_identity_of(item) for item in items],
        {plain_job_id(item.project_id, item.phase_id, now=now) for item in items},
    )


def _decide(
    item: PhaseData, live: Mapping[Identity, ScheduledTransition], window: "_Window"
) -> Scheduled | SchedulingError:
    """Return the live job that is the same, a new one not yet saved, or an error."""
    standing = live.get(_identity_of(item))
    if standing is not None:
        if standing.due_at == item.end_time:
            return Scheduled(job=standing, is_new=False)
        return DuplicateJobError(standing.job_id, format_instant(standing.due_at))
    error = window.error(item.end_time)
    if error is not None:
        return error
    job = _job(item, now=window.now, max_attempts=window.max_attempts, upstream=None)
    return Scheduled(job=job, is_new=True)


@dataclass(frozen=True, kw_only=True)
class _Window:
    """The instants at which callers may schedule now.

    Where scheduling in the past is allowed, any instant before the window's end is.
    """

    now: datetime
    earliest: datetime
    latest: datetime
    is_past_allowed: bool
    max_attempts: int

    @classmethod
    def at(cls, now: datetime) -> "_Window":
        """Return the window of an instant, by the settings in force."""
        conf = scheduler_settings()
        return cls(
            now=now,
            earliest=now + conf.period("min_schedule_advance"),
            latest=now + conf.period("max_schedule_advance"),
            is_past_allowed=conf.allow_past_scheduling,
            max_attempts=conf.max_attempts,
        )

    def error(self, due_at: datetime) -> OutsideWindowError | None:
        """Return why an instant is outside; None for one inside."""
        is_soon_enough = due_at <= self.latest
        if is_soon_enough and (self.is_past_allowed or self.now < due_at >= self.earliest):
            return None
        conf = scheduler_settings()
        shown = format_instant(due_at)
        if not is_soon_enough:
            most = conf.max_schedule_advance
            return ScheduleTooFarError(shown, f"is more than {most} ms ahead")
        if due_at <= self.now:
            return PastScheduleTimeError(shown, "is in the past")
        least = conf.min_schedule_advance
        return ScheduleTooSoonError(shown, f"is less than {least} ms ahead")


def window_error(due_at: datetime, *, now: datetime) -> OutsideWindowError | None:
    """Return why callers may not schedule at an instant; None where they may."""
    return _Window.at(now).error(due_at)


def new_job(
    item: PhaseData, *, now: datetime, upstream: Upstream | None = None
) -> ScheduledTransition:
    """Return a job for phase data, with its plain job id, not yet saved."""
    most = scheduler_settings().max_attempts
    return _job(item, now=now, max_attempts=most, upstream=upstream)


def _job(
    item: PhaseData, *, now: datetime, max_attempts: int, upstream: Upstream | None
) -> ScheduledTransition:
    """Return a job with the settings given; to look them up takes as long as all this."""
    status = upstream.status if upstream else TransitionStatus.SCHEDULED
    job: ScheduledTransition = new_row(
        ScheduledTransition,
        job_id=plain_job_id(item.project_id, item.phase_id, now=now),
        event_id=uuid.uuid4(),
        project_id=item.project_id,
        phase_id=item.phase_id,
        challenge_id=item.challenge_id,
        phase_type_name=item.phase_type_name,
        state=item.state.value,
        operator=item.operator,
        project_status=item.project_status,
        metadata=item.metadata,
        date=item.date,
        key=item.challenge_id or item.project_id,
        due_at=item.end_time,
        event_at=item.end_time,
        ready_at=item.end_time,
        upstream_at=upstream.at if upstream else None,
        status=status.value,
        max_attempts=max_attempts,
        trace_parent=current_parent(),
        created_at=now,
        updated_at=now,
        finalized_at=None if status in LIVE else now,
    )
    return job


def plain_job_id(project_id: str, phase_id: str, *, now: datetime) -> str:
    """Return the job id of a creation instant (contract, section 1)."""
    return f"job-{int(now.timestamp() * 1000)}-{project_id}-{phase_id}"


def add_jobs(
    jobs: Sequence[ScheduledTransition],
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
) -> None:
    """Insert new jobs with their audit entries, inside the caller's transaction.

    Raises:
        IntegrityError: Another writer took an identity or a job id; ask again.
    """
    make_job_ids_unique(jobs)
    insert_jobs(jobs, actor=actor, now=now, reason=reason)


def insert_jobs(
    jobs: Sequence[ScheduledTransition],
    *,
    actor: Actor,
    now: datetime,
    reason: str | Mapping[str, str],
) -> None:
    """Insert jobs whose ids were made unique, with their audit entries.

    Args:
        reason: Why; or why each, by job id.

    Raises:
        IntegrityError: Another writer took an identity or a job id; ask again.
    """
    insert_rows(_in_one_order(jobs))
    _tell_of(jobs, actor=actor, now=now, reason=reason)


def _in_one_order(jobs: Sequence[ScheduledTransition]) -> list[ScheduledTransition]:
    """Return the jobs in the order in which everybody inserts.

    Two batches with the same identities would otherwise each wait for a row of the other.
    """
    return sorted(jobs, key=_identity)


def _tell_of(
    jobs: Sequence[ScheduledTransition],
    *,
    actor: Actor,
    now: datetime,
    reason: str | Mapping[str, str],
) -> None:
    """Write the audit entries of jobs that were inserted, and wake who publishes them."""
    reasons = {job.job_id: reason for job in jobs} if isinstance(reason, str) else reason
    insert_rows(
        [_entry(job, actor=actor, now=now, reason=reasons[job.job_id]) for job in jobs]
    )
    ready = [job.ready_at for job in jobs if job.status == TransitionStatus.SCHEDULED]
    if ready:
        wake(min(ready), now=now)


def _entry(
    job: ScheduledTransition, *, actor: Actor, now: datetime, reason: str
) -> AuditEntry:
    """Return the entry of a new job."""
    changes = {"endTime": format_instant(job.due_at), "eventId": str(job.event_id)}
    if job.replaces:
        changes["replaces"] = job.replaces
    return entry(
        "transition.scheduled",
        job,
        actor=actor,
        now=now,
        old=None,
        changes=changes,
        reason=reason,
    )


def make_job_ids_unique(jobs: Sequence[ScheduledTransition]) -> None:
    """Give `-2`, `-3`, … to job ids that were given before, or twice in this batch.

    The audit knows every job id that was ever given, also after clean-up. One read for
    each suffix tried, however many jobs there are.
    """
    _make_unique(jobs, ever_given({job.job_id for job in jobs}))


def _make_unique(jobs: Sequence[ScheduledTransition], ever: Set[str]) -> None:
    """Give suffixes, where `ever` tells which of the plain job ids were given before."""
    given = set(ever)
    waiting = [(job, job.job_id) for job in jobs]
    number = 1
    while True:
        suffix = f"-{number}" if number > 1 else ""
        still_waiting = []
        for job, plain in waiting:
            if plain + suffix in given:
                still_waiting.append((job, plain))
                continue
            job.job_id = plain + suffix
            given.add(job.job_id)
        if not still_waiting:
            return
        waiting = still_waiting
        number += 1
        given |= ever_given({f"{plain}-{number}" for _, plain in waiting})


def _identity(job: ScheduledTransition) -> Identity:
    """Return what at most one live job may have."""
    return job.project_id, job.phase_id, job.state


def _identity_of(item: PhaseData) -> Identity:
    """Return the identity of the job that is asked for."""
    return item.project_id, item.phase_id, item.state.value
