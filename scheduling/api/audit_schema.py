"""How the OpenAPI document describes the audit."""

from typing import Any

from drf_spectacular.utils import OpenApiResponse

from scheduling.api.read_schema import (
    INSTANT,
    PageSerializer,
    answers,
    page_example,
    page_parameters,
    query,
)
from scheduling.api.serializers import AuditEntrySerializer
from scheduling.services.audit import ACTIONS

AUDIT_PARAMETERS = [
    query("actor", str, "Records of this actor, such as `user:olivia`."),
    query("action", str, f"Records of this action: {', '.join(sorted(ACTIONS))}."),
    query("jobId", str, "Records of this job."),
    query("projectId", str, "Records of this project."),
    query("after", INSTANT, "Written at this instant or later."),
    query("before", INSTANT, "Written before this instant."),
    query(
        "format",
        str,
        "A page (json), or everything that matches as a file.",
        enum=["json", "csv", "ndjson"],
        default="json",
    ),
    *page_parameters("records"),
]

_EXAMPLE: dict[str, Any] = {
    "id": 4711,
    "at": "2030-01-02T09:30:00.000Z",
    "action": "transition.cancelled",
    "jobId": "job-1893456000000-12345-67890",
    "projectId": 12345,
    "phaseId": 67890,
    "state": "END",
    "actor": "user:olivia",
    "role": "operator",
    "oldStatus": "scheduled",
    "newStatus": "cancelled",
    "changes": {},
    "reason": "The client asked for another week.",
    "requestId": "5f0c2d3e8a9b4c7d8e9f0a1b2c3d4e5f",
}


class AuditPageSerializer(PageSerializer):
    """One page of audit records."""

    results = AuditEntrySerializer(many=True)


AUDIT_ANSWERS = {
    **answers("not_found", shape=AuditPageSerializer, example=page_example(_EXAMPLE)),
    (200, "text/csv"): OpenApiResponse(
        str, description="A line of column names, then the records."
    ),
    (200, "application/x-ndjson"): OpenApiResponse(
        str, description="One record as a JSON object a line."
    ),
}
