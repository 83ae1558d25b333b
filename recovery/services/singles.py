"""Challenges that have live jobs and are not in the list of ACTIVE ones, read singly.

They may be over, unknown, or shown by the next page of a list that shifted: only what the
challenge itself says is evidence.
"""

import heapq
import random
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import connections
from django.db.models import Count, Min

from scheduling.adapters.challenge_service import (
    ChallengeService,
    ChallengeServiceAwayError,
)
from scheduling.adapters.clock import DatabaseClock
from scheduling.domain.challenges import Reading
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.messages import UnusableMessageError
from scheduling.models import ScheduledTransition

# Of those that a run can't read for lack of turns, the next run reads others: most are
# taken by when their next job is due, some by chance.
MOST_BY_DUE: Final = 400
MOST_BY_CHANCE: Final = 100
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A challenge to be read singly, and how many live jobs it has."""

    challenge_id: str
    jobs: int


def candidates(seen: Set[str], *, project_id: str) -> list[Candidate]:
    """Return the challenges with live jobs that were not listed, at most 500.

    Args:
        seen: Canonical ids of all that were listed.
        project_id: Only those with jobs of that project; empty: all.
    """
    live = ScheduledTransition.objects.live().exclude(challenge_id=None)
    if project_id:
        live = live.filter(project_id=project_id)
    groups = (
        live.order_by()
        .values_list("challenge_id")
        .annotate(first=Min("due_at"), jobs=Count("pk"))
    )
    missing = [
        (first, challenge_id, jobs)
        for challenge_id, first, jobs in groups.iterator(chunk_size=2_000)
        if challenge_id not in seen
    ]
    soonest = heapq.nsmallest(MOST_BY_DUE, missing)
    others = list(set(missing) - set(soonest))
    chosen = soonest + random.sample(others, min(MOST_BY_CHANCE, len(others)))
    return [Candidate(challenge_id=name or "", jobs=jobs) for _, name, jobs in chosen]


def read_singly(
    service: ChallengeService,
    waiting: Sequence[Candidate],
    *,
    clock: DatabaseClock,
    source: str,
    at_once: int,
    patience: timedelta,
    while_waiting: Callable[[], None],
) -> Iterator[tuple[Candidate, Reading | str]]:
    """Yield what each challenge says, or why it says nothing; empty: it is unknown.

    Where the service is away the others are not asked any more.

    Args:
        at_once: How many are asked at the same time.
        patience: How long one question may take.
        while_waiting: Called every second; what it raises ends the reading.

    Raises:
        ServiceUnavailableError: The service is away.
    """

    def ask(candidate: Candidate) -> Reading | str:
        asked_at = datetime.fromtimestamp(clock.epoch(), UTC)
        try:
            challenge = service.read(
                candidate.challenge_id, within_seconds=patience.total_seconds()
            )
        except UnusableMessageError as error:
            return error.detail
        except ChallengeServiceAwayError:
            raise
        except ServiceUnavailableError as error:
            return error.detail
        finally:
            # Mock mode keeps its start in the database.
            connections.close_all()
        if challenge is None:
            return ""
        return Reading(challenge=challenge, source=source, asked_at=asked_at)

    pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="recovery-single")
    try:
        asked: dict[Future[Reading | str], Candidate] = {
            pool.submit(ask, candidate): candidate for candidate in waiting
        }
        left = set(asked)
        while left:
            done, left = wait(left, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
            while_waiting()
            for future in done:
                yield asked[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
