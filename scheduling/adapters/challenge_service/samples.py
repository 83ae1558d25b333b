"""Mock mode: the sample challenges in place of a Challenge service.

Their instants are counted from one start that all processes share, or else each process
would move the others' jobs. The start is kept beside the chores' in the database.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from scheduling.adapters.challenge_service.interface import Page
from scheduling.adapters.clock import database_now
from scheduling.domain.challenges import ACTIVE, Challenge
from scheduling.messages import read_api_challenge
from scheduling.models import Housekeeping

# The row that holds the start.
START = "challenge_samples"
# Challenge API objects with their instants counted from `start`.
Provider = Callable[..., Sequence[Any]]


class SampleChallenges:
    """The bundled challenges; see `interface.ChallengeService` for what it promises."""

    def __init__(self, provide: Provider) -> None:
        self._provide = provide
        self._begun_at = database_now()

    def read(
        self, challenge_id: str, *, within_seconds: float | None = None
    ) -> Challenge | None:
        """Return a sample challenge; None where there is none of that id."""
        found = [one for one in self._all() if one.challenge_id == challenge_id]
        return found[0] if found else None

    def read_active(self, project_id: str | None = None) -> Iterator[Page]:
        """Return the sample challenges as one page."""
        shown = tuple(
            one
            for one in self._all()
            if one.status == ACTIVE and project_id in {None, one.project_id}
        )
        yield Page(number=1, last=1, total=len(shown), challenges=shown)

    def close(self) -> None:
        """Have nothing to give up."""

    def _all(self) -> list[Challenge]:
        """Return all of them, dated.

        A process that begins after they were over starts them anew; those that watched
        them end do not.
        """
        row, _ = Housekeeping.objects.get_or_create(
            name=START, defaults={"last_run_at": self._begun_at}
        )
        challenges = self._dated(row.last_run_at)
        if _end(challenges, row.last_run_at) >= self._begun_at:
            return challenges
        # Of several that begin together the first one decides.
        Housekeeping.objects.filter(name=START, last_run_at=row.last_run_at).update(
            last_run_at=self._begun_at
        )
        row.refresh_from_db()
        return self._dated(row.last_run_at)

    def _dated(self, start: datetime) -> list[Challenge]:
        """Return the challenges with their instants counted from `start`."""
        return [read_api_challenge(one) for one in self._provide(start=start)]


def _end(challenges: Sequence[Challenge], start: datetime) -> datetime:
    """Return the last instant of all phases."""
    ends = [
        phase.scheduled_end_at
        for challenge in challenges
        for phase in challenge.phases
        if phase.scheduled_end_at is not None
    ]
    return max(ends, default=start)
