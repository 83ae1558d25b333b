"""The gate before Django: how much a request may send, and how many run at a time.

Django's ASGI handler spools a body to disk, whatever its size, before any view runs, and
Django REST framework takes a body without a Content-Length for an empty one. Every
request has a thread and a database connection of its own, without a bound. All of that
is settled here, and that a request waits neither for ever nor in silence.
"""

import asyncio
import json
import logging

from django.conf import settings
from django.urls import Resolver404, resolve
from django.utils.http import parse_header_parameters

from scheduling.api.errors import MEDIA_TYPE, RETRY_AFTER_SECONDS, Problem, plain
from scheduling.api.parsers import LARGEST_BODY
from scheduling.api.request_id import HEADER, given_or_new
from scheduling.api.sending import (
    Answer,
    Application,
    ClientTooSlowError,
    Message,
    Receive,
    Scope,
    Send,
    Untaken,
)

logger = logging.getLogger("autopilot.api")

# A client that is cut off while it still sends never sees the answer. So much is read
# and thrown away for its sake; who sends more is cut off.
MOST_DISCARDED = 64 * 1024 * 1024
# Each holds a database connection, and the cluster needs some too; the others wait.
MOST_REQUESTS = 20
# How long a request waits for its turn, and one of the API for the first of its answer:
# where a neighbour hangs, its thread hangs with it, and the client has to hear something.
WAIT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
# What holds none, or one for all of them together, and has to answer also when the
# database does not, or when all places are taken.
UNBOUNDED = ("/livez", "/health", "/metrics", "/static/")

# What gunicorn takes the scheme from; it is given plain connections only.
_SCHEME_HEADERS = (b"x-forwarded-proto", b"x-forwarded-protocol", b"x-forwarded-ssl")
_FOREIGN_CHARSET = plain(415, "A form must be in UTF-8.")
_INCOMPLETE = plain(408, "The body did not come whole, or not in time.")
_LATER = {"Retry-After": str(RETRY_AFTER_SECONDS)}
_NO_PLACE = plain(503, "Too much is asked for at once; ask again later.", headers=_LATER)
_TOO_SLOW = plain(
    503,
    "The answer does not come. What was asked for may be done all the same: ask again "
    "later, with the same Idempotency-Key if there was one.",
    headers=_LATER,
)


