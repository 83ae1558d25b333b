"""Whether records may be sent now: the circuit breaker of publishing, and who asks it."""

import uuid
from typing import Final

from scheduling.adapters.breakers import SharedBreaker, shared_breaker
from scheduling.adapters.event_publisher import EventPublisher

BROKER_PROBE_SECONDS: Final = 1.0
# A broker in reach that fails all the same is not tried again sooner, once the breaker is
# open: each try costs audit entries.
LEAST_OPEN_SECONDS: Final = 3.0


class BrokerAwayError(Exception):
    """The brokers did not take what they should have taken; `args` say why."""


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

    def ask(self) -> bool:
        """Ask the broker and the breaker; True where one may send now.

        Takes up to `BROKER_PROBE_SECONDS`. What it allows ends with `report`, or with
        `let_go`.
        """
        breaker = self._breaker
        if breaker.is_closed:
            self._holds_probe = False
            return not self.needs_look or self._is_in_reach()
        if not breaker.take_probe(self._token):
            return False
        self._holds_probe = self._may_try(breaker)
        if not self._holds_probe:
            breaker.let_go(self._token)
        return self._holds_probe

    def _may_try(self, breaker: SharedBreaker) -> bool:
        """Tell whether to try, as the holder of the probe."""
        is_early = breaker.seconds_to_probe > 0
        if is_early and breaker.open_seconds < LEAST_OPEN_SECONDS:
            return False
        if not self._is_in_reach(is_counted=not is_early):
            return False
        breaker.notice_recovery()
        return breaker.admits(self._token)

    def _is_in_reach(self, *, is_counted: bool = True) -> bool:
        """Ask the broker for its metadata, which tells whether it answers.

        Args:
            is_counted: Whether no answer is a failure of a call; the look at an open
                breaker is no call.
        """
        if self._publisher.is_in_reach(timeout_seconds=BROKER_PROBE_SECONDS):
            self.needs_look = False
            return True
        self.needs_look = True
        if is_counted:
            self._breaker.report(BrokerAwayError("no Kafka broker answers"))
            self.let_go()
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
        self._breaker.report(BrokerAwayError(failure) if failure else None)
        self.let_go()

    def settle(self) -> None:
        """End what `ask` allowed where there was nothing to send.

        Where a trial was allowed, the broker's answer to the look is its success: a
        breaker must not stay half open only because nothing is due.
        """
        if self._holds_probe:
            self.report("")

    def reject(self) -> None:
        """Count that somebody wanted to send and may not, if that is so."""
        if not self._breaker.is_closed:
            self._breaker.reject()

    def let_go(self) -> None:
        """Let another one try."""
        if self._holds_probe:
            self._holds_probe = False
            self._breaker.let_go(self._token)
