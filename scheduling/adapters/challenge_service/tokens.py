"""Access tokens by OAuth2 client credentials: fetched when needed, one at a time."""

import math
import re
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx2

# Authlib has no types.
from authlib.integrations.base_client import OAuthError  # type: ignore[import-untyped]
from authlib.integrations.httpx_client import OAuth2Client  # type: ignore[import-untyped]

from scheduling import strict_json
from scheduling.adapters.challenge_service.answers import check_status
from scheduling.adapters.challenge_service.interface import ChallengeServiceAwayError
from scheduling.adapters.challenge_service.transport import Transport, seconds_left

NAME = "the token service"
# A token is renewed so long before its end, and a short-lived one in its last quarter.
LONGEST_MARGIN_SECONDS = 60.0
# What an HTTP header can hold (RFC 6750, section 2.1), and a bound on its length.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{1,16384}=*")
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, kw_only=True)
class _Token:
    """A token, and until when on the monotonic clock (seconds) it is used."""

    text: str
    used_until: float


class TokenSource:
    """Keeps one token for all threads."""

    def __init__(
        self, *, url: str, client_id: str, client_secret: str, audience: str
    ) -> None:
        self._audience = {"audience": audience} if audience else {}
        self._client = OAuth2Client(
            client_id,
            client_secret,
            # The original's way, which Auth0 takes; the other one is off there.
            token_endpoint_auth_method="client_secret_post",  # noqa: S106 -- a method's name
            token_endpoint=url,
            transport=Transport(NAME),
            follow_redirects=False,
            trust_env=False,
        )
        self._client.register_compliance_hook("access_token_response", _check)
        self._lock = threading.Lock()
        self._token: _Token | None = None

    def current(self) -> str:
        """Return a token that is still good for a while, fetched where there is none.

        Raises:
            ChallengeServiceAwayError: There is none to be had.
        """
        return self._get(unless=None)

    def renewed(self, *, refused: str) -> str:
        """Return another token than the one that was refused.

        Raises:
            ChallengeServiceAwayError: There is none to be had.
        """
        return self._get(unless=refused)

    def close(self) -> None:
        """Give up what connections there are."""
        self._client.close()

    def _get(self, *, unless: str | None) -> str:
        """Return the token kept, or a new one; whoever comes meanwhile waits for it."""
        if not self._lock.acquire(timeout=seconds_left()):
            raise ChallengeServiceAwayError(f"{NAME} did not answer in time")
        try:
            kept = self._token
            if kept is None or kept.text == unless or kept.used_until <= time.monotonic():
                kept = self._token = self._fetch()
            return kept.text
        finally:
            self._lock.release()

    def _fetch(self) -> _Token:
        """Ask for a token."""
        asked_at = time.monotonic()
        try:
            answer: dict[str, Any] = self._client.fetch_token(
                grant_type="client_credentials", **self._audience
            )
            used_until = asked_at + _usable_seconds(answer)
        except OAuthError as error:
            code = error.error if isinstance(error.error, str) else ""
            reason = f" ({code})" if _ERROR_CODE.fullmatch(code) else ""
            raise ChallengeServiceAwayError(
                f"{NAME} refuses us{reason}", is_passing=False
            ) from None
        except (ValueError, TypeError, OverflowError, httpx2.HTTPStatusError):
            raise _not_understood() from None
        text, kind = answer.get("access_token"), answer.get("token_type", "Bearer")
        if not (isinstance(text, str) and _TOKEN.fullmatch(text)):
            raise _not_understood()
        if not (isinstance(kind, str) and kind.lower() == "bearer"):
            raise _not_understood()
        return _Token(text=text, used_until=used_until)


def _check(response: httpx2.Response) -> httpx2.Response:
    """Let Authlib read only what a token service answers.

    Raises:
        ChallengeServiceError: It is overloaded, redirects, or sent no JSON object.
    """
    check_status(response, name=NAME, expected=(200, 400, 401, 403))
    try:
        content = strict_json.loads(response.content)
    except ValueError:
        raise _not_understood() from None
    if not isinstance(content, dict) or not ({"access_token", "error"} & content.keys()):
        raise _not_understood()
    return response


def _usable_seconds(answer: dict[str, Any]) -> float:
    """Return for how long to use a token; without a lifetime: until it is refused."""
    if answer.get("expires_in") is None:
        return math.inf
    lifetime = float(int(answer["expires_in"]))
    return lifetime - min(LONGEST_MARGIN_SECONDS, lifetime / 4)


def _not_understood() -> ChallengeServiceAwayError:
    """Return the error for an answer that is no token."""
    return ChallengeServiceAwayError(f"{NAME} sent no token that can be used")
