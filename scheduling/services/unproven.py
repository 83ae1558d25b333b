"""Settle attempts of unknown outcome before a person's change is made.

A worker died, or an acknowledgement was lost: the record may be on the topic. Whoever
cancels, moves, runs or retries such a job must know first (contract, section 2).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from django.db import transaction
from django.db.models import QuerySet

from scheduling.adapters.topic_search import FoundEvent, find_events
from scheduling.domain.actors import SCHEDULER
from scheduling.domain.errors import (
    JobNotFoundError,
    SchedulingError,
    ServiceUnavailableError,
)
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import check_storable
from scheduling.models import ScheduledTransition
from scheduling.services.audit import record

# A person waits for the answer: rather "ask again later" than a long silence.
SEARCH_SECONDS = 5.0
# Jobs whose outcome became unknown while others were searched for; more rounds than
# that, and whoever asks has to wait.
MOST_SEARCHES = 3
Result = TypeVar("Result")
# What `prove_outcomes` returns: job id to the `unproven_since` that was searched for.
Proven = Mapping[str, datetime]
# Where a job with an attempt of unknown outcome may stand while nobody holds it.
UNSETTLED = frozenset({TransitionStatus.SCHEDULED, TransitionStatus.FAILED})


class OutcomeUnknownError(ServiceUnavailableError):
    """Jobs to be moved or cancelled may be on the topic already: nothing was changed.

    Call `prove_by_id` outside any transaction, and apply again with its result.
    """

    def __init__(self, job_ids: Sequence[str]) -> None:
        super().__init__(
            f"the outcome of {', '.join(job_ids[:5])} must be searched for first"
        )
        self.job_ids = list(job_ids)


def get_job(job_id: str) -> ScheduledTransition:
    """Return a job as it stands.

    Raises:
        JobNotFoundError: No row has that id.
    """
    return _get(ScheduledTransition.objects.all(), job_id)


def lock_job(job_id: str) -> ScheduledTransition:
    """Return a job, locked until the caller's transaction ends.

    Raises:
        JobNotFoundError: No row has that id.
    """
    return _get(ScheduledTransition.objects.select_for_update(), job_id)


def check_no_rival(job_id: str, refusal: type[SchedulingError]) -> None:
    """Refuse a job whose transition has another live one.

    Raises:
        JobNotFoundError: No row has that id.
        refusal: There is one; `liveJobId` is its id.
    """
    job = get_job(job_id)
    rivals = ScheduledTransition.objects.live().of_identity(
        job.project_id, job.phase_id, job.state
    )
    rival = rivals.exclude(pk=job.pk).first()
    if rival is not None:
        raise rivalry(rival, refusal)


def rivalry(rival: ScheduledTransition, refusal: type[SchedulingError]) -> SchedulingError:
    """Return the refusal for another live job of the same transition."""
    return refusal(
        f"another job of the same transition is live: {rival.job_id}",
        liveJobId=rival.job_id,
    )


def _get(rows: QuerySet[ScheduledTransition], job_id: str) -> ScheduledTransition:
    """Return the row of that id; what no column can hold is no job's id either."""
    try:
        check_storable(job_id)
    except ValueError:
        raise JobNotFoundError("there is no job of that id") from None
    job = rows.filter(job_id=job_id).first()
    if job is None:
        raise JobNotFoundError(f"there is no job {job_id}", jobId=job_id)
    return job


def prove_outcome(job_id: str, *, now: datetime) -> datetime | None:
    """Search the topic where the job's last attempt had an unknown outcome.

    What is found there is completed. Called before the change's own transaction: Kafka
    is never asked inside one.

    Returns:
        The `unproven_since` that was searched for and not found, which the caller hands
        to `is_proven` once it holds the row; None where there was nothing to search.

    Raises:
        JobNotFoundError: No row has that id.
        ServiceUnavailableError: The topic can't be searched now.
    """
    return prove_outcomes([get_job(job_id)], now=now).get(job_id)


