"""How the OpenAPI document describes queries, headers, errors and examples."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from http import HTTPStatus
from typing import Any

from django.utils import timezone
from drf_spectacular.contrib.rest_framework_simplejwt import SimpleJWTScheme
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from typing_extensions import override

from scheduling.api import idempotency
from scheduling.api.base import ApiView
from scheduling.api.paging import DEFAULT_SIZE, LARGEST_SIZE
from scheduling.api.problem_examples import PROBLEM_EXAMPLES, WRONG_QUERY
from scheduling.api.serializers import (
    AuditEntrySerializer,
    BulkAnswerSerializer,
    JobPageSerializer,
    JobSerializer,
    JobWithArchiveSerializer,
    ProblemSerializer,
    TokensSerializer,
)
from scheduling.domain.actors import Operation, Role, least_role
from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.queries import ORDERINGS
from scheduling.queries.jobs import LONGEST_SEARCH

PROBLEM = "application/problem+json"
# What any endpoint may answer beside its own.
_ALWAYS = (
    "invalid_request",
    "not_authenticated",
    "permission_denied",
    "not_acceptable",
    "throttled",
    "internal_error",
    "service_unavailable",
)
_WITH_BODY = ("payload_too_large", "unsupported_media_type")
_OF_STATUS = {404: "not_found", 409: "conflict", 412: "precondition_failed"}
# Where phase data comes in.
PHASE_DATA_PROBLEMS = (
    "invalid_phase_data",
    "invalid_schedule_time",
    "past_schedule_time",
    "schedule_too_soon",
    "schedule_too_far",
)


class BearerTokenScheme(SimpleJWTScheme):  # type: ignore[no-untyped-call]
    """How the document describes our tokens; it is found by its base class."""

    target_class = "scheduling.api.authentication.BearerToken"
    name = "bearerToken"


class ApiSchema(AutoSchema):
    """Adds what every operation has: the headers that any request and answer carry."""

    @override
    def get_override_parameters(self) -> Any:
        """Return the parameters beside those of the path."""
        if isinstance(self.view, ApiView) and self.method in {"POST", "PATCH"}:
            return [*_EVERYWHERE, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED]
        return _EVERYWHERE

    @override
    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        """Return the operation; its description tells who may ask for it."""
        operation = super().get_operation(*args, **kwargs)
        role = self._least_role()
        if operation and role:
            told = operation.get("description", "")
            needs = f"Needs the role `{role.value}`."
            operation["description"] = f"{told} {needs}".lstrip()
        return operation

    def _least_role(self) -> Role | None:
        """Return the least of the roles that may; None where no token is asked for."""
        if not isinstance(self.view, ApiView):
            return None
        return least_role(self.view.operations.get(self.method, Operation.VIEW))


def responses(
    *problems: int | str,
    is_read: bool,
    shown: Mapping[str, Any] | None = None,
    **answers: Any,
) -> dict[int | tuple[int, str], Any]:
    """Return the answers of an operation, each with an example.

    Args:
        problems: Codes of the problems beside those that every operation has; a status
            stands for its most general code.
        shown: Wherein the example of a success differs from that of its shape.
        answers: `status_200=…`: the shape of a success.
    """
    shapes: dict[int | tuple[int, str], Any] = {}
    for name, shape in answers.items():
        status = int(name.removeprefix("status_"))
        shapes[status] = OpenApiResponse(
            shape,
            description=HTTPStatus(status).phrase,
            examples=_answer_examples(shape, shown or {}),
        )
    codes = [_OF_STATUS[one] if isinstance(one, int) else one for one in problems]
    by_status: dict[int, list[OpenApiExample]] = defaultdict(list)
    for code in (*_ALWAYS, *codes, *(() if is_read else _WITH_BODY)):
        is_query = is_read and code == "invalid_request"
        body = WRONG_QUERY if is_query else PROBLEM_EXAMPLES[code]
        by_status[body["status"]].append(
            OpenApiExample(code, value=body, response_only=True, media_type=PROBLEM)
        )
    return shapes | {
        (status, PROBLEM): OpenApiResponse(
            ProblemSerializer,
            description=f"{HTTPStatus(status).phrase}: "
            + ", ".join(f"`{example.name}`" for example in by_status[status]),
            examples=by_status[status],
        )
        for status in sorted(by_status)
    }


def _answer_examples(shape: Any, shown: Mapping[str, Any]) -> Sequence[OpenApiExample]:
    """Return the example of a success."""
    kind = shape if isinstance(shape, type) else type(getattr(shape, "child", shape))
    value = _ANSWERS.get(kind)
    if value is None:
        return []
    if shown:
        value = {**value, **shown}
    return [OpenApiExample("An answer", value=value, response_only=True)]


def close_request_bodies(
    result: dict[str, Any], generator: Any, **kwargs: Any
) -> dict[str, Any]:
    """Tell of every body of ours that it has no other fields; a hook of the generator."""
    shapes = result["components"]["schemas"]
    for item in result["paths"].values():
        for operation in item.values():
            body = operation.get("requestBody", {}).get("content", {})
            for media_type in body.values():
                _close(media_type["schema"], shapes)
    return result


def move_examples(result: dict[str, Any], generator: Any, **kwargs: Any) -> dict[str, Any]:
    """Bring the examples' instants into the window of what can be scheduled.

    They are written as of March 2030. Sent as they are shown, they have to be accepted;
    a hook of the generator.
    """
    days = timezone.now().date() + EXAMPLES_AHEAD - EXAMPLES_FROM

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: move(member) for name, member in value.items()}
        if isinstance(value, list):
            return [move(member) for member in value]
        if isinstance(value, str):
            return _EXAMPLE_JOB.sub(move_job, _EXAMPLE_DAY.sub(move_day, value))
        return value

    def move_day(found: re.Match[str]) -> str:
        return (date.fromisoformat(found[0]) + days).isoformat()

    def move_job(found: re.Match[str]) -> str:
        # A job id tells when it was made.
        return f"job-{int(found[1]) + days // timedelta(milliseconds=1)}-"

    moved: dict[str, Any] = move(result)
    return moved


def _close(shape: dict[str, Any], shapes: dict[str, Any]) -> None:
    """Tell of a shape, and of the items of its lists, that it has no other fields."""
    if "$ref" in shape:
        shape = shapes[shape["$ref"].rpartition("/")[2]]
    if "properties" not in shape:
        return
    shape["additionalProperties"] = False
    for member in shape["properties"].values():
        if "items" in member:
            _close(member["items"], shapes)


# The first day of the examples, and how far ahead it is shown.
EXAMPLES_FROM = date(2030, 3, 1)
EXAMPLES_AHEAD = timedelta(days=30)
_EXAMPLE_DAY = re.compile(r"2030-\d\d-\d\d(?=T[0-9:.]+(?:Z|[+-]\d\d:\d\d))")
_EXAMPLE_JOB = re.compile(r"\bjob-(1\d{12})-")

JOB_ID = OpenApiParameter("jobId", str, OpenApiParameter.PATH, description="The job's id.")

IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="Only if the job is still as this `ETag` says (a list of tags, or `*` for "
    "any); otherwise 412.",
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    str,
    OpenApiParameter.HEADER,
    description="Answer 304 if the job is still as this `ETag` says.",
)
IDEMPOTENCY_KEY = OpenApiParameter(
    idempotency.HEADER,
    {"type": "string", "minLength": 1, "maxLength": idempotency.LONGEST_KEY},
    OpenApiParameter.HEADER,
    description="A key of your choice, such as a UUID, kept for 24 hours: the same request "
    "with the same key is answered as the first time and changes nothing again. The same: "
    "of the same method, path, body and `If-Match`. With "
    "another request, also a corrected one, the key is a conflict, and so it is while the "
    "first one is still at work. Others may use the same key. What was refused before it "
    "was understood (malformed JSON, 401, 403, 429) leaves the key free.",
)


def _answer_header(name: str, *statuses: int, description: str) -> OpenApiParameter:
    """Return a header of answers: of these statuses, or of all."""
    return OpenApiParameter(
        name,
        str,
        OpenApiParameter.HEADER,
        response=list(statuses) or True,
        description=description,
    )


ETAG = _answer_header(
    "ETag", 200, 201, 202, 304, description="The tag of the job as it stands."
)
LOCATION = _answer_header("Location", 201, description="Where the new job is.")
CONTENT_LOCATION = _answer_header(
    "Content-Location", 200, 201, 202, description="Where the job of the answer is."
)
IDEMPOTENCY_REPLAYED = _answer_header(
    idempotency.REPLAYED,
    description="`true` where the answer is that of an earlier request of the same key.",
)
_EVERYWHERE = [
    _answer_header(
        "X-Request-Id", description="The id of the request in the log and the audit."
    ),
    _answer_header("Retry-After", 409, 429, 503, description="Seconds to wait, if any."),
    _answer_header("WWW-Authenticate", 401, description="How to sign in."),
]
NOT_MODIFIED: dict[int | tuple[int, str], Any] = {
    304: OpenApiResponse(description="Not Modified")
}

_INSTANT_SCHEMA = {"type": "string", "format": "date-time"}


def _query(name: str, schema: Any, description: str) -> OpenApiParameter:
    """Return a query parameter."""
    return OpenApiParameter(
        name, schema, OpenApiParameter.QUERY, description=description, required=False
    )


LIST_PARAMETERS = [
    _query("projectId", str, "Jobs of this project."),
    _query("challengeId", str, "Jobs of this challenge."),
    _query("phaseId", str, "Jobs of this phase."),
    OpenApiParameter(
        "state", str, enum=[kind.value for kind in TransitionKind], description="Which end."
    ),
    OpenApiParameter(
        "status",
        str,
        many=True,
        enum=[status.value for status in TransitionStatus],
        description="Jobs in this status; may be repeated.",
    ),
    _query("dueAfter", _INSTANT_SCHEMA, "Due at this instant or later."),
    _query("dueBefore", _INSTANT_SCHEMA, "Due before this instant."),
    _query("overdue", bool, "Live jobs whose instant has passed (true), or all others."),
    _query(
        "search",
        {"type": "string", "pattern": r"\S", "maxLength": LONGEST_SEARCH},
        "A part of `jobId`, `projectId`, `phaseId`, `challengeId` or `phaseTypeName`, in "
        "upper or lower case.",
    ),
    OpenApiParameter(
        "ordering",
        str,
        enum=[sign + name for name in ORDERINGS for sign in ("", "-")],
        default="endTime",
        description="Order; a leading minus reverses it.",
    ),
    _query(
        "page",
        {"type": "integer", "minimum": 1, "default": 1},
        "Which page; one beyond the end is not found.",
    ),
    _query(
        "pageSize",
        {
            "type": "integer",
            "minimum": 1,
            "maximum": LARGEST_SIZE,
            "default": DEFAULT_SIZE,
        },
        "How many jobs a page holds.",
    ),
]

SCHEDULE_EXAMPLE = OpenApiExample(
    "The end of a registration phase",
    value={
        "projectId": 12345,
        "phaseId": 67890,
        "phaseTypeName": "Registration",
        "state": "END",
        "endTime": "2030-03-07T17:00:00.000Z",
        "operator": "admin",
        "projectStatus": "ACTIVE",
    },
    request_only=True,
)
UPDATE_EXAMPLE = OpenApiExample(
    "A day later",
    value={
        "endTime": "2030-03-08T17:00:00.000Z",
        "reason": "The client asked for another day.",
    },
    request_only=True,
)
BULK_EXAMPLES = [
    OpenApiExample(
        "Both ends of a phase",
        value={
            "transitions": [
                SCHEDULE_EXAMPLE.value
                | {"state": "START", "endTime": "2030-03-01T17:00:00.000Z"},
                SCHEDULE_EXAMPLE.value,
            ]
        },
        request_only=True,
    )
]
REASON_EXAMPLE = OpenApiExample(
    "A reason",
    value={"reason": "The client asked for another week."},
    request_only=True,
)
TOKEN_EXAMPLE = OpenApiExample(
    "A log-in",
    value={"username": "operator", "password": "a secret"},
    request_only=True,
)
REFRESH_EXAMPLE = OpenApiExample(
    "A refresh token", value={"refresh": "eyJhbGciOi…"}, request_only=True
)

_JOB: dict[str, Any] = {
    "jobId": "job-1893456000000-12345-67890",
    "eventId": "0b8f6f0e-52f5-4b2a-9d3c-6a1d1f0c9b7e",
    "projectId": 12345,
    "challengeId": None,
    "phaseId": 67890,
    "phaseTypeName": "Registration",
    "state": "END",
    "endTime": "2030-03-07T17:00:00.000Z",
    "operator": "admin",
    "projectStatus": "ACTIVE",
    "metadata": {},
    "date": None,
    "status": "scheduled",
    "attempts": 0,
    "maxAttempts": 4,
    "nextAttemptAt": None,
    "lastError": None,
    "createdAt": "2030-01-01T00:00:00.000Z",
    "updatedAt": "2030-01-01T00:00:00.000Z",
    "startedAt": None,
    "completedAt": None,
    "latenessMs": None,
    "replaces": None,
    "replacedBy": None,
    "topicPartition": None,
    "topicOffset": None,
}
# Wherein the job that an override answers with differs from that.
_CHANGED_AT = "2030-01-02T08:00:00.000Z"
WANTED_NOW = {"updatedAt": _CHANGED_AT}
CANCELLED = {"status": "cancelled", "updatedAt": _CHANGED_AT}
SUCCESSOR = {
    "jobId": "job-1893571200000-12345-67890",
    "replaces": _JOB["jobId"],
    "createdAt": _CHANGED_AT,
    "updatedAt": _CHANGED_AT,
}
_AUDIT_ENTRY: dict[str, Any] = {
    "id": 4711,
    "at": "2030-01-01T00:00:00.000Z",
    "action": "transition.scheduled",
    "jobId": _JOB["jobId"],
    "projectId": 12345,
    "phaseId": 67890,
    "state": "END",
    "actor": "user:olivia",
    "role": "operator",
    "oldStatus": None,
    "newStatus": "scheduled",
    "changes": {"endTime": "2030-03-07T17:00:00.000Z", "eventId": _JOB["eventId"]},
    "reason": None,
    "requestId": "5f0c2d3e8a9b4c7d8e9f0a1b2c3d4e5f",
}
# The example of each shape that is answered; of a list, of its items.
_ANSWERS: dict[type, Any] = {
    JobSerializer: _JOB,
    JobWithArchiveSerializer: _JOB | {"archivedAt": None},
    JobPageSerializer: {"count": 1, "next": None, "previous": None, "results": [_JOB]},
    AuditEntrySerializer: _AUDIT_ENTRY,
    BulkAnswerSerializer: {
        "created": 1,
        "existing": 0,
        "failed": 1,
        "results": [
            {"index": 0, "jobId": _JOB["jobId"]},
            {"index": 1, "error": PROBLEM_EXAMPLES["past_schedule_time"]},
        ],
    },
    TokensSerializer: {"access": "eyJhbGciOi…", "refresh": "eyJhbGciOi…"},
}
