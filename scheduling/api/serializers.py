"""The shapes that the OpenAPI document describes; what is read and written is elsewhere.

Input is understood by `domain.phases`, output shown by `queries.show_job` and
`queries.audit`: one place for every door. A test holds these shapes to them.
"""

# ruff: noqa: N815 -- fields are named as on the wire
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from scheduling.domain.actors import Role
from scheduling.domain.errors import Category
from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.domain.phases import LARGEST_ID, LONGEST_REASON, LONGEST_TEXT
from scheduling.queries.counting import MOST_COUNTED, MOST_COUNTED_IN_SEARCH

_ID_SCHEMA: dict[str, Any] = {
    "oneOf": [
        {"type": "integer", "minimum": 1, "maximum": LARGEST_ID},
        {"type": "string", "format": "uuid"},
    ]
}
_OPTIONAL_ID_SCHEMA = {"oneOf": [*_ID_SCHEMA["oneOf"], {"type": "null"}]}
_STATES = [(kind.value, kind.name) for kind in TransitionKind]
_STATUSES = [(status.value, status.name) for status in TransitionStatus]
_ROLES = [(role.value, role.name) for role in Role]
_CATEGORIES = [(category.value, category.name) for category in Category]


@extend_schema_field(_ID_SCHEMA)
class IdField(serializers.Field[Any, Any, Any, Any]):
    """A positive integer up to 2^53-1, or a UUID."""


@extend_schema_field(_OPTIONAL_ID_SCHEMA)
class OptionalIdField(serializers.Field[Any, Any, Any, Any]):
    """An id, or null."""


@extend_schema_field({"type": "object", "additionalProperties": {}})
class ObjectField(serializers.Field[Any, Any, Any, Any]):
    """An object with any members."""


@extend_schema_field({"type": ["object", "null"], "additionalProperties": {}})
class OptionalObjectField(serializers.Field[Any, Any, Any, Any]):
    """An object with any members, or null."""


def _text(**options: Any) -> serializers.CharField:
    """Return a text field of the usual length, which must not be blank."""
    return serializers.CharField(min_length=1, max_length=LONGEST_TEXT, **options)


def _unknown_yet(kind: type[serializers.Field[Any, Any, Any, Any]], **options: Any) -> Any:
    """Return an output field that is null as long as nothing is known."""
    return kind(allow_null=True, **options)


class PhaseDataSerializer(serializers.Serializer[Any]):
    """What is said about one transition."""

    projectId = IdField()
    phaseId = IdField()
    phaseTypeName = _text()
    state = serializers.ChoiceField(choices=_STATES)
    endTime = serializers.DateTimeField(
        help_text="The due instant, for START too: ISO 8601 with Z or an offset. A second "
        "to 90 days ahead, unless the settings say otherwise."
    )
    operator = _text(required=False, allow_null=True, help_text="Default: the login name.")
    projectStatus = _text()
    challengeId = OptionalIdField(required=False)
    metadata = OptionalObjectField(required=False, help_text="At most 64 KiB.")
    date = serializers.DateTimeField(required=False, allow_null=True)


class JobSerializer(serializers.Serializer[Any]):
    """A job: one scheduled transition."""

    jobId = serializers.CharField()
    eventId = serializers.UUIDField(help_text="Stable for the job's life.")
    projectId = IdField()
    challengeId = OptionalIdField()
    phaseId = IdField()
    phaseTypeName = serializers.CharField()
    state = serializers.ChoiceField(choices=_STATES)
    endTime = serializers.DateTimeField(help_text="The due instant, for START too.")
    operator = serializers.CharField()
    projectStatus = serializers.CharField()
    metadata = ObjectField()
    date = _unknown_yet(serializers.DateTimeField)
    status = serializers.ChoiceField(choices=_STATUSES)
    attempts = serializers.IntegerField(
        min_value=0,
        help_text="Those that count: one that an outage or a crash ended does not.",
    )
    maxAttempts = serializers.IntegerField(min_value=1)
    nextAttemptAt = _unknown_yet(serializers.DateTimeField)
    lastError = _unknown_yet(serializers.CharField)
    createdAt = serializers.DateTimeField()
    updatedAt = serializers.DateTimeField()
    startedAt = _unknown_yet(serializers.DateTimeField)
    completedAt = _unknown_yet(serializers.DateTimeField)
    latenessMs = _unknown_yet(
        serializers.FloatField,
        help_text="Acknowledged minus due; negative where it was run before its time.",
    )
    replaces = _unknown_yet(serializers.CharField, help_text="The job that it replaced.")
    replacedBy = _unknown_yet(serializers.CharField)
    topicPartition = _unknown_yet(serializers.IntegerField)
    topicOffset = _unknown_yet(serializers.IntegerField)


