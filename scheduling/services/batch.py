"""One claimed batch: search, produce, wait, and settle what was not acknowledged."""

import functools
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

from scheduling.adapters.claim_ends import fail_attempt, give_back, renew
from scheduling.adapters.claims import LEASE, Acknowledged, ClaimedJob
from scheduling.adapters.clock import process_clock
from scheduling.adapters.event_publisher import (
    EventPublisher,
    Outcome,
    OutgoingRecord,
    Verdict,
)
from scheduling.adapters.lanes import LaneBoard
from scheduling.adapters.topic_search import find_events
from scheduling.adapters.traced_publish import publish_traced
from scheduling.adapters.vitals import process_vitals
from scheduling.conf import SchedulerSettings
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.log_context import ids_of
from scheduling.messages import transition_headers, write_phase_transition
from scheduling.topics import PHASE_TRANSITION
from scheduling.tracing import trace_id_of

logger = logging.getLogger("autopilot.firing")
Result = TypeVar("Result")

LEASE_SECONDS = LEASE.total_seconds()
RENEW_EVERY_SECONDS = LEASE_SECONDS / 3
# A lease last prolonged that long ago may end before the next try to prolong it.
TRUSTED_SECONDS = LEASE_SECONDS * 0.8
# The search must leave enough of the lease to prolong it afterwards.
SEARCH_SECONDS = LEASE_SECONDS / 2
# Jobs whose topic can't be searched are left alone so long, so that they don't come back
# at once and keep the others from their turn.
UNSEARCHABLE_WAIT = timedelta(seconds=3)
# On a stop a batch waits so long for answers, and gives the rest back.
STOP_GRACE_SECONDS = 8.0
DATABASE_RETRY_SECONDS = 30.0
# A broker that takes so long is told of, while the attempt goes on.
SLOW_SECONDS = 3.0


