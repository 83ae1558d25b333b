"""Errors as problems (RFC 9457): the one translation of the family for the API."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpResponse, JsonResponse
from django.utils import timezone
from django.utils.encoding import escape_uri_path
from rest_framework.exceptions import APIException, UnsupportedMediaType, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.domain.errors import Category, SchedulingError
from scheduling.services.audit import record_refusal
from scheduling.services.roles import role_of

logger = logging.getLogger("autopilot.api")

MEDIA_TYPE = "application/problem+json"
NOTHING_HERE = "There is nothing at this path; /api/docs/ tells what there is."
RETRY_AFTER_SECONDS = 5
# SQLSTATE of a session that the server has ended, since it was idle in a transaction for
# too long: its process was paused. psycopg counts that among the internal errors.
_PAUSED = "25P03"

# The family's codes whose status does not follow from the category.
_STATUSES = {
    "permission_denied": 403,
    "not_found": 404,
    "job_not_found": 404,
    "precondition_failed": 412,
    "service_unavailable": 503,
}
# The framework's causes that we have words for.
_OUR_WORDS = {
    "required": "is required",
    "null": "is required",
    "blank": "must not be blank",
}
# What Django and its REST framework refuse by themselves.
_CODES = {
    400: "invalid_request",
    401: "not_authenticated",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "payload_too_large",
    415: "unsupported_media_type",
    429: "throttled",
    503: "service_unavailable",
}
_CATEGORIES = {
    403: Category.SCHEDULING,
    404: Category.SCHEDULING,
    503: Category.NETWORK,
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One answer of what went wrong.

    errors: field (dotted where nested) and cause, for invalid input.
    values: what the error carries beside, such as `jobId`.
    """

    status: int
    code: str
    category: Category
    detail: str
    errors: tuple[tuple[str, str], ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the members of the problem."""
        return {
            **self.values,
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "category": self.category.value,
            **({"errors": self._errors()} if self.errors else {}),
        }

    def _errors(self) -> list[dict[str, str]]:
        """Return the causes by field."""
        return [{"field": name, "message": message} for name, message in self.errors]


def problem_response(exc: Exception, context: dict[str, Any]) -> Response:
    """Answer for an exception of a view: REST framework's EXCEPTION_HANDLER.

    A refusal is audited first: where that can't be done, the answer is that the service
    is unavailable.
    """
    request: Request = context["request"]
    problem = problem_of(exc)
    if problem is not None and problem.status == HTTPStatus.FORBIDDEN:
        try:
            _audit_refusal(request)
        except DatabaseError as failure:
            exc, problem = failure, problem_of(failure)
    request_id = str(getattr(request, "request_id", ""))
    if problem is None:
        logger.error("request %s failed", request_id, exc_info=exc)
        problem = unexpected(request_id)
    elif isinstance(exc, DatabaseError | InterfaceError):
        logger.error("request %s: the database failed", request_id, exc_info=exc)
    return Response(
        problem.body(),
        status=problem.status,
        headers=problem.headers,
        content_type=MEDIA_TYPE,
    )


def http_problem(status: int, *, request_id: str) -> HttpResponse:
    """Answer with a problem where no view of the API is concerned."""
    problem = (
        unexpected(request_id)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR
        else plain(status, HTTPStatus(status).phrase)
    )
    return JsonResponse(problem.body(), status=status, content_type=MEDIA_TYPE)


def problem_of(exc: Exception) -> Problem | None:
    """Return the problem that an expected exception is; None for an unexpected one."""
    match exc:
        case SchedulingError():
            return of_scheduling_error(exc)
        case APIException():
            return _of_framework(exc)
        case Http404():
            return plain(404, NOTHING_HERE)
        case PermissionDenied():
            return plain(403, "This is not permitted.")
        case OperationalError() | InterfaceError() | InternalError() if _passes(exc):
            return Problem(
                status=503,
                code="service_unavailable",
                category=Category.NETWORK,
                detail="The database does not answer; ask again later.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        case _:
            return None


def _passes(error: Exception) -> bool:
    """Tell whether the database's error says only "not now"."""
    is_internal = isinstance(error, InternalError)
    return not is_internal or getattr(error.__cause__, "sqlstate", "") == _PAUSED


def of_scheduling_error(error: SchedulingError) -> Problem:
    """Return the problem of an error of the family."""
    values = {
        # `status` is the problem's own; an error's is that of its job.
        {"status": "jobStatus"}.get(name, name): value
        for name, value in error.values.items()
        if name not in {"errors", "retry_after_seconds"}
    }
    headers = {}
    if wait := error.values.get("retry_after_seconds"):
        headers["Retry-After"] = str(wait)
    by_category = 400 if error.category is Category.VALIDATION else 409
    return Problem(
        status=_STATUSES.get(error.code, by_category),
        code=error.code,
        category=error.category,
        detail=error.detail,
        errors=tuple(error.values.get("errors", ())),
        values=values,
        headers=headers,
    )


def _of_framework(exc: APIException) -> Problem:
    """Return the problem of an exception of REST framework or of simplejwt."""
    headers = {}
    if challenge := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(exc, "wait", None):
        headers["Retry-After"] = str(math.ceil(wait))
    errors: tuple[tuple[str, str], ...] = ()
    if isinstance(exc, ValidationError):
        errors = tuple(_flatten("", exc.detail))
        detail = "; ".join(f"{name}: {message}" for name, message in errors)
    elif isinstance(exc.detail, dict):
        detail = str(exc.detail.get("detail", exc.default_detail))
    else:
        detail = str(exc.detail)
        if isinstance(exc, UnsupportedMediaType):
            detail += " Send application/json."
    return plain(exc.status_code, detail, errors=errors, headers=headers)


def _flatten(path: str, detail: object) -> Iterable[tuple[str, str]]:
    """Return field and cause of each part of a validation error."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            yield from _flatten(f"{path}.{name}".lstrip("."), inner)
    elif isinstance(detail, list):
        for inner in detail:
            yield from _flatten(path, inner)
    else:
        yield path, _OUR_WORDS.get(getattr(detail, "code", ""), str(detail))


def plain(
    status: int,
    detail: str,
    *,
    errors: tuple[tuple[str, str], ...] = (),
    headers: dict[str, str] | None = None,
) -> Problem:
    """Return a problem whose code and category follow from its status."""
    return Problem(
        status=status,
        code=_CODES.get(status, "invalid_request"),
        category=_CATEGORIES.get(status, Category.VALIDATION),
        detail=detail,
        errors=errors,
        headers=headers or {},
    )


def unexpected(request_id: str) -> Problem:
    """Return what a client may know of an unexpected error: where to find it in the log."""
    return Problem(
        status=500,
        code="internal_error",
        category=Category.SYSTEM,
        detail="An unexpected error occurred; the log has it under the request id.",
        values={"requestId": request_id},
    )


def _audit_refusal(request: Request) -> None:
    """Write who was refused what."""
    user = request.user
    if not user.is_authenticated:
        return
    record_refusal(
        actor_name=f"user:{user.get_username()}",
        role=role_of(user),
        method=str(request.method),
        # Escaped: a path may hold what no column can.
        path=escape_uri_path(request.path),
        request_id=str(getattr(request, "request_id", "")),
        now=timezone.now(),
    )
