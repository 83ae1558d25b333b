"""What the product asks of a Challenge service, whichever it is, and how it may fail."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from scheduling.domain.challenges import Challenge
from scheduling.domain.errors import ServiceUnavailableError


class ChallengeServiceError(ServiceUnavailableError):
    """The service told nothing that can be used: nothing may be concluded from it.

    The detail never holds a secret, an address, or text that the service sent.

    is_passing: whether asking again may help soon.
    wait_seconds: how long the service asks to be left alone; None where it does not say.
    """

    def __init__(
        self, detail: str, *, is_passing: bool = True, wait_seconds: float | None = None
    ) -> None:
        seconds = 5 if wait_seconds is None else max(1, round(wait_seconds))
        super().__init__(detail, retry_after_seconds=seconds)
        self.is_passing = is_passing
        self.wait_seconds = wait_seconds


class ChallengeServiceAwayError(ChallengeServiceError):
    """It answers nobody now: out of reach, overloaded, or it does not let us in."""


class ChallengeAnswerError(ChallengeServiceError):
    """This answer can't be used; that to another question still may be.

    is_of_one: whether the question was for one challenge.
    """

    is_of_one = False


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """What the service showed and nobody can understand; the rest of it counts.

    challenge_id: canonical id, or empty where even that can't be read.
    phase_id: canonical id of the one phase left out of its challenge. Where it is empty
        and `is_phase` is set, the phase's id can't be read either.
    is_phase: whether only a phase is left out; otherwise it is the whole challenge.
    """

    challenge_id: str
    reason: str
    phase_id: str = ""
    is_phase: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of the list of ACTIVE challenges, each challenge in one part only.

    number, last: 1-based; which page of how many.
    total: how many challenges the whole list has, those that can't be read too.
    """

    number: int
    last: int
    total: int
    challenges: tuple[Challenge, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()


class ChallengeService(Protocol):
    """Where challenges are read. May be used by many threads; nothing is ever written."""

    def read(
        self, challenge_id: str, *, within_seconds: float | None = None
    ) -> Challenge | None:
        """Return a challenge as it is now; None where the service says there is none.

        Args:
            challenge_id: Canonical id.
            within_seconds: How long this may take in all. Without it: the time-out for
                each attempt, and the waits between them.

        Raises:
            ChallengeServiceError: The service could not be asked, or not understood.
            UnusableMessageError: It showed a challenge that can't be understood wholly.
        """
        ...

    def read_active(self, project_id: str | None = None) -> Iterator[Page]:
        """Return all ACTIVE challenges, page by page, as the service shows them.

        Only a walk that comes to its end without an error has read them all. What was
        given before an error was read all the same, and may be used.

        Args:
            project_id: Canonical id; only the challenges of that project.

        Raises:
            ChallengeServiceError: A page could not be read, or the pages contradict
                each other.
        """
        ...

    def close(self) -> None:
        """Give up what connections there are."""
        ...
