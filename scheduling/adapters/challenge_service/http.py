"""The Challenge API v6 over HTTP.

Every question goes through `HttpChallengeService._attempt`: what watches over the
neighbour belongs there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from time import monotonic
from typing import TypeVar
from urllib.parse import quote

import httpx2
import stamina
from stamina.instrumentation import set_on_retry_hooks

from scheduling.adapters.breakers import BreakerOpenError, shared_breaker
from scheduling.adapters.challenge_service.answers import (
    NAME,
    check_status,
    json_content,
)
from scheduling.adapters.challenge_service.interface import (
    ChallengeAnswerError,
    ChallengeServiceAwayError,
    ChallengeServiceError,
    Page,
)
from scheduling.adapters.challenge_service.listing import Listing, read_listing, walk
from scheduling.adapters.challenge_service.transport import Transport, time_limit
from scheduling.domain.challenges import Challenge
from scheduling.domain.phases import wire_id
from scheduling.messages import UnusableMessageError, read_api_challenge

# The most that the API gives at once.
PER_PAGE = 100
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 5.0
Result = TypeVar("Result")

# By default stamina tells of each retry through structlog, which writes to stdout.
set_on_retry_hooks([])


@dataclass(frozen=True, kw_only=True)
class HttpAccess:
    """Where the service is, how it lets us in, and how patient we are.

    token_url: empty where the service asks for no token.
    timeout_seconds: for one attempt: the token where one is needed, the answer, and a
        second token with a second answer where the first token was refused.
    retries: attempts after the first.
    """

    url: str
    token_url: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    audience: str = ""
    timeout_seconds: float
    retries: int

    @property
    def longest_seconds(self) -> float:
        """How long one question may take, with all its attempts and waits."""
        attempts = self.timeout_seconds * (1 + self.retries)
        return attempts + LONGEST_WAIT_SECONDS * self.retries


class HttpChallengeService:
    """Asks the Challenge API; see `interface.ChallengeService` for what it promises."""

    def __init__(self, access: HttpAccess) -> None:
        self._access = access
        self._base = access.url.rstrip("/")
        self._tokens = None
        if access.token_url:
            # Authlib takes half a second to load.
            from scheduling.adapters.challenge_service.tokens import (  # noqa: PLC0415
                TokenSource,
            )

            self._tokens = TokenSource(
                url=access.token_url,
                client_id=access.client_id,
                client_secret=access.client_secret,
                audience=access.audience,
            )
        self._client = httpx2.Client(
            transport=Transport(NAME),
            follow_redirects=False,
            trust_env=False,
            headers={"Accept": "application/json", "User-Agent": "autopilot"},
        )

    def read(
        self, challenge_id: str, *, within_seconds: float | None = None
    ) -> Challenge | None:
        """Return a challenge as it is now; None where the service says there is none."""

        def ask() -> Challenge | None:
            return _challenge(self._get(f"/challenges/{_path(challenge_id)}"), challenge_id)

        return self._ask(ask, within_seconds=within_seconds)

    def read_active(self, project_id: str | None = None) -> Iterator[Page]:
        """Return all ACTIVE challenges, page by page, as the service shows them."""
        query: dict[str, str | int] = {
            "status": "ACTIVE",
            "isLightweight": "true",
            # What is created or completed meanwhile then shifts as little as possible.
            "sortBy": "created",
            "sortOrder": "asc",
            "perPage": PER_PAGE,
        }
        if project_id is not None:
            query["projectId"] = wire_id(project_id)

        def fetch(number: int, check: Callable[[Listing], None]) -> Listing:
            def ask() -> Listing:
                response = self._get("/challenges", {**query, "page": number})
                check_status(response, name=NAME, expected=(HTTPStatus.OK,))
                listing = read_listing(response, number=number)
                check(listing)
                return listing

            return self._ask(ask)

        return walk(fetch, project_id=project_id)

    def close(self) -> None:
        """Give up what connections there are."""
        self._client.close()
        if self._tokens is not None:
            self._tokens.close()

    def _ask(
        self, ask: Callable[[], Result], *, within_seconds: float | None = None
    ) -> Result:
        """Ask, and ask again after what may pass, within a bounded time."""
        longest = self._access.longest_seconds
        end = monotonic() + (longest if within_seconds is None else within_seconds)

        def may_wait(error: Exception) -> bool | float:
            if not (isinstance(error, ChallengeServiceError) and error.is_passing):
                return False
            left = end - monotonic()
            if error.wait_seconds is None:
                return left > LONGEST_WAIT_SECONDS
            return error.wait_seconds if error.wait_seconds < left else False

        for attempt in stamina.retry_context(
            on=may_wait,
            attempts=1 + self._access.retries,
            timeout=None,
            wait_initial=FIRST_WAIT_SECONDS,
            wait_max=LONGEST_WAIT_SECONDS,
            wait_jitter=FIRST_WAIT_SECONDS,
        ):
            with attempt:
                left = end - monotonic()
                return self._attempt(ask, seconds=min(self._access.timeout_seconds, left))
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, ask: Callable[[], Result], *, seconds: float) -> Result:
        """Ask once. Each call of the service passes here, and its circuit breaker."""
        try:
            breaker = shared_breaker("challenge", counts=_is_failure)
            with breaker.guarding(), time_limit(seconds):
                return ask()
        except BreakerOpenError as error:
            raise ChallengeServiceAwayError(
                f"{NAME} is left alone: its circuit breaker is open",
                is_passing=False,
                wait_seconds=error.seconds,
            ) from None

    def _get(
        self, path: str, query: Mapping[str, str | int] | None = None
    ) -> httpx2.Response:
        """Return the service's answer, asked for with another token if one is refused."""
        if self._tokens is None:
            return self._send(path, query, token="")
        token = self._tokens.current()
        response = self._send(path, query, token=token)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            response = self._send(path, query, token=self._tokens.renewed(refused=token))
        return response

    def _send(
        self, path: str, query: Mapping[str, str | int] | None, *, token: str
    ) -> httpx2.Response:
        """Exchange one request for its answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._client.get(self._base + path, params=query, headers=headers)


def _is_failure(error: BaseException) -> bool:
    """Tell whether an error is the service's, rather than one of what it shows."""
    return isinstance(error, ChallengeServiceError)


def _path(challenge_id: str) -> str:
    """Return an id as one segment of a path.

    Raises:
        ValueError: It is empty: that would name the list.
    """
    if not challenge_id:
        raise ValueError("a challenge's id is needed")
    # Dots are harmless in texts, and not as a segment of their own.
    return quote(challenge_id, safe="").replace(".", "%2E")


def _challenge(response: httpx2.Response, challenge_id: str) -> Challenge | None:
    """Return the challenge that an answer shows.

    Raises:
        ChallengeServiceError: It shows none.
        UnusableMessageError: It can't be understood, or is another one.
    """
    check_status(response, name=NAME, expected=(HTTPStatus.OK, HTTPStatus.NOT_FOUND))
    content = json_content(response)
    if response.status_code == HTTPStatus.NOT_FOUND:
        if isinstance(content, dict):
            return None
        raise ChallengeAnswerError(f"{NAME} answered with HTTP 404 that is not its own")
    challenge = read_api_challenge(content)
    if challenge.challenge_id != challenge_id:
        raise UnusableMessageError([("id", "is another challenge's than asked for")])
    return challenge