def prove_outcomes(
    jobs: Iterable[ScheduledTransition], *, now: datetime
) -> dict[str, datetime]:
    """Search the topic once for all of the jobs with an attempt of unknown outcome.

    As `prove_outcome`, by job id; jobs with nothing to search for are missing.

    Raises:
        ServiceUnavailableError: The topic can't be searched now.
    """
    searched = {
        job.job_id: (job.event_id, job.unproven_since)
        for job in jobs
        if job.unproven_since is not None
        and job.current_status in UNSETTLED
        # A retried job is its successor's matter, which has the same event.
        and not job.replaced_by
    }
    if not searched:
        return {}
    found = find_events(dict(searched.values()), timeout_seconds=SEARCH_SECONDS)
    for job_id, (event_id, since) in searched.items():
        if event_id in found:
            complete_found(job_id, found[event_id], searched=since, now=now)
    return {job_id: since for job_id, (_, since) in searched.items()}


def is_proven(job: ScheduledTransition, *, searched: datetime | None) -> bool:
    """Tell whether nothing unknown happened to the job since it was searched for."""
    return job.unproven_since is None or job.unproven_since == searched


def complete_found(
    job_id: str, found: FoundEvent, *, searched: datetime, now: datetime
) -> None:
    """Complete a job whose record was found, unless somebody else moved on with it."""
    with transaction.atomic():
        job = lock_job(job_id)
        old = job.current_status
        if old not in UNSETTLED:
            return
        if job.unproven_since != searched:
            return
        job.status = TransitionStatus.COMPLETED
        job.unproven_since = job.next_attempt_at = None
        job.last_error = ""
        # When the broker took it, nobody knows: the record tells when it was sent.
        job.completed_at = job.finalized_at = job.updated_at = now
        job.lateness_ms = (now - job.due_at) / timedelta(milliseconds=1)
        job.topic_partition, job.topic_offset = found.partition, found.offset
        job.save()
        record(
            "transition.completed",
            job,
            actor=SCHEDULER,
            now=now,
            old=old,
            changes={
                "partition": found.partition,
                "offset": found.offset,
                "latenessMs": job.lateness_ms,
            },
            reason="an earlier attempt was found on the topic",
        )


def prove_by_id(job_ids: Iterable[str], *, now: datetime) -> dict[str, datetime]:
    """As `prove_outcomes`, for jobs by id; what was cleaned up meanwhile is missing.

    Raises:
        ServiceUnavailableError: The topic can't be searched now.
    """
    jobs = ScheduledTransition.objects.filter(job_id__in=list(job_ids))
    return prove_outcomes(jobs, now=now)


def searching_first(work: Callable[[Proven], Result], *, now: datetime) -> Result:
    """Do work that may have to know outcomes; search for those it asks for, and redo it.

    Kafka is never asked inside the work's transaction.

    Raises:
        ServiceUnavailableError: The topic can't be searched now, or jobs keep changing
            meanwhile; nothing was changed.
    """
    proven: dict[str, datetime] = {}
    for _ in range(MOST_SEARCHES):
        try:
            return work(proven)
        except OutcomeUnknownError as error:
            proven |= prove_by_id(error.job_ids, now=now)
    raise ServiceUnavailableError("jobs keep changing while their outcome is searched for")


def hold_scheduled(
    jobs: Sequence[ScheduledTransition], *, proven: Proven
) -> dict[int, ScheduledTransition]:
    """Lock those of the jobs that are still scheduled; return the rows by key.

    Raises:
        OutcomeUnknownError: Some may be on the topic already.
    """
    if not jobs:
        return {}
    rows = list(
        ScheduledTransition.objects.select_for_update()
        .filter(pk__in=[job.pk for job in jobs], status=TransitionStatus.SCHEDULED)
        .order_by("id")
    )
    unknown = [row for row in rows if row.unproven_since is not None]
    unproven = [
        row.job_id for row in unknown if proven.get(row.job_id) != row.unproven_since
    ]
    if unproven:
        raise OutcomeUnknownError(unproven)
    # Searched for and not found, and held since: the change below tells of it.
    ScheduledTransition.objects.filter(pk__in=[row.pk for row in unknown]).update(
        unproven_since=None
    )
    for row in unknown:
        row.unproven_since = None
    return {row.pk: row for row in rows}
