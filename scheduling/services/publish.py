"""Publish what is due: claim, produce, wait for the acknowledgements, complete.

One lane does this batch after batch until nothing more is due. Kafka is called outside
any transaction; what leads to it commits first, and a crash in between leaves jobs
running that another worker takes over, looking on the topic before it produces again.
"""

import copy
import logging
import time
import uuid
from collections.abc import Mapping

from django.db import InterfaceError, OperationalError, connection

from scheduling.adapters.claim_ends import disown
from scheduling.adapters.claims import Claim, complete_and_claim
from scheduling.adapters.clock import process_clock, process_guard
from scheduling.adapters.event_publisher import EventPublisher, process_publisher
from scheduling.adapters.lanes import LaneBoard, current_board
from scheduling.adapters.look import Look, look
from scheduling.adapters.owner import Owner
from scheduling.adapters.patience import is_session_lost
from scheduling.adapters.vitals import process_vitals
from scheduling.conf import age_limit, scheduler_settings
from scheduling.services.batch import DATABASE_RETRY_SECONDS, Batch, log_ids
from scheduling.services.broker_gate import BrokerGate

logger = logging.getLogger("autopilot.firing")

LARGEST_BATCH = 500
# A lane that has nothing to do waits this long for the next instant before it closes.
LINGER_SECONDS = 0.05
# A lane gives its worker back after this, so that other tasks get their turn.
LANE_SECONDS = 20.0
_FIRED = "fired %s %s of phase %s lateness=%.1f ms partition=%d offset=%d"
# After a give-back with the broker in reach (no such topic, say) the next try waits,
# twice as long each time: the trouble may take hours, and each try writes audit entries.
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 4.0
PROBE_EVERY_SECONDS = 0.2
# What is claimed while the breaker is tried.
TRIAL_BATCH = 1


