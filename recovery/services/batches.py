"""Carry out what differs: challenges in batches, each of them one transaction.

A batch that fails is done again one by one, so that a broken challenge stops no other.
What is found overdue is kept until the list is read, and then carried out the earliest
first, so that it fires in due order.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import Final

from django.db import IntegrityError, OperationalError

from recovery.services.ledger import Ledger
from recovery.services.pulse import DatabaseAwayError, Pulse, StopError
from recovery.services.runs import HeldRun, RunLostError
from recovery.services.write_breaker import write_breaker
from scheduling.adapters.breakers import BreakerOpenError
from scheduling.adapters.clock import database_now
from scheduling.adapters.patience import atomic_within
from scheduling.conf import RecoverySettings
from scheduling.domain.challenges import Reading
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.plan import Decide, Finding
from scheduling.services.apply_challenge import Applied, apply_challenges
from scheduling.services.unproven import Proven, searching_first

logger = logging.getLogger("autopilot.recovery")

# What is found overdue is held in memory, up to so many challenges.
MOST_HELD_BACK: Final = 5_000
# Another writer may take an identity between our look and our insert.
MOST_TRIES: Final = 3


class Batches:
    """The challenges set aside to be carried out."""

    def __init__(
        self,
        held: HeldRun,
        *,
        ledger: Ledger,
        pulse: Pulse,
        conf: RecoverySettings,
        decide: Decide,
    ) -> None:
        self._held = held
        self._ledger = ledger
        self._pulse = pulse
        self._decide = decide
        self._patience = conf.period("phase_timeout")
        self._delay_seconds = conf.period("batch_delay").total_seconds()
        self._size = conf.max_batch_size
        self._pending: list[Reading] = []
        self._overdue: list[tuple[datetime, int, Reading]] = []
        self._ended_at: float | None = None
        self._topic_is_away = False
        self._applied_at = held.run.created_at

    def add(self, applied: Applied) -> None:
        """Set a challenge aside; carry out what is enough for a batch.

        Args:
            applied: What a look found that differs.
        """
        late = [
            one.expected.due_at
            for one in applied.differences
            if one.finding is Finding.FIRE and one.expected.due_at is not None
        ]
        if late:
            self._overdue.append((min(late), len(self._overdue), applied.reading))
        else:
            self._pending.append(applied.reading)
        if len(self._pending) >= self._size:
            self._carry_out_pending()
        if len(self._overdue) >= MOST_HELD_BACK:
            self._carry_out_overdue()

    def flush(self) -> None:
        """Carry out all that was set aside."""
        while self._pending:
            self._carry_out_pending()
        self._carry_out_overdue()

    def _carry_out_pending(self) -> None:
        """Carry out one batch."""
        batch, self._pending = self._pending[: self._size], self._pending[self._size :]
        self._carry_out(batch)

    def _carry_out_overdue(self) -> None:
        """Carry out what was found overdue, in due order."""
        overdue, self._overdue = sorted(self._overdue, key=lambda one: one[:2]), []
        for batch in in_batches([one[-1] for one in overdue], self._size):
            self._carry_out(batch)

    def _carry_out(self, batch: Sequence[Reading]) -> None:
        """Carry out one batch, a pause after the one before."""
        if self._ended_at is not None:
            self._pulse.sleep(self._ended_at + self._delay_seconds - time.monotonic())
        self._pulse.show()
        for applied in self.attempt(batch, self._apply_guarded):
            self._ledger.count(applied, now=self._applied_at)
        self._ended_at = time.monotonic()

    def _apply_guarded(self, readings: Sequence[Reading]) -> list[Applied]:
        """Apply readings unless the breaker of recovery's writes is open.

        Raises:
            BreakerOpenError: It is.
        """
        with write_breaker().guarding():
            return self._apply(readings)

    def _apply(self, readings: Sequence[Reading]) -> list[Applied]:
        """Apply readings in one transaction, which only commits while the run is ours."""
        self._applied_at = now = database_now()

        def apply(proven: Proven) -> list[Applied]:
            with atomic_within(self._patience):
                self._held.renew()
                return apply_challenges(
                    readings,
                    actor=self._held.actor,
                    now=now,
                    proven=proven,
                    decide=self._decide,
                )

        for _ in range(MOST_TRIES - 1):
            try:
                return self._search_first(apply, now=now)
            except IntegrityError as error:
                logger.debug("another writer was faster: %s", error)
        return self._search_first(apply, now=now)

    def _search_first(
        self, apply: Callable[[Proven], list[Applied]], *, now: datetime
    ) -> list[Applied]:
        """Apply, and search the topic where that must know outcomes, if it can be.

        Raises:
            ServiceUnavailableError: It can't. Each search takes seconds to fail, so the
                first failure counts for the whole run.
        """
        if self._topic_is_away:
            return apply({})
        try:
            return searching_first(apply, now=now)
        except ServiceUnavailableError:
            self._topic_is_away = True
            raise

    def attempt(
        self,
        readings: Sequence[Reading],
        work: Callable[[Sequence[Reading]], list[Applied]],
    ) -> list[Applied]:
        """Do it for all together, or else for each alone: a broken one stops no other.

        Raises:
            RunLostError, StopError: The run must end.
            DatabaseAwayError: The database stays away.
        """
        try:
            return self._pulse.with_database(lambda: work(readings))
        except (RunLostError, StopError, DatabaseAwayError):
            raise
        except BreakerOpenError as error:
            for one in readings:
                self._fail(one, error)
            return []
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is this challenge's
            if len(readings) > 1:
                logger.debug("a batch is tried one by one: %s", error)
                return list(
                    chain.from_iterable(self.attempt([one], work) for one in readings)
                )
            self._fail(readings[0], error)
            return []

    def _fail(self, reading: Reading, error: Exception) -> None:
        """Count and name a challenge that could not be dealt with."""
        challenge = reading.challenge
        is_expected = isinstance(error, (ServiceUnavailableError, OperationalError))
        logger.warning(
            "challenge %s could not be recovered: %s",
            challenge.challenge_id,
            error,
            exc_info=None if is_expected else error,
        )
        # The log has what an unexpected error says; it may name what nobody should see.
        said = str(error) if is_expected else type(error).__name__
        reason = f"challenge {challenge.challenge_id}: {said.strip()}"
        self._ledger.tally.fail([one.phase_id for one in challenge.phases], reason)


def in_batches(readings: Iterable[Reading], size: int) -> Iterator[Sequence[Reading]]:
    """Yield the readings, so many at a time."""
    left = iter(readings)
    while batch := list(islice(left, size)):
        yield batch
