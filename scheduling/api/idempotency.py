"""`Idempotency-Key`: a client that lost an answer repeats its request and gets it.

The key belongs to the user and holds for a day. What was answered is kept by
`services.idempotency`; here requests are recognised and answers taken down.
"""

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from django.db import Error as DatabaseError
from django.db import connections
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.api.authentication import actor_of
from scheduling.domain.errors import ConflictError, InvalidRequestError
from scheduling.services.idempotency import (
    LEASE,
    Answer,
    Asked,
    Ticket,
    let_go,
    look,
    store,
    take,
)

logger = logging.getLogger("autopilot.api")

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
LONGEST_KEY = 255
# Visible ASCII: what a header carries unharmed.
_FORM = re.compile(rf"[!-~]{{1,{LONGEST_KEY}}}")
# The twin of a request that is being handled waits so long for its answer.
WAIT_SECONDS = 2.0
PAUSE_SECONDS = 0.05
RETRY_AFTER_SECONDS = 1
# How soon what could not be taken down is tried again.
SETTLE_SECONDS = 0.5
# The headers that belong to an answer, whenever it is given.
_KEPT_HEADERS = ("Location", "Content-Location", "ETag")
# Answers that tell of the caller or of the server, not of the request.
_NOT_KEPT = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus(429)})


class AnsweredBefore(Exception):  # noqa: N818 -- no error: it carries the answer
    """The request was answered before; `response` is that answer again."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answered before")
        self.response = HttpResponse(
            answer.content,
            status=answer.status,
            headers={**answer.headers, REPLAYED: "true"},
        )


def begin(request: Request) -> Ticket | None:
    """Take the request to be handled; None where it has no key.

    The twin of a request that is being handled waits for a moment.

    Raises:
        AnsweredBefore: It has an answer already.
        InvalidRequestError: The key is blank, too long, or no visible ASCII.
        ConflictError: The key was given with another request, or the first one is still
            being handled.
        ParseError, PayloadTooLarge, UnsupportedMediaType: The body can't be read.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not _FORM.fullmatch(key):
        raise InvalidRequestError(
            [(HEADER, f"must hold 1 to {LONGEST_KEY} visible ASCII characters")]
        )
    asked = Asked(actor=actor_of(request).name, key=key, fingerprint=_fingerprint(request))
    ends_at = time.monotonic() + WAIT_SECONDS
    found = take(asked, now=timezone.now())
    while found is None and time.monotonic() < ends_at:
        time.sleep(PAUSE_SECONDS)
        found = look(asked, now=timezone.now())
    if found is None:
        raise ConflictError(
            "the same request is still being handled",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    if isinstance(found, Answer):
        raise AnsweredBefore(found)
    return found


def finish(ticket: Ticket, response: HttpResponseBase) -> None:
    """Take the answer down; one that the server is to blame for is not kept.

    A failure to do so is no reason to withhold the answer: its effect stands. It is done
    as soon as the database answers: until then the key is a conflict.
    """
    status = response.status_code
    is_kept = status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NOT_KEPT
    if is_kept and isinstance(response, Response):
        settle = partial(store, ticket, _answer(response))
    else:
        settle = partial(let_go, ticket)
    try:
        settle()
    except DatabaseError:
        logger.exception("an answer could not be kept for a repeated request")
        threading.Thread(target=_settle_later, args=(settle,), daemon=True).start()


def _settle_later(settle: Callable[[], None]) -> None:
    """Settle a request once the database answers, for as long as its lease lasts."""
    ends_at = time.monotonic() + LEASE.total_seconds()
    while time.monotonic() < ends_at:
        time.sleep(SETTLE_SECONDS)
        try:
            settle()
        except DatabaseError:
            continue
        else:
            return
        finally:
            connections.close_all()


def _answer(response: Response) -> Answer:
    """Return what is kept of a response, which is not rendered yet."""
    # A problem names its media type; everything else gets the renderer's.
    headers = {"Content-Type": response.content_type or JSONRenderer.media_type}
    headers |= {name: response[name] for name in _KEPT_HEADERS if name in response}
    content = b"" if response.data is None else JSONRenderer().render(response.data)
    return Answer(status=response.status_code, content=content.decode(), headers=headers)


def _fingerprint(request: Request) -> str:
    """Return the digest of method, path, If-Match and body, whatever its spelling."""
    body = json.dumps(request.data, sort_keys=True, separators=(",", ":"))
    tags = request.headers.get("If-Match", "")
    text = f"{request.method}\n{request.path}\n{tags}\n{body}"
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
