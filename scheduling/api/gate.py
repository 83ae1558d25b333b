"""The gate before Django: how much a request may send, and how many run at a time.

Django's ASGI handler spools a body to disk, whatever its size, before any view runs, and
Django REST framework takes a body without a Content-Length for an empty one. Every
request has a thread and a database connection of its own, without a bound. All of that
is settled here.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.conf import settings
from django.utils.http import parse_header_parameters

from scheduling.api.request_id import HEADER, given_or_new

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# A client that is cut off while it still sends never sees the answer. So much is read
# and thrown away for its sake; who sends more is cut off.
MOST_DISCARDED = 64 * 1024 * 1024
# Each holds a database connection, and the cluster needs some too; the others wait.
MOST_REQUESTS = 20
# What holds none, or one for all of them together, and has to answer also when the
# database does not, or when all places are taken.
UNBOUNDED = ("/livez", "/health", "/metrics", "/static/")

_FOREIGN_CHARSET = {
    "type": "about:blank",
    "title": "Unsupported Media Type",
    "status": 415,
    "detail": "A form must be in UTF-8.",
    "code": "unsupported_media_type",
    "category": "validation",
}


class Gate:
    """Wraps an ASGI application.

    A body larger than DATA_UPLOAD_MAX_MEMORY_SIZE, the largest that any endpoint takes,
    is answered with 413 in its place; an endpoint's own smaller limit is the parser's.
    Django is given a request when its body is there, so that a slow client holds
    nothing that others need.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self._places = asyncio.Semaphore(MOST_REQUESTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body, is_whole = await _read(receive, limit=limit)
        if not is_whole:
            # The client is gone, and nobody is left to answer.
            return
        if len(body) > limit:
            await _refuse(scope, send, _too_large(limit))
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
        async with self._places:
            await self.application(scope, receive, send)


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


def _too_large(limit: int) -> dict[str, Any]:
    """Return the problem of a body that is too large."""
    return {
        "type": "about:blank",
        "title": "Request Entity Too Large",
        "status": 413,
        "detail": f"The body must hold at most {limit:,} bytes.",
        "code": "payload_too_large",
        "category": "validation",
    }


async def _refuse(scope: Scope, send: Send, problem: Mapping[str, Any]) -> None:
    """Answer with a problem; the shape is that of scheduling.api.errors."""
    content = json.dumps(problem).encode()
    request_id = HEADER.lower().encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
        (request_id, given_or_new(_header(scope, request_id)).encode()),
    ]
    status = problem["status"]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
