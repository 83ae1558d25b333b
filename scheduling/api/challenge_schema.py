"""How the OpenAPI document describes challenges."""

# ruff: noqa: N815 -- fields are named as on the wire
from typing import Any

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from scheduling.api.read_schema import PageSerializer, page_parameters, query
from scheduling.api.serializers import IdField, JobSerializer, OptionalIdField

CHALLENGE_ID = OpenApiParameter(
    "challengeId", str, OpenApiParameter.PATH, description="The challenge's id."
)
CHALLENGE_PARAMETERS = [
    query("projectId", str, "Challenges of this project."),
    query("status", str, "Challenges in this status, such as `ACTIVE`."),
    *page_parameters("challenges"),
]


def _instant(**options: Any) -> serializers.DateTimeField:
    """Return an instant that may be unknown."""
    return serializers.DateTimeField(allow_null=True, **options)


class PhaseSerializer(serializers.Serializer[Any]):
    """A stage of a challenge, as upstream last showed it."""

    phaseId = IdField()
    templateId = OptionalIdField(help_text="What upstream calls its `phaseId`.")
    phaseTypeName = serializers.CharField()
    scheduledStartDate = _instant()
    scheduledEndDate = _instant()
    actualStartDate = _instant(help_text="Null as long as it has not started.")
    actualEndDate = _instant(help_text="Null as long as it has not ended.")
    predecessor = OptionalIdField(
        help_text="The phase that it follows, by that one's id or its template's."
    )


class ChallengeSerializer(serializers.Serializer[Any]):
    """A challenge, as upstream last showed it, and its jobs."""

    challengeId = IdField()
    projectId = IdField()
    name = serializers.CharField(allow_null=True)
    status = serializers.CharField()
    readAt = _instant(help_text="When it was last read; null where only a record told.")
    newestMessageAt = _instant(
        help_text="The instant of the newest record applied; older ones change nothing."
    )
    mustBeReadSince = _instant(
        help_text="Since when something is known to have changed that could not be read."
    )
    phases = PhaseSerializer(many=True)
    jobs = JobSerializer(many=True, help_text="In due order, of every status.")


class ChallengePageSerializer(PageSerializer):
    """One page of challenges."""

    results = ChallengeSerializer(many=True)


CHALLENGE_EXAMPLE: dict[str, Any] = {
    "challengeId": "0b4de5f1-7a6c-4f0e-9d3b-2f1c5a6b7c8d",
    "projectId": 12345,
    "name": "Design a landing page",
    "status": "ACTIVE",
    "readAt": "2030-03-01T08:00:00.000Z",
    "newestMessageAt": "2030-02-28T23:59:59.000Z",
    "mustBeReadSince": None,
    "phases": [
        {
            "phaseId": 67890,
            "templateId": None,
            "phaseTypeName": "Registration",
            "scheduledStartDate": "2030-03-01T17:00:00.000Z",
            "scheduledEndDate": "2030-03-07T17:00:00.000Z",
            "actualStartDate": None,
            "actualEndDate": None,
            "predecessor": None,
        }
    ],
    "jobs": [],
}
