"""Publish what is due: claim, produce, wait for the acknowledgements, complete.

One lane does this batch after batch until nothing more is due. Kafka is called outside
any transaction; what leads to it commits first, and a crash in between leaves jobs
running that another worker takes over, looking on the topic before it produces again.
"""

import functools
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

from scheduling.adapters.claim_ends import fail_attempt, give_back, renew
from scheduling.adapters.claims import (
    LEASE,
    Acknowledged,
    Claim,
    ClaimedJob,
    complete_and_claim,
)
from scheduling.adapters.clock import ClockGuard, process_clock
from scheduling.adapters.event_publisher import (
    EventPublisher,
    Outcome,
    OutgoingRecord,
    Verdict,
    process_publisher,
)
from scheduling.adapters.lanes import LaneBoard, current_board
from scheduling.adapters.look import Look, look
from scheduling.adapters.owner import Owner
from scheduling.adapters.topic_search import find_events
from scheduling.conf import SchedulerSettings, age_limit, scheduler_settings
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.messages import MIME_TYPE, write_phase_transition
from scheduling.topics import PHASE_TRANSITION

logger = logging.getLogger("autopilot.firing")
Result = TypeVar("Result")

LARGEST_BATCH = 500
# A lane that has nothing to do waits this long for the next instant before it closes.
LINGER_SECONDS = 0.05
# A lane gives its worker back after this, so that other tasks get their turn.
LANE_SECONDS = 20.0
# On a stop a lane waits so long for answers, and gives the rest back.
STOP_GRACE_SECONDS = 8.0
RENEW_EVERY_SECONDS = LEASE.total_seconds() / 3
BROKER_PROBE_SECONDS = 1.0
DATABASE_RETRY_SECONDS = 30.0


@dataclass
class _Held:
    """The batch that this lane holds: its token, its jobs and what is acknowledged."""

    token: uuid.UUID
    jobs: Sequence[ClaimedJob]
    acknowledged: list[Acknowledged] = field(default_factory=list)
    _acknowledged_at: list[float] = field(default_factory=list)

    def acknowledge(self, job: ClaimedJob, partition: int, offset: int, at: float) -> None:
        """Note an acknowledgement; `at` in monotonic seconds."""
        self.acknowledged.append(Acknowledged(job, partition, offset, 0.0))
        self._acknowledged_at.append(at)

    def dated(self) -> list[Acknowledged]:
        """Return the acknowledgements with their age by now."""
        now = time.monotonic()
        return [
            ack._replace(age_seconds=now - at)
            for ack, at in zip(self.acknowledged, self._acknowledged_at, strict=True)
        ]