@dataclass
class Batch:
    """The jobs that a lane holds under one token, and what is acknowledged of them.

    held_since: monotonic seconds before the claim, from when its lease surely counts.
    must_wait: whether something was given back, so that the broker is looked for before
        the next claim.
    failure: what the broker failed with, if it did; to refuse a record is no failure.
    """

    token: uuid.UUID
    jobs: Sequence[ClaimedJob]
    held_since: float = field(default_factory=time.monotonic)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    must_wait: bool = False
    failure: str = ""
    _acknowledged_at: list[float] = field(default_factory=list)
    _given_back: set[int] = field(default_factory=set)
    _stop_seen_at: float | None = None
    _waits_since: float | None = None
    _is_slowness_told: bool = False
    _while_held: Callable[[], None] = field(default=lambda: None)

    def dated(self) -> list[Acknowledged]:
        """Return the acknowledgements with their age by now."""
        now = time.monotonic()
        return [
            ack._replace(age_seconds=now - at)
            for ack, at in zip(self.acknowledged, self._acknowledged_at, strict=True)
        ]

    def publish(
        self,
        publisher: EventPublisher,
        *,
        board: LaneBoard,
        settings: SchedulerSettings,
        while_held: Callable[[], None] = lambda: None,
    ) -> None:
        """Put every job on the topic that is not there, and settle the others.

        Args:
            while_held: Called each time that the jobs' lease is prolonged.
        """
        self._while_held = while_held
        jobs = self._still_held(self._not_on_the_topic(self.jobs))
        self._waits_since = time.monotonic()
        outcomes = publish_traced(
            publisher,
            [_record(job, timestamp=process_clock.epoch()) for job in jobs],
            deadline_seconds=settings.job_timeout / 1000,
            while_waiting=lambda: self._may_wait(board),
        )
        rest = []
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.verdict is Verdict.ACKNOWLEDGED:
                self._acknowledge(
                    job, outcome.partition, outcome.offset, outcome.acknowledged_at
                )
            else:
                rest.append((job, outcome))
        if rest:
            self._settle(rest, settings)

    def _acknowledge(self, job: ClaimedJob, partition: int, offset: int, at: float) -> None:
        """Note that a record stands on the topic since `at` (monotonic seconds)."""
        self.acknowledged.append(Acknowledged(job, partition, offset, 0.0))
        self._acknowledged_at.append(at)

    def _not_on_the_topic(self, jobs: Sequence[ClaimedJob]) -> Sequence[ClaimedJob]:
        """Return what has to be produced; what an earlier attempt put there is noted.

        Where the topic can't be searched, the jobs with an attempt of unknown outcome
        wait, and with them the later ones of their keys.
        """
        wanted = {job.event_id: job.unproven_since for job in jobs if job.unproven_since}
        if not wanted:
            return jobs
        try:
            found = find_events(wanted, timeout_seconds=SEARCH_SECONDS)
        except ServiceUnavailableError as error:
            self.failure = error.detail
            keys = {job.key for job in jobs if job.unproven_since}
            waiting = [job for job in jobs if job.key in keys]
            self._give_back(waiting, error.detail, unproven=False, wait=UNSEARCHABLE_WAIT)
            return [job for job in jobs if job.key not in keys]
        missing = []
        for job in jobs:
            place = found.get(job.event_id)
            if place is None:
                missing.append(job)
                continue
            # When the broker took it, nobody knows: the record tells when it was sent.
            self._acknowledge(job, place.partition, place.offset, time.monotonic())
        return missing

    def _still_held(self, jobs: Sequence[ClaimedJob]) -> Sequence[ClaimedJob]:
        """Return the jobs that are ours for long enough to be produced now.

        After a search, or a pause of this process, others may have taken them over.
        """
        if time.monotonic() - self.held_since < RENEW_EVERY_SECONDS:
            return jobs
        mine = self._renew()
        return [job for job in jobs if job.id in mine]

    def _renew(self) -> set[int]:
        """Prolong the lease; return the row ids that are still ours."""
        before = time.monotonic()
        held = renew(self.token)
        process_vitals.note_look()
        self.held_since = before
        self._while_held()
        return held

    def _may_wait(self, board: LaneBoard) -> bool:
        """Keep the lease alive while answers are due; False ends the waiting.

        What is no longer surely ours is taken back before the producer sends it late.
        """
        now = time.monotonic()
        self._tell_slowness(now)
        if now - self.held_since > RENEW_EVERY_SECONDS:
            try:
                mine = self._renew()
            except (OperationalError, InterfaceError) as error:
                connection.close()
                logger.warning("the lease can't be prolonged now: %s", error)
                return now - self.held_since < TRUSTED_SECONDS
            if not mine >= {job.id for job in self.jobs} - self._given_back:
                logger.warning("jobs of this batch were taken over: the rest is taken back")
                return False
        if board.is_stopping:
            self._stop_seen_at = self._stop_seen_at or now
            return now - self._stop_seen_at < STOP_GRACE_SECONDS
        return True

    def _tell_slowness(self, now: float) -> None:
        """Say once that answers are due for long; `now` in monotonic seconds."""
        since = self._waits_since
        if self._is_slowness_told or since is None or now - since < SLOW_SECONDS:
            return
        self._is_slowness_told = True
        logger.warning(
            "%d jobs wait for acknowledgements for more than %.0f s: the broker does not "
            "answer, or is slow",
            len(self.jobs) - len(self.acknowledged) - len(self._given_back),
            SLOW_SECONDS,
        )

    def _settle(
        self, rest: Sequence[tuple[ClaimedJob, Outcome]], settings: SchedulerSettings
    ) -> None:
        """Give back, retry or fail what has no acknowledgement."""
        for verdict in (Verdict.NOT_SENT, Verdict.UNKNOWN):
            back = [(job, outcome) for job, outcome in rest if outcome.verdict is verdict]
            if back:
                if verdict is Verdict.UNKNOWN:
                    self.failure = back[0][1].error
                self._give_back(
                    [job for job, _ in back],
                    back[0][1].error,
                    unproven=verdict is Verdict.UNKNOWN,
                )
        for job, outcome in rest:
            if outcome.verdict in {Verdict.REFUSED, Verdict.TIMED_OUT}:
                self._fail(job, outcome, settings)

    def _give_back(
        self,
        jobs: Sequence[ClaimedJob],
        error: str,
        *,
        unproven: bool,
        wait: timedelta | None = None,
    ) -> None:
        """Put jobs back that wait for the broker."""
        patiently(
            functools.partial(
                give_back,
                self.token,
                jobs,
                error=f"not published yet: {error}",
                unproven=unproven,
                wait=wait,
            )
        )
        logger.warning("%d jobs wait for the broker: %s", len(jobs), error)
        self._given_back.update(job.id for job in jobs)
        self.must_wait = True

    def _fail(self, job: ClaimedJob, outcome: Outcome, settings: SchedulerSettings) -> None:
        """End an attempt that counts."""
        is_late = outcome.verdict is Verdict.TIMED_OUT
        if is_late:
            self.failure = outcome.error
        error = (
            f"no acknowledgement within {settings.job_timeout} ms"
            if is_late
            else f"refused by the broker: {outcome.error}"
        )
        wait = settings.retry_policy.wait(job.attempts)
        status = patiently(
            lambda: fail_attempt(self.token, job, error=error, unproven=is_late, wait=wait)
        )
        logger.error(
            "%s: attempt %d of %d failed, now %s: %s",
            job.job_id,
            job.attempts,
            job.max_attempts,
            status,
            error,
            extra=log_ids(job),
        )


def log_ids(job: ClaimedJob) -> dict[str, str]:
    """Return what a log line about a job names."""
    return ids_of(
        {
            "job_id": job.job_id,
            "event_id": job.event_id,
            "challenge_id": job.challenge_id,
            "correlation_id": job.event_id,
            "trace_id": trace_id_of(job.trace_parent),
        }
    )


def _record(job: ClaimedJob, *, timestamp: float) -> OutgoingRecord:
    """Return a job's record; `timestamp` in epoch seconds of the database's clock."""
    return OutgoingRecord(
        topic=PHASE_TRANSITION,
        key=job.key,
        value=write_phase_transition(job),
        headers=transition_headers(job.job_id, job.event_id, trace_parent=job.trace_parent),
        timestamp_ms=int(timestamp * 1000),
    )


def patiently(act: Callable[[], Result]) -> Result:
    """Do it, again and again while the database is away, for a while."""
    give_up_at = time.monotonic() + DATABASE_RETRY_SECONDS
    while True:
        try:
            return act()
        except (OperationalError, InterfaceError):
            connection.close()
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.2)