class Lane:
    """One worker publishing whatever is due, until nothing is."""

    def __init__(
        self,
        *,
        publisher: EventPublisher,
        board: LaneBoard,
    ) -> None:
        self._publisher = publisher
        self._board = board
        self._closes_at = time.monotonic() + LANE_SECONDS
        self._gate = BrokerGate(publisher)
        # The token of a claim that may have been committed, though no answer came.
        self._unanswered: uuid.UUID | None = None
        self.published = 0

    def run(self, *, not_before: float) -> int:
        """Publish from that instant (epoch seconds) on; return how many jobs."""
        if not process_clock.is_observed:
            self._look()
        # Ahead of the instant, when a round trip costs nothing.
        self._gate.look()
        self._sleep(not_before - process_clock.epoch())
        batch = Batch(uuid.uuid4(), [])
        try:
            while True:
                batch = self._complete_and_claim(batch)
                if batch.jobs:
                    self._publish(batch)
                elif not self._wait_for_next():
                    return self.published
        finally:
            self._gate.let_go()

    def _publish(self, batch: Batch) -> None:
        """Publish what was claimed, and remember how it went."""
        logger.debug("claimed %d jobs under %s", len(batch.jobs), batch.token)
        batch.publish(
            self._publisher,
            board=self._board,
            settings=scheduler_settings(),
            while_held=self._gate.hold,
        )
        # What is taken back on a stop says nothing of the broker.
        if not self._board.is_stopping:
            # One that took a part of it works.
            failure = "" if batch.acknowledged else batch.failure
            self._gate.report(failure, must_look=batch.must_wait)
        if batch.must_wait:
            self._board.count_trouble()
        elif batch.acknowledged:
            self._board.forget_trouble()

    @property
    def _may_claim(self) -> bool:
        """Whether this lane may take more."""
        if self._board.is_stopping or time.monotonic() > self._closes_at:
            return False
        if connection.vendor != "postgresql":
            process_guard.tick()
            if not process_guard.may_fire:
                return False
        return self._gate.is_open or self._wait_for_broker()

    def _wait_for_broker(self) -> bool:
        """Wait until the gate lets us through, or the lane's time is up."""
        trouble = self._board.trouble
        pause = FIRST_PAUSE_SECONDS * 2 ** min(trouble - 1, 10) if trouble else 0.0
        ready_at = time.monotonic() + min(pause, LONGEST_PAUSE_SECONDS)
        is_first = True
        while not self._board.is_stopping and time.monotonic() < self._closes_at:
            # While all lanes wait here, and tasks before them, the due-broker can't look.
            process_vitals.note_look()
            if time.monotonic() >= ready_at:
                if self._gate.ask():
                    return True
                if is_first:
                    self._gate.reject()
                    is_first = False
            time.sleep(PROBE_EVERY_SECONDS)
        return False

    def _complete_and_claim(self, batch: Batch) -> Batch:
        """Complete the last batch and claim the next in one transaction, one commit.

        The acknowledgements are worth more than the lane: while the database is away
        they are kept, and if it stays away the topic tells whoever takes over. Where the
        broker has to be looked for first, they don't wait for that.

        A claim whose answer was lost may hold jobs that nobody works on, and that count
        as running: they too are worth waiting for, as their lease is longer.
        """
        give_up_at = time.monotonic() + DATABASE_RETRY_SECONDS
        may_claim = not (batch.acknowledged and self._gate.needs_look) and self._may_claim
        claim, is_told = None, False
        while True:
            asked_at = time.monotonic()
            try:
                self._disown_unanswered()
                claim = self._next_claim() if may_claim else None
                lateness, jobs = complete_and_claim(batch.token, batch.dated(), claim)
            except (OperationalError, InterfaceError) as error:
                # Of a statement that failed it is known that it claimed nothing.
                if claim and not self._unanswered and is_session_lost(error):
                    self._unanswered = claim.token
                connection.close()
                is_lost = self._unanswered and not self._board.is_stopping
                if not (batch.acknowledged or is_lost) or time.monotonic() > give_up_at:
                    raise
                if not is_told:
                    logger.warning("firing waits for the database: %s", error)
                    is_told = True
                time.sleep(0.2)
                continue
            if jobs:
                process_vitals.note_claim()
                process_clock.observe(
                    jobs[0].started_at, asked_at=asked_at, answered_at=time.monotonic()
                )
            self._log(batch, lateness)
            self.published += len(lateness)
            return Batch(claim.token if claim else batch.token, jobs, held_since=asked_at)

    def _disown_unanswered(self) -> None:
        """Put back what the last claim took, if its answer was lost."""
        if self._unanswered:
            count = disown(self._unanswered)
            self._unanswered = None
            if count:
                logger.warning("%d jobs go back: the answer to their claim was lost", count)

    def _next_claim(self) -> Claim:
        """Return what to ask for next."""
        return Claim(
            owner=Owner.current(),
            # A trial must not cost many jobs an entry of their audit each.
            limit=TRIAL_BATCH if self._gate.is_trial else min(LARGEST_BATCH, self._share),
            most_running=scheduler_settings().max_concurrent_jobs,
            age_limit=age_limit(),
        )

    @property
    def _share(self) -> int:
        """The jobs that this lane takes at a time.

        A part, so that the neighbours publish while it commits; all that may run, where
        a neighbour found nothing that it could claim beside it.
        """
        most = scheduler_settings().max_concurrent_jobs
        return most if self._board.barren_lanes else max(1, most // self._board.lanes)

    def _wait_for_next(self) -> bool:
        """Wait for an instant that is near; False where the lane may close."""
        if self._gate.needs_look:
            return self._may_claim
        if not self._may_claim:
            return False
        # While it sleeps another one may try.
        self._gate.let_go()
        seen = self._look()
        if seen.next_ready_at is None:
            return False
        ahead = process_clock.seconds_until(seen.next_ready_at)
        # What is ready and was not claimed is held back by its key or by the limit.
        if not 0 < ahead <= LINGER_SECONDS:
            return False
        self._sleep(ahead)
        return True

    def _look(self) -> Look:
        """Look at the tables, and at their clock."""
        asked_at = time.monotonic()
        seen = look(queue="", age_limit=age_limit())
        process_clock.observe(seen.now, asked_at=asked_at, answered_at=time.monotonic())
        return seen

    def _sleep(self, seconds: float) -> None:
        """Sleep until the instant, which is near."""
        if seconds > 0:
            time.sleep(min(seconds, 1.0))

    def _log(self, batch: Batch, lateness: Mapping[int, float]) -> None:
        """Write one line per firing.

        The lines of a batch differ in their values only: what else a record holds, down to
        the place in the code, is found out once.
        """
        if not (scheduler_settings().log_job_details and logger.isEnabledFor(logging.INFO)):
            return
        line = logger.makeRecord(logger.name, logging.INFO, __file__, 0, _FIRED, (), None)
        for ack in batch.acknowledged:
            if ack.job.id in lateness:
                record = copy.copy(line)
                record.args = (
                    ack.job.job_id,
                    ack.job.state,
                    ack.job.phase_id,
                    lateness[ack.job.id],
                    ack.partition,
                    ack.offset,
                )
                # Said as attributes, which `LOG_FORMAT=json` writes as members.
                vars(record).update(
                    log_ids(ack.job),
                    phase_id=ack.job.phase_id,
                    state=ack.job.state,
                    lateness_ms=lateness[ack.job.id],
                    partition=ack.partition,
                    offset=ack.offset,
                )
                logger.handle(record)


def publish_due(*, not_before: float) -> int:
    """Run one lane from that instant (epoch seconds) on; return how many it published."""
    board = current_board()
    with board.running_lane():
        lane = Lane(publisher=process_publisher(), board=board)
        try:
            return lane.run(not_before=not_before)
        finally:
            board.note_yield(lane.published)
