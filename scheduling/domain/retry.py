"""When a failed attempt is tried again: attempt number to wait."""

import random
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    The wait before attempt n + 1 is drawn from [d/2, d] with
    d = min(longest, delay * 2^(n-1)): half is kept fixed, so that a retry is never
    immediate, and half is random, so that many rows of one outage spread out.
    """

    delay: timedelta
    longest: timedelta = timedelta(minutes=5)

    def wait(self, attempt: int, *, chance: float | None = None) -> timedelta:
        """Return the wait after the 1-based `attempt` failed.

        Args:
            attempt: How many attempts were made, at least 1.
            chance: In [0, 1); drawn when absent.
        """
        exponent = min(attempt - 1, 30)
        full = min(self.longest, self.delay * (1 << exponent))
        drawn = random.random() if chance is None else chance  # noqa: S311 -- jitter, no secret
        return full / 2 + full / 2 * drawn
