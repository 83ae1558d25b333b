"""What an HTTP answer means, before anybody looks at its content."""

import re
import time
from collections.abc import Collection
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx2

from scheduling import strict_json
from scheduling.adapters.challenge_service.interface import (
    ChallengeAnswerError,
    ChallengeServiceAwayError,
    ChallengeServiceError,
)

NAME = "the Challenge service"
# It says itself that it is not to be asked now, or a gateway says that it is away.
_OVERLOADED = frozenset({429, 502, 503, 504})
_PASSING = frozenset({408, 425})
_JSON = re.compile(r"application/([\w.+-]+\+)?json", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)


def check_status(
    response: httpx2.Response, *, name: str, expected: Collection[int]
) -> None:
    """Refuse an answer whose status says that it holds nothing of use.

    Raises:
        ChallengeServiceAwayError: It is overloaded, or does not let us in.
        ChallengeAnswerError: Any other status than those expected.
    """
    status = response.status_code
    if status in expected:
        return
    if status in _OVERLOADED:
        raise ChallengeServiceAwayError(
            f"{name} is overloaded or down (HTTP {status})",
            wait_seconds=retry_after(response),
        )
    if status == HTTPStatus.UNAUTHORIZED:
        raise ChallengeServiceAwayError(
            f"{name} does not let us in (HTTP 401)", is_passing=False
        )
    if 300 <= status < 400:  # noqa: PLR2004 -- HTTP's own range
        raise ChallengeAnswerError(
            f"{name} redirects (HTTP {status}), which is never followed", is_passing=False
        )
    raise ChallengeAnswerError(
        f"{name} answered with HTTP {status}",
        is_passing=status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING,
    )


def retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds for which the service wants to be left alone, if it says so."""
    text = response.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def json_content(response: httpx2.Response) -> object:
    """Return the answer's one JSON value.

    Raises:
        ChallengeAnswerError: Another content type, or JSON that is not strict.
    """
    check_is_json(response)
    try:
        return strict_json.loads(response.content)
    except ValueError as error:
        raise not_json(error) from None


def check_is_json(response: httpx2.Response) -> None:
    """Refuse what says of itself that it is something else, such as a gateway's page.

    Raises:
        ChallengeAnswerError: The content type is not JSON's.
    """
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    if not _JSON.fullmatch(kind):
        raise ChallengeAnswerError(
            f"{NAME} answered HTTP {response.status_code} with something else than JSON"
        )


def not_json(error: ValueError) -> ChallengeServiceError:
    """Return the error for a body that strict JSON does not know.

    The cause may quote a key's name, which is the service's own text.
    """
    cause = "" if " key " in str(error) else f": it {error}"
    return ChallengeAnswerError(f"{NAME} sent JSON that can't be used{cause}")
