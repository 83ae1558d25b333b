"""An outside issuer's tokens: its keys over HTTPS, and what its claims say.

For an issuer in the manner of Auth0: RS256, public keys at an address of its own.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

import httpx2
import jwt
from django.conf import settings

from scheduling.domain.actors import OutsideUser, Role
from scheduling.domain.errors import ServiceUnavailableError

logger = logging.getLogger("autopilot.outside_issuer")

# Pinned, whatever a token or a key says of itself.
ALGORITHM: Final = "RS256"
LEAST_KEY_BITS: Final = 2048
FETCH_SECONDS: Final = 5.0
LARGEST_BYTES: Final = 256 * 1024
MOST_KEYS: Final = 100
# Keys that were read less long ago are not asked for again.
FRESH_SECONDS: Final = 600.0
# With the issuer out of reach, the keys read last are used for so long.
STALE_SECONDS: Final = 3_600.0
# Tokens that name an unknown key make us ask so often at the most, and so often an
# issuer that did not answer is asked again.
COOLDOWN_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 5.0
# Requests that wait for the keys beside the one that asks for them, and attempts that
# hang, since the issuer sends its answer by the drop, before no more are made.
MOST_WAITING: Final = 4
MOST_HANGING: Final = 3
# Uncompressed, so that its size is known before it is in memory.
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}
# What the columns that name a user hold.
LONGEST_NAME: Final = 255


class UnacceptableTokenError(Exception):
    """The token is not one of the issuer's for us, or is no longer, or not yet, valid."""


class KeysUnreadableError(Exception):
    """The issuer's keys could not be read."""


class _Reading:
    """One attempt to read the keys, in a thread of its own: it may hang for ever."""

    def __init__(self, address: str, *, then: Callable[["_Reading"], None]) -> None:
        """Begin.

        Args:
            then: Called in that thread when the attempt is over.
        """
        self.keys: dict[str, jwt.PyJWK] | None = None
        self.error = ""
        self._address = address
        self._then = then
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.keys = _read_keys(self._address)
        except KeysUnreadableError as error:
            self.error = str(error)
        finally:
            self._then(self)
            self._is_over.set()

    @property
    def hangs(self) -> bool:
        """Whether its thread is still there."""
        return self._thread.is_alive()

    def wait(self) -> bool:
        """Tell whether it was over in time."""
        return self._is_over.wait(FETCH_SECONDS)


class KeySet:
    """The issuer's public keys, read when they are needed and kept for a while."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")
        self._may_ask_at = float("-inf")
        self._failed = False
        # The attempt that is waited for, and those that nobody waits for any more.
        self._reading: _Reading | None = None
        self._hanging: list[_Reading] = []

    def find(self, kid: str) -> jwt.PyJWK | None:
        """Return the key of that id; None where the issuer has none.

        Raises:
            ServiceUnavailableError: The keys can't be read, or enough requests wait for
                them.
        """
        key = self._keys.get(kid)
        age = time.monotonic() - self._read_at
        if key is not None and age < FRESH_SECONDS:
            return key
        # Only one asks; with a key at hand nobody else waits for the answer.
        may_go_on = key is not None and age < STALE_SECONDS
        with self._lock:
            reading, is_own = self._reading, False
            if reading is None and self._should_ask(kid):
                reading, is_own = _Reading(self._address, then=self._take), True
                self._reading = reading
        if reading is not None and (is_own or not may_go_on):
            self._wait(reading, is_own=is_own)
        age = time.monotonic() - self._read_at
        key = self._keys.get(kid) if age < STALE_SECONDS else None
        if key is None and (self._failed or age >= STALE_SECONDS):
            raise _unreadable()
        return key

    def _should_ask(self, kid: str) -> bool:
        """Tell whether to read the keys: not if that was done, or tried, a moment ago."""
        now = time.monotonic()
        is_known = kid in self._keys and now - self._read_at < FRESH_SECONDS
        self._hanging = [one for one in self._hanging if one.hangs]
        return not (
            is_known or now < self._may_ask_at or len(self._hanging) >= MOST_HANGING
        )

    def _wait(self, reading: _Reading, *, is_own: bool) -> None:
        """Wait for an attempt that this thread, or another one, has begun.

        Raises:
            ServiceUnavailableError: Enough others wait for it: whoever names unknown
                keys shall not hold all that answers requests.
        """
        if not is_own and not self._waiting.acquire(blocking=False):
            raise _unreadable()
        try:
            is_over = reading.wait()
        finally:
            if not is_own:
                self._waiting.release()
        if not is_over:
            with self._lock:
                if self._reading is reading:
                    self._hanging.append(reading)
                    self._fail("it takes too long")

    def _take(self, reading: _Reading) -> None:
        """Take what an attempt has found, if it is still waited for."""
        with self._lock:
            if self._reading is not reading:
                return
            if reading.keys is None:
                self._fail(reading.error)
                return
            self._reading = None
            self._keys, self._failed = reading.keys, False
            self._read_at = time.monotonic()
            self._may_ask_at = self._read_at + COOLDOWN_SECONDS

    def _fail(self, reason: str) -> None:
        """Note that the keys could not be read."""
        self._reading = None
        self._failed = True
        self._may_ask_at = time.monotonic() + RETRY_SECONDS
        logger.error("the issuer's keys can't be read: %s", reason)


def _unreadable() -> ServiceUnavailableError:
    """Return what is said where a token can't be judged."""
    return ServiceUnavailableError(
        "The keys of the tokens' issuer can't be read; ask again later.",
        retry_after_seconds=int(RETRY_SECONDS),
    )


