"""The Challenge service: the one place where challenges are read upstream.

`challenge_service()` returns the one in force. The HTTP client is loaded only when it is
asked for: processes that never read challenges pay nothing for it.
"""

import logging
import os
import threading
from dataclasses import dataclass, field

from django.conf import settings
from django.utils.module_loading import import_string

from scheduling.adapters.challenge_service.interface import (
    ChallengeAnswerError,
    ChallengeService,
    ChallengeServiceAwayError,
    ChallengeServiceError,
    Page,
    Unreadable,
)
from scheduling.conf import recovery_settings, recovery_settings_at_start

__all__ = [
    "ChallengeAnswerError",
    "ChallengeService",
    "ChallengeServiceAwayError",
    "ChallengeServiceError",
    "Page",
    "Unreadable",
    "challenge_service",
    "close_challenge_service",
    "is_challenge_service_configured",
    "warn_about_mock_mode",
]
logger = logging.getLogger("autopilot.challenge_service")
Key = tuple[object, ...]


@dataclass
class _Kept:
    """The service that this process has made, and the settings it was made for."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    key: Key | None = None
    service: ChallengeService | None = None


_kept = _Kept()


def challenge_service() -> ChallengeService | None:
    """Return the Challenge service in force; None where none is configured.

    This process's one for the present settings: its connections and its token are
    shared by all threads.
    """
    if not is_challenge_service_configured():
        return None
    # Connections must not be shared with the process that forked this one.
    key = (
        os.getpid(),
        recovery_settings(),
        settings.CHALLENGE_SAMPLES,
        *sorted(settings.CHALLENGE_SERVICE.items()),
    )
    with _kept.lock:
        if _kept.key != key:
            _forget()
            _kept.service, _kept.key = _make(), key
        return _kept.service


def close_challenge_service() -> None:
    """Close the connections of the service in force; the next one asked for is new."""
    with _kept.lock:
        _forget()


def _forget() -> None:
    """Close and forget the service kept."""
    if _kept.service is not None:
        _kept.service.close()
    _kept.service = _kept.key = None


def _make() -> ChallengeService:
    """Make the service that the settings ask for."""
    recovery = recovery_settings()
    if recovery.challenge_service_mock_mode:
        from scheduling.adapters.challenge_service.samples import (  # noqa: PLC0415 -- see above
            SampleChallenges,
        )

        return SampleChallenges(import_string(settings.CHALLENGE_SAMPLES))
    from scheduling.adapters.challenge_service.http import (  # noqa: PLC0415 -- see above
        HttpAccess,
        HttpChallengeService,
    )

    return HttpChallengeService(
        HttpAccess(
            **settings.CHALLENGE_SERVICE,
            timeout_seconds=recovery.challenge_service_timeout / 1000,
            retries=recovery.challenge_service_retries,
        )
    )


def is_challenge_service_configured() -> bool:
    """Tell whether there is a Challenge service, or samples in its place."""
    url: str = settings.CHALLENGE_SERVICE["url"]
    return bool(url) or recovery_settings_at_start().challenge_service_mock_mode


def warn_about_mock_mode() -> None:
    """Say at the start of a process that the challenges are not real ones.

    The web server's processes run no system checks, which say it too.
    """
    if recovery_settings_at_start().challenge_service_mock_mode and not settings.DEBUG:
        logger.critical(
            "RECOVERY_CHALLENGE_SERVICE_MOCK_MODE is on with DEBUG off: SAMPLE "
            "challenges are scheduled and fired, and no real one is read"
        )