class JobWithArchiveSerializer(JobSerializer):
    """A job, also after clean-up."""

    archivedAt = _unknown_yet(
        serializers.DateTimeField,
        help_text="When clean-up moved it to the audit; null while it stands in the table.",
    )


class JobPageSerializer(serializers.Serializer[Any]):
    """One page of jobs."""

    count = serializers.IntegerField(
        min_value=0,
        help_text=f"How many there are on all pages: exact up to {MOST_COUNTED:,}, by "
        f"`search` up to {MOST_COUNTED_IN_SEARCH:,}, beyond that an estimate.",
    )
    next = _unknown_yet(serializers.URLField)
    previous = _unknown_yet(serializers.URLField)
    results = JobSerializer(many=True)


class ReasonSerializer(serializers.Serializer[Any]):
    """Why, in the operator's words."""

    reason = serializers.CharField(
        min_length=1, max_length=LONGEST_REASON, help_text="Not blank."
    )


class AuditEntrySerializer(serializers.Serializer[Any]):
    """One fact: who changed what, when and why."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    action = serializers.CharField()
    jobId = _unknown_yet(serializers.CharField)
    projectId = OptionalIdField()
    phaseId = OptionalIdField()
    state = _unknown_yet(serializers.ChoiceField, choices=_STATES)
    actor = serializers.CharField()
    role = _unknown_yet(serializers.ChoiceField, choices=_ROLES)
    oldStatus = _unknown_yet(serializers.ChoiceField, choices=_STATUSES)
    newStatus = _unknown_yet(serializers.ChoiceField, choices=_STATUSES)
    changes = ObjectField()
    reason = _unknown_yet(serializers.CharField)
    requestId = _unknown_yet(serializers.CharField)


class FieldErrorSerializer(serializers.Serializer[Any]):
    """What is wrong with one field or parameter."""

    field = serializers.CharField()
    message = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """What went wrong (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable; for programs.")
    category = serializers.ChoiceField(choices=_CATEGORIES)
    # A field, not the property of the same name, which stands all the same.
    errors = FieldErrorSerializer(many=True, required=False)  # type: ignore[assignment]
    jobId = serializers.CharField(
        required=False, help_text="The job meant; of `duplicate_job` the one that stands."
    )
    jobStatus = serializers.ChoiceField(
        choices=_STATUSES, required=False, help_text="Where the job of the path stands."
    )
    replacedBy = serializers.CharField(
        required=False, help_text="The job that stands in place of the path's."
    )
    liveJobId = serializers.CharField(
        required=False, help_text="Another job of the same transition, which is live."
    )
    deadLetterStatus = serializers.CharField(required=False)
    operation = serializers.CharField(required=False, help_text="What the role may not do.")
    role = serializers.ChoiceField(choices=_ROLES, required=False)
    requestId = serializers.CharField(
        required=False, help_text="Of an unexpected error: where the log has it."
    )


class TokenRequestSerializer(serializers.Serializer[Any]):
    """A user's name and password."""

    username = serializers.CharField()
    password = serializers.CharField()


class RefreshRequestSerializer(serializers.Serializer[Any]):
    """A refresh token."""

    refresh = serializers.CharField()


class TokensSerializer(serializers.Serializer[Any]):
    """A pair of tokens."""

    access = serializers.CharField(help_text="Bearer token, valid for five minutes.")
    refresh = serializers.CharField(help_text="Valid for a day, and for one use.")


class UpdateSerializer(serializers.Serializer[Any]):
    """What shall be different; a field that is left out stays as it is."""

    endTime = serializers.DateTimeField(
        required=False, help_text="The new due instant: ISO 8601 with Z or an offset."
    )
    phaseTypeName = _text(required=False)
    projectStatus = _text(required=False)
    metadata = ObjectField(required=False, help_text="At most 64 KiB; replaces the old.")
    reason = serializers.CharField(
        min_length=1, max_length=LONGEST_REASON, required=False, allow_null=True
    )


class BulkSerializer(serializers.Serializer[Any]):
    """Transitions to be scheduled."""

    transitions = serializers.ListField(child=PhaseDataSerializer(), max_length=1_000)


class BulkResultSerializer(serializers.Serializer[Any]):
    """What became of one item: its job, or what is wrong with it."""

    index = serializers.IntegerField(min_value=0, help_text="Its place in the request.")
    jobId = serializers.CharField(required=False)
    error = ProblemSerializer(required=False)


class BulkAnswerSerializer(serializers.Serializer[Any]):
    """What became of each item, and how often."""

    created = serializers.IntegerField(min_value=0)
    existing = serializers.IntegerField(min_value=0)
    failed = serializers.IntegerField(min_value=0)
    results = BulkResultSerializer(many=True)
