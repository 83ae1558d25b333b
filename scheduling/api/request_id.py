"""The id that joins a request, its answer and its audit entries."""

import re
import uuid
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponseBase

from scheduling.api.errors import http_problem
from scheduling.log_context import bound_contextvars, ids_of
from scheduling.tracing import current_trace_id

HEADER = "X-Request-Id"
_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ERRORS_FROM = 400
_NAMED = re.compile(
    r"/api/v1/(?:transitions/(?P<job_id>job-[A-Za-z0-9-]{1,120})"
    r"|challenges/(?P<challenge_id>[A-Za-z0-9-]{1,36})"
    r"|recovery/runs/(?P<run_id>[A-Za-z0-9-]{1,36}))/"
)


def request_id_of(request: Any) -> str:
    """Return the id of a request, Django's or DRF's; empty outside the middleware."""
    return str(getattr(request, "request_id", ""))


def given_or_new(given: str) -> str:
    """Return the id of a request: the client's, or a new one where that is none."""
    return given if _FORM.fullmatch(given) else uuid.uuid4().hex


def request_id_middleware(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Give each request its id, and each answer under /api/ the shape of the API.

    What fails outside the API's views (a host that is not served, a page of Django's
    debug mode) comes here as HTML; an API's client can't read that.
    """

    def respond(request: HttpRequest) -> HttpResponseBase:
        request_id = given_or_new(request.headers.get(HEADER, ""))
        request.request_id = request_id  # type: ignore[attr-defined]
        ids = ids_of({"trace_id": current_trace_id()}) | _ids_in(request.path)
        with bound_contextvars(request_id=request_id, **ids):
            response = get_response(request)
        if request.path.startswith("/api/") and _is_error_page(response):
            response = http_problem(response.status_code, request_id=request_id)
        response.headers[HEADER] = request_id
        return response

    return respond


def _ids_in(path: str) -> dict[str, str]:
    """Return the ids that a path of the API names."""
    found = _NAMED.match(path)
    return ids_of(found.groupdict()) if found else {}


def _is_error_page(response: HttpResponseBase) -> bool:
    """Tell whether an error is told in HTML."""
    content_type = response.headers.get("Content-Type", "")
    return response.status_code >= _ERRORS_FROM and content_type.startswith("text/html")
