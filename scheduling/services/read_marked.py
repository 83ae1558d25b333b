"""Read the challenges that upstream said have changed, and that nobody could read then.

The mark (`Challenge.must_be_read_since`) is set by whoever was told of a change. It goes
with the answer: applied, or so definite that asking again would tell nothing new.
"""

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db import IntegrityError, transaction

from scheduling.adapters.challenge_service import (
    ChallengeAnswerError,
    ChallengeService,
    challenge_service,
)
from scheduling.domain.actors import CONSUMER
from scheduling.domain.challenges import Challenge, Reading
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.messages import UnusableMessageError
from scheduling.models import Challenge as ChallengeRow
from scheduling.services.apply_challenge import apply_challenge
from scheduling.services.unproven import Proven, searching_first
from scheduling.services.upstream import SOURCE

logger = logging.getLogger("autopilot.challenge_service")

MOST_AT_ONCE = 50
# Whoever reads keeps a worker from firing.
LONGEST_SECONDS = 5.0
# What is too little to read anything in.
LEAST_SECONDS = 0.2
# A change may be told before all of upstream's databases know of it.
PATIENCE = timedelta(minutes=1)


class _Result(StrEnum):
    """What became of one challenge: read and applied, given up, or still marked."""

    READ = "read"
    GIVEN_UP = "given up"
    LEFT = "left"


@dataclass(frozen=True, kw_only=True)
class ReadMarked:
    """What became of the marked challenges, by their canonical ids.

    read: read and applied.
    given_up: the service has answered, and nothing follows from it; no longer marked.
    left: still marked, to be tried again.
    failure: why the service could not be read, where it could not; otherwise empty.
    """

    read: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A marked challenge as it was before it was read."""

    challenge_id: str
    marked_at: datetime
    newest_message_at: datetime | None


def read_marked_challenges(
    *, now: datetime, most_seconds: float = LONGEST_SECONDS
) -> ReadMarked:
    """Read up to 50 marked challenges, those marked the longest, and apply what is told.

    Stops early where the service is away, and when the time is over. The challenges are
    taken in random order: one whose answer is never usable must not keep the service's
    breaker busy before the others have had their turn.

    A mark is taken away without effect on any job where for a minute the service has
    said that there is no such challenge, or shown one that can't be understood or has
    no phases. A 404 cancels nothing, and asking for ever would tell nothing new: a
    challenge that is ACTIVE comes back with recovery's list, any other with its next
    message.

    Args:
        now: Aware UTC instant of the deciding clock.
        most_seconds: How long all of it may take, give or take one search of the topic.

    Raises:
        OperationalError, InterfaceError: The database is out of reach.

    Source: contract, section 8 (marked and reconciled as soon as it answers) and
    section 6 (no cancelling on hearsay).
    """
    service = challenge_service()
    if service is None:
        return ReadMarked()
    marked = _marked()
    results, failure = _read_all(service, marked, now=now, most_seconds=most_seconds)
    done = ReadMarked(
        read=_with(results, _Result.READ),
        given_up=_with(results, _Result.GIVEN_UP),
        left=tuple(
            seen.challenge_id
            for seen in marked
            if results.get(seen.challenge_id, _Result.LEFT) is _Result.LEFT
        ),
        failure=failure,
    )
    _tell(done)
    return done


def _read_all(
    service: ChallengeService,
    marked: Sequence[_Seen],
    *,
    now: datetime,
    most_seconds: float,
) -> tuple[dict[str, _Result], str]:
    """Read one after the other until the time is over or the service is away.

    Returns:
        What became of those that were read, and why others could not be.
    """
    started_at = time.monotonic()
    results: dict[str, _Result] = {}
    failure = ""
    for seen in marked:
        spent = time.monotonic() - started_at
        if most_seconds - spent < LEAST_SECONDS:
            break
        try:
            results[seen.challenge_id] = _read(
                service,
                seen,
                now=now + timedelta(seconds=spent),
                seconds=most_seconds - spent,
            )
        except ChallengeAnswerError as error:
            failure = failure or error.detail
        except ServiceUnavailableError as error:
            failure = error.detail
            break
    return results, failure


def _marked() -> list[_Seen]:
    """Return those marked the longest, in random order."""
    rows = ChallengeRow.objects.filter(must_be_read_since__isnull=False)
    oldest = rows.order_by("must_be_read_since", "pk")[:MOST_AT_ONCE]
    seen = [
        _Seen(challenge_id=challenge_id, marked_at=marked_at, newest_message_at=newest)
        for challenge_id, marked_at, newest in oldest.values_list(
            "challenge_id", "must_be_read_since", "newest_message_at"
        )
        if marked_at is not None
    ]
    random.shuffle(seen)
    return seen


def _with(results: dict[str, _Result], wanted: _Result) -> tuple[str, ...]:
    """Return the challenges with that result."""
    return tuple(name for name, result in results.items() if result is wanted)


class _Told:
    """What this process has said last of the service's failures."""

    failure = ""


