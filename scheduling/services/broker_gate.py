"""Whether records may be sent now: the circuit breaker of publishing, and who asks it."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from scheduling.adapters.breakers import SharedBreaker, shared_breaker
from scheduling.adapters.clock import database_now
from scheduling.adapters.event_publisher import EventPublisher

BROKER_PROBE_SECONDS: Final = 1.0
# A broker that answers and fails all the same is not tried again sooner; twice as long
# each time, as each trial costs audit entries. The longest is bounded by the promise that
# what is due goes out within 15 s of the broker's return.
LEAST_OPEN_SECONDS: Final = 3.0
LONGEST_EARLY_SECONDS: Final = 10.0
NO_ANSWER: Final = "no Kafka broker answers"


class BrokerAwayError(Exception):
    """The brokers did not take what they should have taken; `args` say why."""


@dataclass
class _Streak:
    """Since when this process has not reached a broker; the database's instant."""

    since: datetime | None = None


_streak = _Streak()


class BrokerGate:
    """What one sender asks before it sends, and tells how it went.

    While the breaker is not closed, one sender over all hosts may try; the others wait.
    An open breaker does not wait out its reset timeout: that same one asks the broker
    for its metadata, and an answer half-opens the breaker.
    """

    def __init__(self, publisher: EventPublisher) -> None:
        self._publisher = publisher
        self._token = uuid.uuid4()
        self._holds_probe = False
        self.needs_look = publisher.seems_out_of_reach

    @property
    def _breaker(self) -> SharedBreaker:
        return shared_breaker("scheduler")

    def look(self) -> None:
        """Bring this process's copy of the breaker up to date, if it is old."""
        _ = self._breaker.is_closed

    @property
    def is_open(self) -> bool:
        """Whether one may send, as far as it is known without asking anybody."""
        return not self.needs_look and (self._holds_probe or self._breaker.is_closed)

    @property
    def is_trial(self) -> bool:
        """Whether what is sent now shows if the broker takes anything."""
        return self._holds_probe

    def ask(self) -> bool:
        """Ask the broker and the breaker; True where one may send now.

        Takes up to `BROKER_PROBE_SECONDS`. What it allows ends with `report`, or with
        `let_go`.
        """
        breaker = self._breaker
        if breaker.is_closed:
            self._holds_probe = False
            return not self.needs_look or self._is_in_reach(is_counted=True)
        if not breaker.take_probe(self._token):
            return False
        self._holds_probe = self._may_try(breaker)
        if not self._holds_probe:
            breaker.let_go(self._token)
        return self._holds_probe

    def _may_try(self, breaker: SharedBreaker) -> bool:
        """Tell whether to try, as the holder of the probe.

        No look is counted: that this process reaches no broker must keep no other one
        from trying.
        """
        is_early = breaker.seconds_to_probe > 0
        least = LEAST_OPEN_SECONDS * 2 ** min(breaker.reopenings, 10)
        if is_early and breaker.open_seconds < min(least, LONGEST_EARLY_SECONDS):
            return False
        if not self._is_in_reach(is_counted=False):
            return False
        breaker.notice_recovery()
        return breaker.admits(self._token)

    def _is_in_reach(self, *, is_counted: bool) -> bool:
        """Ask the broker for its metadata, which tells whether it answers.

        Args:
            is_counted: Whether no answer is a failure of the breaker's; it is none where
                others have reached a broker since this process no longer does.
        """
        if self._publisher.is_in_reach(timeout_seconds=BROKER_PROBE_SECONDS):
            self.needs_look = False
            return True
        self.needs_look = True
        _streak.since = _streak.since or database_now()
        if is_counted and not self._breaker.has_succeeded_since(_streak.since):
            self._breaker.report(BrokerAwayError(NO_ANSWER))
        return False

    def hold(self) -> None:
        """Prolong what `ask` allowed, while one sends."""
        if self._holds_probe:
            self._breaker.take_probe(self._token)

    def report(self, failure: str, *, must_look: bool = False) -> None:
        """Tell how the sending ended.

        Args:
            failure: What the broker failed with; empty where it did not fail.
            must_look: Whether to look for the broker before more is sent.
        """
        self.needs_look = must_look or self._publisher.seems_out_of_reach
        if not failure:
            _streak.since = None
        self._breaker.report(BrokerAwayError(failure) if failure else None)
        self.let_go()

    def settle(self) -> None:
        """End what `ask` allowed where there was nothing to send.

        Where the breaker opened for want of an answer, the answer to the look is a
        success: it must not stay half open only because nothing is due.
        """
        if self._holds_probe and self._breaker.last_error == NO_ANSWER:
            self.report("")
        self.let_go()

    def reject(self) -> None:
        """Count that somebody wanted to send and may not, if that is so."""
        if not self._breaker.is_closed:
            self._breaker.reject()

    def let_go(self) -> None:
        """Let another one try."""
        if self._holds_probe:
            self._holds_probe = False
            self._breaker.let_go(self._token)