class OutsideIssuer:
    """Reads the tokens of one issuer."""

    def __init__(self, *, issuer: str, audience: str, address: str, roles: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._roles_claim = roles
        self._keys = KeySet(address)

    def read(self, token: bytes) -> OutsideUser:
        """Return the user for whom the issuer vouches.

        Raises:
            UnacceptableTokenError: It is none of the issuer's tokens for us, or not now.
            ServiceUnavailableError: The issuer's keys can't be read.
        """
        try:
            header = jwt.get_unverified_header(token)
            # Before any key is asked for: garbage costs nobody a request.
            if header.get("alg") != ALGORITHM or not isinstance(header.get("kid"), str):
                raise UnacceptableTokenError("it is not signed by a key of the issuer")
            key = self._keys.find(header["kid"])
            if key is None:
                raise UnacceptableTokenError("the issuer has no such key")
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": ["iss", "sub", "aud", "exp"],
                    # When it was made decides nothing (RFC 7519, section 4.1.6), and the
                    # issuer's clock may be a little ahead of ours.
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise UnacceptableTokenError(str(error)) from None
        return OutsideUser(name=self._name(claims), role=self._role(claims))

    def _name(self, claims: dict[str, Any]) -> str:
        """Return whom the claims name.

        Raises:
            UnacceptableTokenError: The name is none that could be recorded.
        """
        subject = claims["sub"]
        name = f"{self._issuer}|{subject}"
        if not subject.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
            raise UnacceptableTokenError("it names nobody who could be recorded")
        return name

    def _role(self, claims: dict[str, Any]) -> Role | None:
        """Return the highest of our roles in the claims; others there are ignored."""
        value = claims.get(self._roles_claim)
        names: Iterable[Any] = value.split() if isinstance(value, str) else value or ()
        if not isinstance(names, list):
            return None
        ours = (Role.ADMIN, Role.OPERATOR, Role.VIEWER)
        return next((role for role in ours if role.value in names), None)


def outside_issuer() -> OutsideIssuer | None:
    """Return the issuer that the settings name; None where tokens are our own."""
    if not settings.JWT_ISSUER:
        return None
    return _issuer(
        settings.JWT_ISSUER,
        settings.JWT_AUDIENCE,
        settings.JWT_JWKS_URL,
        settings.JWT_ROLES_CLAIM,
    )


@lru_cache(maxsize=8)
def _issuer(issuer: str, audience: str, address: str, roles: str) -> OutsideIssuer:
    """Return the one reader, with its keys, for these settings."""
    return OutsideIssuer(issuer=issuer, audience=audience, address=address, roles=roles)


def _read_keys(address: str) -> dict[str, jwt.PyJWK]:
    """Return the usable keys by their ids.

    Raises:
        KeysUnreadableError: Nothing answers in time, or the answer is no key set with a
            usable key.
    """
    try:
        found = json.loads(_fetch(address))["keys"]
        keys = dict(filter(None, map(_usable, found[:MOST_KEYS])))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise KeysUnreadableError("the answer is no key set") from None
    if not keys:
        raise KeysUnreadableError(f"the key set has no key for {ALGORITHM}")
    return keys


def _fetch(address: str) -> bytes:
    """Return the answer's body; redirects are not followed.

    Raises:
        KeysUnreadableError: It does not come whole, in time, and in a sane size.
    """
    ends_at = time.monotonic() + FETCH_SECONDS
    body = bytearray()
    try:
        with (
            httpx2.Client(timeout=FETCH_SECONDS, follow_redirects=False) as client,
            client.stream("GET", address, headers=_HEADERS) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise KeysUnreadableError(f"the answer is {answer.status_code}")
            for chunk in answer.iter_raw():
                body += chunk
                if len(body) > LARGEST_BYTES:
                    raise KeysUnreadableError(f"it has more than {LARGEST_BYTES:,} bytes")
                if time.monotonic() > ends_at:
                    raise KeysUnreadableError("it takes too long")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise KeysUnreadableError(f"{type(error).__name__}: {error}") from None
    return bytes(body)


def _usable(description: Any) -> tuple[str, jwt.PyJWK] | None:
    """Return id and key of a public RSA key that may verify; None for any other."""
    if not isinstance(description, dict):
        return None
    kid = description.get("kid")
    is_ours = (
        isinstance(kid, str)
        and description.get("kty") == "RSA"
        and description.get("use", "sig") == "sig"
        and description.get("alg", ALGORITHM) == ALGORITHM
        and "d" not in description
    )
    if not is_ours:
        return None
    try:
        key = jwt.PyJWK(description, algorithm=ALGORITHM)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return (str(kid), key) if key.key.key_size >= LEAST_KEY_BITS else None