def _tell(done: ReadMarked) -> None:
    """Say what was done; a failure that lasts is told once."""
    if done.failure and done.failure != _Told.failure:
        logger.warning(
            "%s; %d marked challenges wait to be read", done.failure, len(done.left)
        )
    _Told.failure = done.failure
    if done.read:
        logger.info("%d marked challenges were read", len(done.read))


def _read(
    service: ChallengeService, seen: _Seen, *, now: datetime, seconds: float
) -> _Result:
    """Read one challenge, and apply it.

    Raises:
        ServiceUnavailableError: The service, or the topic where a job's outcome must be
            searched for, can't be asked now.
    """
    try:
        challenge = service.read(seen.challenge_id, within_seconds=seconds)
    except UnusableMessageError as error:
        return _give_up(seen, f"can't be understood: {error}", now=now)
    if challenge is None:
        return _give_up(seen, "is unknown to the Challenge service", now=now)
    if not _apply(challenge, seen, now=now):
        return _Result.LEFT
    if challenge.is_active and not challenge.phases:
        return _give_up(seen, "has no phases", now=now)
    return _Result.READ


def _apply(challenge: Challenge, seen: _Seen, *, now: datetime) -> bool:
    """Apply a challenge, unless more was told of it since it was asked for.

    Returns:
        Whether it was applied; otherwise it is still marked, or was read by others.

    Raises:
        ServiceUnavailableError: The topic can't be searched now.
    """
    reading = Reading(challenge=challenge, source=SOURCE)

    def apply(proven: Proven) -> bool:
        with transaction.atomic():
            if not _is_as_seen(seen):
                return False
            apply_challenge(reading, actor=CONSUMER, now=now, proven=proven)
            return True

    try:
        return searching_first(apply, now=now)
    except IntegrityError as error:
        # Another writer took an identity meanwhile: the next round sees its row.
        logger.debug("%s is read again: %s", seen.challenge_id, error)
        return False


def _is_as_seen(seen: _Seen) -> bool:
    """Tell whether nothing was told or read of the challenge meanwhile; lock its row.

    What was told after the service was asked is not in its answer, and the mark must
    outlive it.
    """
    row = (
        ChallengeRow.objects.select_for_update()
        .filter(challenge_id=seen.challenge_id)
        .first()
    )
    return (
        row is not None
        and row.must_be_read_since == seen.marked_at
        and row.newest_message_at == seen.newest_message_at
    )


def _give_up(seen: _Seen, reason: str, *, now: datetime) -> _Result:
    """Take the mark away from what asking again won't help, once it is old enough."""
    if now - seen.marked_at < PATIENCE:
        return _Result.LEFT
    with transaction.atomic():
        if not _is_as_seen(seen):
            return _Result.LEFT
        ChallengeRow.objects.filter(challenge_id=seen.challenge_id).update(
            must_be_read_since=None
        )
    logger.warning(
        "the challenge %s %s: its jobs stay as they are",
        seen.challenge_id,
        reason,
        extra={"challenge_id": seen.challenge_id},
    )
    return _Result.GIVEN_UP
