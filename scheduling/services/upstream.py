"""Complete what messages tell of challenges by reading them where they are kept."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from scheduling.adapters.challenge_service import (
    ChallengeService,
    ChallengeServiceAwayError,
    challenge_service,
)
from scheduling.domain.challenges import Reading, Scope
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.lifecycle import is_terminal_challenge_status
from scheduling.messages import UnusableMessageError
from scheduling.topics import CHALLENGE_UPDATE

logger = logging.getLogger("autopilot.consumer")
SOURCE: Final = "the Challenge service"
# What a batch of messages may wait for the service in all: a stream must not stand still
# for it. What was not read by then is marked, and read a little later.
LONGEST_SECONDS: Final = 3.0
# A service that is away is left alone so long.
PAUSE_SECONDS: Final = 5.0


class _Pause:
    """Until when this process leaves the service alone; monotonic seconds."""

    until = 0.0


def read_upstream(readings: Sequence[Reading]) -> list[Reading]:
    """Return the readings, each with what the Challenge service says where that decides.

    That is for every notification, and for an update that lists no phases (contract,
    section 8). Where the service can't be read now, a reading comes back without its
    phases, so that its challenge is marked to be read later; where none is configured,
    it comes back as it is.
    """
    service = challenge_service()
    if service is None:
        return list(readings)
    ends_at = time.monotonic() + LONGEST_SECONDS
    return [
        _read(service, reading, ends_at=ends_at) if _must_be_read(reading) else reading
        for reading in readings
    ]


def _must_be_read(reading: Reading) -> bool:
    """Tell whether the message alone does not say enough."""
    if reading.source != CHALLENGE_UPDATE:
        return True
    is_over = is_terminal_challenge_status(reading.challenge.status)
    return not reading.challenge.phases and not is_over


def _read(service: ChallengeService, reading: Reading, *, ends_at: float) -> Reading:
    """Return what the service says, said when the message said it."""
    unread = replace(reading, challenge=replace(reading.challenge, phases=()))
    now = time.monotonic()
    if now < _Pause.until or now >= ends_at:
        return unread
    challenge_id = reading.challenge.challenge_id
    try:
        challenge = service.read(challenge_id, within_seconds=ends_at - now)
    except (ServiceUnavailableError, UnusableMessageError) as error:
        if isinstance(error, ChallengeServiceAwayError):
            _Pause.until = time.monotonic() + PAUSE_SECONDS
        logger.warning(
            "challenge %s is to be read later: %s",
            challenge_id,
            error.detail,
            extra={"challenge_id": challenge_id},
        )
        return unread
    if challenge is None:
        logger.warning(
            "the Challenge service knows no challenge %s",
            challenge_id,
            extra={"challenge_id": challenge_id},
        )
        return unread
    return replace(
        reading,
        challenge=challenge,
        source=f"{reading.source}, read from {SOURCE}",
        scope=Scope.WHOLE,
    )
