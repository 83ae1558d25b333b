"""How the OpenAPI document describes dead letters."""

# ruff: noqa: N815 -- fields are named as on the wire
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework import serializers

from scheduling.api.read_schema import PageSerializer, page_parameters, query
from scheduling.api.serializers import FieldErrorSerializer
from scheduling.domain.errors import Category
from scheduling.models.dead_letter import STATUSES

DEAD_LETTER_ID = OpenApiParameter(
    "id",
    {"type": "string", "format": "uuid"},
    OpenApiParameter.PATH,
    description="The dead letter's id.",
)
DEAD_LETTER_PARAMETERS = [
    query("topic", str, "Records of this topic."),
    query("status", str, "What was done about them.", enum=list(STATUSES)),
    query("code", str, "Records refused with this code, such as `invalid_request`."),
    *page_parameters("dead letters"),
]


class DeadLetterErrorSerializer(serializers.Serializer[Any]):
    """Why a record could not be handled."""

    code = serializers.CharField(help_text="Stable; for programs.")
    category = serializers.ChoiceField(choices=[(c.value, c.name) for c in Category])
    message = serializers.CharField()
    # A field, not the property of the same name, which stands all the same.
    errors = FieldErrorSerializer(many=True)  # type: ignore[assignment]


class DeadLetterSerializer(serializers.Serializer[Any]):
    """A record that could not be handled."""

    id = serializers.UUIDField()
    originalTopic = serializers.CharField()
    originalPartition = serializers.IntegerField(min_value=0)
    originalOffset = serializers.IntegerField(min_value=0)
    originalKey = serializers.CharField(
        allow_null=True,
        help_text="As text; bytes that are no UTF-8 are escaped as `\\xff`. Null where "
        "the record had no key.",
    )
    originalMessage = serializers.CharField(
        allow_null=True,
        help_text="The record's exact bytes in base64; null for a tombstone, and where "
        "`truncated` says that they are left out.",
    )
    truncated = serializers.BooleanField(
        help_text="Whether key or bytes are over 64 KiB and left out of this list."
    )
    error = DeadLetterErrorSerializer()
    timestamp = serializers.DateTimeField(help_text="When it was set aside.")
    status = serializers.ChoiceField(choices=[(s, s) for s in STATUSES])
    replayedAt = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField(allow_null=True, help_text="Why it was discarded.")
    replayOf = serializers.UUIDField(
        allow_null=True, help_text="The dead letter whose replay failed and made this one."
    )


class DeadLetterPageSerializer(PageSerializer):
    """One page of dead letters."""

    results = DeadLetterSerializer(many=True)


# An object without members, which may be left out.
REPLAY_BODY = {"application/json": {"type": "object", "additionalProperties": False}}
REPLAY_EXAMPLE = OpenApiExample("Nothing to say", value={}, request_only=True)
DISCARD_EXAMPLE = OpenApiExample(
    "A reason",
    value={"reason": "A test of the sending system; nothing is missing."},
    request_only=True,
)
DEAD_LETTER_EXAMPLE: dict[str, Any] = {
    "id": "7f9c24e5-8a1d-4c5e-9b1f-2d3c4b5a6978",
    "originalTopic": "autopilot.command",
    "originalPartition": 0,
    "originalOffset": 4711,
    "originalKey": "12345",
    "originalMessage": "eyJjb21tYW5kIjo=",
    "truncated": False,
    "error": {
        "code": "invalid_request",
        "category": "validation",
        "message": "the record: is not JSON: Expecting value (line 1, column 12)",
        "errors": [
            {
                "field": "",
                "message": "is not JSON: Expecting value (line 1, column 12)",
            }
        ],
    },
    "timestamp": "2030-03-01T09:00:00.000Z",
    "status": "new",
    "replayedAt": None,
    "reason": None,
    "replayOf": None,
}