class Lane:
    """One worker publishing whatever is due, until nothing is."""

    def __init__(
        self,
        *,
        publisher: EventPublisher,
        board: LaneBoard,
        settings: SchedulerSettings,
    ) -> None:
        self._publisher = publisher
        self._board = board
        self._settings = settings
        self._clock = process_clock
        self._guard = ClockGuard()
        self._closes_at = time.monotonic() + LANE_SECONDS
        self._stop_seen_at: float | None = None
        self._renewed_at = 0.0
        self._needs_probe = publisher.seems_out_of_reach
        self.published = 0

    def run(self, *, not_before: float) -> int:
        """Publish from that instant (epoch seconds) on; return how many jobs."""
        if not self._clock.is_observed:
            self._look()
        self._sleep(not_before - self._clock.epoch())
        held = _Held(uuid.uuid4(), [])
        while True:
            held = self._complete_and_claim(held)
            if held.jobs:
                logger.debug("claimed %d jobs under %s", len(held.jobs), held.token)
                self._publish(held)
            elif not self._wait_for_next():
                return self.published

    @property
    def _may_claim(self) -> bool:
        """Whether this lane may take more."""
        if self._board.is_stopping or time.monotonic() > self._closes_at:
            return False
        if connection.vendor != "postgresql":
            self._guard.tick()
            if not self._guard.may_fire:
                return False
        return not self._needs_probe or self._probe()

    def _probe(self) -> bool:
        """Wait until the broker is in reach again, or the lane's time is up."""
        while not self._board.is_stopping and time.monotonic() < self._closes_at:
            if self._publisher.is_in_reach(timeout_seconds=BROKER_PROBE_SECONDS):
                self._needs_probe = False
                return True
            time.sleep(0.1)
        return False

    def _complete_and_claim(self, held: _Held) -> _Held:
        """Complete the last batch and claim the next in one transaction, one commit.

        The acknowledgements are worth more than the lane: while the database is away
        they are kept, and if it stays away the topic tells whoever takes over.
        """
        give_up_at = time.monotonic() + DATABASE_RETRY_SECONDS
        while True:
            claim = self._next_claim() if self._may_claim else None
            try:
                lateness, jobs = complete_and_claim(held.token, held.dated(), claim)
            except (OperationalError, InterfaceError) as error:
                connection.close()
                if not held.acknowledged or time.monotonic() > give_up_at:
                    raise
                logger.warning("completion waits for the database: %s", error)
                time.sleep(0.2)
                continue
            self._log(held, lateness)
            self.published += len(lateness)
            return _Held(claim.token if claim else held.token, jobs)

    def _next_claim(self) -> Claim:
        """Return what to ask for next."""
        return Claim(
            owner=Owner.current(),
            limit=min(LARGEST_BATCH, self._share),
            most_running=self._settings.max_concurrent_jobs,
            age_limit=age_limit(),
        )

    @property
    def _share(self) -> int:
        """The jobs that this lane takes at a time.

        A part, so that the neighbours publish while it commits; all that may run, where
        a neighbour found nothing that it could claim beside it.
        """
        most = self._settings.max_concurrent_jobs
        return most if self._board.barren_lanes else max(1, most // self._board.lanes)

    def _publish(self, held: _Held) -> None:
        """Produce the batch, and settle every job that was not acknowledged."""
        self._renewed_at = time.monotonic()
        try:
            fresh = self._find_published(held)
        except ServiceUnavailableError as error:
            give_back(held.token, held.jobs, error=error.detail, unproven=False)
            self._needs_probe = True
            return
        outcomes = self._publisher.publish(
            [_record(job, timestamp=self._clock.epoch()) for job in fresh],
            deadline_seconds=self._settings.job_timeout / 1000,
            while_waiting=lambda: self._keep_waiting(held),
        )
        for job, outcome in zip(fresh, outcomes, strict=True):
            if outcome.verdict is Verdict.ACKNOWLEDGED:
                held.acknowledge(
                    job, outcome.partition, outcome.offset, outcome.acknowledged_at
                )
        if len(held.acknowledged) < len(held.jobs):
            self._settle_unacknowledged(held, fresh, outcomes)

    def _find_published(self, held: _Held) -> list[ClaimedJob]:
        """Search the topic for earlier attempts; return the jobs that are not there.

        What is found is completed without a second record, as of its first.

        Raises:
            ServiceUnavailableError: The topic can't be searched.
        """
        wanted = {
            job.event_id: job.unproven_since for job in held.jobs if job.unproven_since
        }
        if not wanted:
            return list(held.jobs)
        found = find_events(wanted)
        renew(held.token)
        fresh = []
        for job in held.jobs:
            place = found.get(job.event_id)
            if place is None:
                fresh.append(job)
                continue
            age = self._clock.epoch() - place.at.timestamp()
            held.acknowledge(job, place.partition, place.offset, time.monotonic() - age)
        return fresh

    def _keep_waiting(self, held: _Held) -> bool:
        """Renew the lease while answers are due; False once a stop's grace is over."""
        now = time.monotonic()
        if now - self._renewed_at > RENEW_EVERY_SECONDS:
            self._renewed_at = now
            try:
                renew(held.token)
            except (OperationalError, InterfaceError) as error:
                connection.close()
                logger.warning("the lease can't be renewed now: %s", error)
        if self._board.is_stopping:
            self._stop_seen_at = self._stop_seen_at or now
            return now - self._stop_seen_at < STOP_GRACE_SECONDS
        return True

    def _settle_unacknowledged(
        self, held: _Held, jobs: Sequence[ClaimedJob], outcomes: Sequence[Outcome]
    ) -> None:
        """Give back, retry or fail what has no acknowledgement."""
        rest = [
            (job, outcome)
            for job, outcome in zip(jobs, outcomes, strict=True)
            if outcome.verdict is not Verdict.ACKNOWLEDGED
        ]
        for verdict in (Verdict.NOT_SENT, Verdict.UNKNOWN):
            back = [(job, outcome) for job, outcome in rest if outcome.verdict is verdict]
            if back:
                self._give_back(
                    held,
                    [job for job, _ in back],
                    error=back[0][1].error,
                    unproven=verdict is Verdict.UNKNOWN,
                )
        for job, outcome in rest:
            if outcome.verdict in {Verdict.REFUSED, Verdict.TIMED_OUT}:
                self._fail(held, job, outcome)

    def _give_back(
        self, held: _Held, jobs: Sequence[ClaimedJob], *, error: str, unproven: bool
    ) -> None:
        """Put jobs back that wait for the broker, and look for it before the next claim."""
        _patiently(
            functools.partial(
                give_back,
                held.token,
                jobs,
                error=f"not published yet: {error}",
                unproven=unproven,
            )
        )
        logger.warning("%d jobs wait for the broker: %s", len(jobs), error)
        self._needs_probe = True

    def _fail(self, held: _Held, job: ClaimedJob, outcome: Outcome) -> None:
        """End an attempt that counts."""
        is_late = outcome.verdict is Verdict.TIMED_OUT
        error = (
            f"no acknowledgement within {self._settings.job_timeout} ms"
            if is_late
            else f"refused by the broker: {outcome.error}"
        )
        wait = self._settings.retry_policy.wait(job.attempts)
        status = _patiently(
            lambda: fail_attempt(held.token, job, error=error, unproven=is_late, wait=wait)
        )
        logger.error(
            "%s: attempt %d of %d failed, now %s: %s",
            job.job_id,
            job.attempts,
            job.max_attempts,
            status,
            error,
        )

    def _wait_for_next(self) -> bool:
        """Wait for an instant that is near; False where the lane may close."""
        if not self._may_claim:
            return False
        seen = self._look()
        if seen.next_ready_at is None:
            return False
        ahead = self._clock.seconds_until(seen.next_ready_at)
        # What is ready and was not claimed is held back by its key or by the limit.
        if not 0 < ahead <= LINGER_SECONDS:
            return False
        self._sleep(ahead)
        return True

    def _look(self) -> Look:
        """Look at the tables, and at their clock."""
        asked_at = time.monotonic()
        seen = look(queue="", age_limit=age_limit())
        self._clock.observe(seen.now, asked_at=asked_at, answered_at=time.monotonic())
        return seen

    def _sleep(self, seconds: float) -> None:
        """Sleep until the instant, which is near."""
        if seconds > 0:
            time.sleep(min(seconds, 1.0))

    def _log(self, held: _Held, lateness: dict[int, float]) -> None:
        """Write one line per firing."""
        if not self._settings.log_job_details:
            return
        for ack in held.acknowledged:
            if ack.job.id in lateness:
                logger.info(
                    "fired %s %s of phase %s lateness=%.1f ms partition=%d offset=%d",
                    ack.job.job_id,
                    ack.job.state,
                    ack.job.phase_id,
                    lateness[ack.job.id],
                    ack.partition,
                    ack.offset,
                )


def publish_due(*, not_before: float) -> int:
    """Run one lane from that instant (epoch seconds) on; return how many it published."""
    board = current_board()
    with board.running_lane():
        lane = Lane(
            publisher=process_publisher(), board=board, settings=scheduler_settings()
        )
        try:
            return lane.run(not_before=not_before)
        finally:
            board.note_yield(lane.published)


def _record(job: ClaimedJob, *, timestamp: float) -> OutgoingRecord:
    """Return a job's record; `timestamp` in epoch seconds of the database's clock."""
    return OutgoingRecord(
        topic=PHASE_TRANSITION,
        key=job.key,
        value=write_phase_transition(
            project_id=job.project_id,
            phase_id=job.phase_id,
            challenge_id=job.challenge_id,
            phase_type_name=job.phase_type_name,
            state=job.state,
            operator=job.operator,
            project_status=job.project_status,
            event_at=job.event_at,
        ),
        headers={
            "event-id": str(job.event_id),
            "job-id": job.job_id,
            "correlation-id": str(job.event_id),
            "content-type": MIME_TYPE,
        },
        timestamp_ms=int(timestamp * 1000),
    )


def _patiently(act: Callable[[], Result]) -> Result:
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
