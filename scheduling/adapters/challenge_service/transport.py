"""HTTP exchanges that end in time and fit into memory, whatever the other side does.

httpx2's own time-outs bound each wait on the socket, not an answer that drips in for
ever, and it reads bodies of any size. Here every answer is read whole, inside one limit
of time that the caller sets for its thread, and one of size that counts what came out of
the decompression.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore2
import httpx2
from typing_extensions import override

from scheduling.adapters.challenge_service.interface import (
    ChallengeAnswerError,
    ChallengeServiceAwayError,
)

# A page of 100 challenges has 0.5 MB; parsed, JSON takes up to ten times its size.
LARGEST_BODY_BYTES = 8 * 1024 * 1024
# Idle connections are given up before most servers close them on us.
KEEP_ALIVE_SECONDS = 3.0
MOST_CONNECTIONS = 20
# These told of the body as it was sent, and not of the one that was read.
_BODY_HEADERS = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
_ends_at: ContextVar[float] = ContextVar("challenge_service_ends_at")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let all that this thread exchanges inside take so many seconds together."""
    token = _ends_at.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends_at.reset(token)


def seconds_left() -> float:
    """Return what is left of the time limit, not negative."""
    return max(0.0, _ends_at.get() - time.monotonic())


class Transport(httpx2.BaseTransport):
    """Sends requests to one neighbour and returns answers with their bodies read.

    Follows no redirect, uses no proxy, and tries nothing twice. Raises
    ChallengeServiceError where there is no whole answer.
    """

    def __init__(self, name: str) -> None:
        """Make the transport.

        Args:
            name: What the neighbour is called in errors.
        """
        self._name = name
        self._pool = httpcore2.ConnectionPool(
            max_connections=MOST_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_Backend(),
        )

    @override
    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Exchange one request for its answer."""
        try:
            return self._exchange(request)
        except httpcore2.TimeoutException:
            raise ChallengeServiceAwayError(
                f"{self._name} did not answer in time"
            ) from None
        except (httpcore2.NetworkError, OSError) as error:
            raise ChallengeServiceAwayError(
                f"{self._name} can't be reached ({_cause(error)})"
            ) from None
        except (httpcore2.ProtocolError, httpx2.DecodingError):
            raise ChallengeAnswerError(
                f"{self._name} broke off or garbled its answer"
            ) from None

    def _exchange(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, and read the answer whole."""
        url = request.url
        limits = dict.fromkeys(("pool", "connect", "write", "read"), seconds_left())
        answer = self._pool.handle_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(
                    scheme=url.raw_scheme,
                    host=url.raw_host,
                    port=url.port,
                    target=url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions={"timeout": limits},
            )
        )
        try:
            sent = httpx2.Response(
                answer.status,
                headers=answer.headers,
                stream=_Body(answer.iter_stream()),
                request=request,
            )
            body = self._read(sent)
        finally:
            answer.close()
        kept = [
            (name, value)
            for name, value in sent.headers.raw
            if name.lower() not in _BODY_HEADERS
        ]
        return httpx2.Response(sent.status_code, headers=kept, content=body)

    def _read(self, sent: httpx2.Response) -> bytes:
        """Return the decompressed body; never more than the limit is held.

        Raises:
            ChallengeAnswerError: It is larger.
        """
        parts: list[bytes] = []
        size = 0
        for part in sent.iter_bytes():
            size += len(part)
            if size > LARGEST_BODY_BYTES:
                raise ChallengeAnswerError(
                    f"{self._name} sent more than {LARGEST_BODY_BYTES >> 20} MiB",
                    is_passing=False,
                )
            parts.append(part)
            # Decompressing goes on without the socket, where the limit is kept.
            if seconds_left() == 0:
                raise httpcore2.ReadTimeout
        return b"".join(parts)

    @override
    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def _cause(error: Exception) -> str:
    """Return why a connection failed, in the system's words; never an address."""
    # The pool takes away what the error was raised from.
    told = error.args[0] if error.args else None
    cause = told if isinstance(told, OSError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    return getattr(cause, "strerror", None) or type(cause).__name__


class _Body(httpx2.SyncByteStream):
    """An answer's body as it comes in."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts

    @override
    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)


class _Backend(httpcore2.SyncBackend):
    """Opens connections whose every wait ends with the thread's time limit."""

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to one of the host's addresses, each getting its share of the time.

        Looking the name up is bounded by the system's resolver only.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(error) from error
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        for untried in range(len(addresses), 1, -1):
            try:
                return self._connect(addresses[-untried], port, untried, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return self._connect(addresses[-1], port, 1, socket_options)

    def _connect(
        self, address: str, port: int, untried: int, options: Iterable[Any] | None
    ) -> httpcore2.NetworkStream:
        """Connect to one address."""
        share = _wait(None) / untried
        return _Stream(super().connect_tcp(address, port, share, None, options))


class _Stream(httpcore2.NetworkStream):
    """A connection that asks for the time left before each wait.

    It outlives the exchange that opened it, so the limit is looked up each time.
    """

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    @override
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive."""
        return self._stream.read(max_bytes, _wait(timeout))

    @override
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self._stream.write(buffer, _wait(timeout))

    @override
    def close(self) -> None:
        """Close."""
        self._stream.close()

    @override
    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        """Go on encrypted."""
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _wait(timeout)))

    @override
    def get_extra_info(self, info: str) -> Any:
        """Tell what httpcore2 asks about the socket."""
        return self._stream.get_extra_info(info)


def _wait(timeout: float | None) -> float:
    """Return how long the next wait may take.

    Raises:
        ReadTimeout: The limit has been reached.
    """
    left = seconds_left()
    if left == 0:
        # A time-out of zero would mean "do not wait", which fails in other ways.
        raise httpcore2.ReadTimeout
    return left if timeout is None else min(left, timeout)
