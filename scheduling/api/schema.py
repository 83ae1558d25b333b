"""How the OpenAPI document describes queries, errors and examples."""

from http import HTTPStatus
from typing import Any

from drf_spectacular.contrib.rest_framework_simplejwt import SimpleJWTScheme
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse

from scheduling.api.paging import DEFAULT_SIZE, LARGEST_SIZE
from scheduling.api.serializers import ProblemSerializer
from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.queries import ORDERINGS

PROBLEM = "application/problem+json"
# What any endpoint may answer beside its own.
_ALWAYS = (400, 401, 403, 406, 503)
_WITH_BODY = (413, 415)


class BearerTokenScheme(SimpleJWTScheme):  # type: ignore[no-untyped-call]
    """How the document describes our tokens; it is found by its base class."""

    target_class = "scheduling.api.authentication.BearerToken"
    name = "bearerToken"


def responses(
    *problems: int, is_read: bool, **answers: Any
) -> dict[int | tuple[int, str], Any]:
    """Return the answers of an operation.

    Args:
        problems: Statuses of the problems beside those that every operation has.
        answers: `status_200=…`: the shape of a success.
    """
    statuses = {*_ALWAYS, *problems, *(() if is_read else _WITH_BODY)}
    shapes: dict[int | tuple[int, str], Any] = {}
    for name, shape in answers.items():
        status = int(name.removeprefix("status_"))
        shapes[status] = OpenApiResponse(shape, description=HTTPStatus(status).phrase)
    return shapes | {
        (status, PROBLEM): OpenApiResponse(
            ProblemSerializer, description=HTTPStatus(status).phrase
        )
        for status in sorted(statuses)
    }


JOB_ID = OpenApiParameter("jobId", str, OpenApiParameter.PATH, description="The job's id.")

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
    _query("search", str, "A part of the job's id, of another id or the phase's name."),
    OpenApiParameter(
        "ordering",
        str,
        enum=[sign + name for name in ORDERINGS for sign in ("", "-")],
        default="endTime",
        description="Order; a leading minus reverses it.",
    ),
    _query("page", {"type": "integer", "minimum": 1, "default": 1}, "Which page."),
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