class Gate:
    """Wraps an ASGI application.

    A body larger than the path takes is answered with 413 in its place, before anybody
    asks who sends it. Django is given a request when its body is there, and gives its
    place back before its answer is sent, so that a slow client holds nothing that others
    need. An API's answer that does not come is 503, for as long as what hangs holds its
    place.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self._places = asyncio.Semaphore(MOST_REQUESTS)
        self._untaken = Untaken()
        # Those that nobody waits for any more; the loop itself would forget them.
        self._left: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            # Nothing here is for them.
            await receive()
            await send({"type": "websocket.close"})
        else:
            await self.application(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, once the body is there and nothing speaks against it."""
        scope = _with_own_scheme(scope)
        limit = _largest_body(scope["path"])
        body, is_whole = await _read(receive, limit=limit)
        if not is_whole:
            # The client is gone, or has stopped in the middle and still listens.
            await _refuse(scope, send, _INCOMPLETE)
            return
        if len(body) > limit:
            too_large = f"The body must hold at most {limit:,} bytes."
            await _refuse(scope, send, plain(413, too_large))
            return
        if _has_foreign_charset(scope):
            await _refuse(scope, send, _FOREIGN_CHARSET)
            return
        scope = _with_length(scope, len(body))
        receive = _replay(bytes(body), receive)
        if scope["method"] == "HEAD":
            send = _without_body(send)
        if scope["path"].startswith(UNBOUNDED):
            await self.application(scope, receive, send)
            return
        await self._serve_in_turn(scope, receive, send)

    async def _serve_in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in one of the places, when there is one."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            await _refuse(scope, send, _NO_PLACE)
            return
        answer = Answer(send, places=self._places, untaken=self._untaken)
        making = asyncio.ensure_future(answer.make(self.application, scope, receive))
        begun = asyncio.ensure_future(answer.has_begun.wait())
        # Pages that do much at once are a person's, who sees that they are at work.
        seconds = ANSWER_SECONDS if scope["path"].startswith("/api/") else None
        try:
            await asyncio.wait(
                {making, begun}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if making.done() or answer.has_begun.is_set():
                await asyncio.wait({making})
        except asyncio.CancelledError:
            # The client is gone.
            making.cancel()
            self._leave(making)
            raise
        finally:
            begun.cancel()
        if not making.done():
            answer.give_up()
            self._leave(making)
            await _refuse(scope, send, _TOO_SLOW)
        elif not making.cancelled():
            try:
                making.result()
            except ClientTooSlowError:
                logger.info("a client took nothing of its answer, and was cut off")

    def _leave(self, making: "asyncio.Task[None]") -> None:
        """Let an answer come to its end by itself."""
        self._left.add(making)
        making.add_done_callback(self._note_end)

    def _note_end(self, making: "asyncio.Task[None]") -> None:
        """Forget one that was left to itself; nobody else hears what became of it."""
        self._left.discard(making)
        if not making.cancelled() and making.exception() is not None:
            logger.error("a request that was left failed", exc_info=making.exception())


def _with_own_scheme(scope: Scope) -> Scope:
    """Return the scope as it would be without what a client says of its own scheme.

    gunicorn believes everybody on this host; here TRUST_PROXY decides alone, and Django
    reads the header itself where it is on.
    """
    if settings.TRUST_PROXY or not any(
        name in _SCHEME_HEADERS for name, _ in scope["headers"]
    ):
        return scope
    return {**scope, "scheme": "http"}


def _largest_body(path: str) -> int:
    """Return how many bytes a body of a request to this path may have."""
    largest: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    if not path.startswith("/api/"):
        return largest
    try:
        view = getattr(resolve(path).func, "cls", None)
    except Resolver404:
        view = None
    return min(largest, getattr(view, "largest_body", LARGEST_BODY))


async def _read(receive: Receive, *, limit: int) -> tuple[bytearray, bool]:
    """Return up to one byte more than the limit, and whether the client was there still.

    What goes beyond is read too, and thrown away.
    """
    body = bytearray()
    received = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body, False
        chunk = message.get("body", b"")
        received += len(chunk)
        body += chunk[: limit + 1 - len(body)]
        if not message.get("more_body", False) or received > MOST_DISCARDED:
            return body, True


def _with_length(scope: Scope, length: int) -> Scope:
    """Return the scope with a Content-Length, where there is a body and it had none."""
    has_length = any(name == b"content-length" for name, _ in scope["headers"])
    if has_length or not length:
        return scope
    header = (b"content-length", str(length).encode())
    return {**scope, "headers": [*scope["headers"], header]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first and then what comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _without_body(send: Send) -> Send:
    """Return a `send` that leaves the body out, as an answer to HEAD has none.

    Django sends it to the server, which would log a warning for each.
    """

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if "body" in message else message)

    return send_head


def _header(scope: Scope, wanted: bytes) -> str:
    """Return the first of the request's headers of that name; empty where there is none."""
    values = (value for name, value in scope["headers"] if name == wanted)
    return str(next(values, b""), "latin-1")


def _has_foreign_charset(scope: Scope) -> bool:
    """Tell whether a form with parts says that it is in another charset than UTF-8.

    Django takes any that Python knows, also those that are none of texts, and fails
    where nobody catches it.
    """
    try:
        kind, parameters = parse_header_parameters(_header(scope, b"content-type"))
    except ValueError:
        return True
    charset = parameters.get("charset", "utf-8").lower()
    return kind.startswith("multipart/") and charset not in {"utf-8", "utf8"}


async def _refuse(scope: Scope, send: Send, problem: Problem) -> None:
    """Answer with a problem, in the application's place."""
    content = json.dumps(problem.body()).encode()
    request_id = given_or_new(_header(scope, HEADER.lower().encode()))
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(content)),
        "Connection": "close",
        HEADER: request_id,
        **problem.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [
                (name.lower().encode(), value.encode()) for name, value in headers.items()
            ],
        }
    )
    await send({"type": "http.response.body", "body": content})
