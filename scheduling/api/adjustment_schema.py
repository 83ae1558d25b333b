"""How the OpenAPI document describes schedule adjustments."""

# ruff: noqa: N815 -- fields are named as on the wire
from http import HTTPStatus
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiResponse
from rest_framework import serializers

from scheduling.api.problem_examples import PROBLEM_EXAMPLES
from scheduling.api.schema import PROBLEM
from scheduling.api.serializers import IdField
from scheduling.domain.adjustment_request import MOST_CHANGES
from scheduling.domain.changes import SCHEDULE_CONFLICT, ConflictType, OnConflict
from scheduling.domain.errors import Category
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import LONGEST_REASON, LONGEST_TEXT

_STATES = [(kind.value, kind.name) for kind in TransitionKind]
_WAYS = [(way.value, way.name) for way in OnConflict]
_TYPES = [(kind.value, kind.name) for kind in ConflictType]
_CATEGORIES = [(category.value, category.name) for category in Category]


class ScheduleChangeSerializer(serializers.Serializer[Any]):
    """One transition that shall happen at another instant."""

    projectId = IdField()
    phaseId = IdField()
    state = serializers.ChoiceField(
        choices=_STATES, required=False, allow_null=True, help_text="Default: END."
    )
    phaseTypeName = serializers.CharField(
        max_length=LONGEST_TEXT,
        required=False,
        allow_null=True,
        help_text="With it a job is made where there is no live one.",
    )
    newEndTime = serializers.DateTimeField(
        help_text="The new due instant, for START too: ISO 8601 with Z or an offset."
    )
    changeReason = serializers.CharField(
        max_length=LONGEST_REASON,
        required=False,
        allow_null=True,
        help_text="Kept in the audit in place of `updateReason`.",
    )


class AdjustmentSerializer(serializers.Serializer[Any]):
    """Changes of a schedule, and how they shall be made."""

    changes = serializers.ListField(
        child=ScheduleChangeSerializer(), max_length=MOST_CHANGES
    )
    operator = serializers.CharField(
        max_length=LONGEST_TEXT,
        required=False,
        allow_null=True,
        help_text="Written into the new jobs. Default: that of the job replaced, and the "
        "login name where there was none.",
    )
    updateReason = serializers.CharField(max_length=LONGEST_REASON)
    batchId = serializers.CharField(
        max_length=LONGEST_TEXT,
        required=False,
        allow_null=True,
        help_text="Repeating an accepted batch changes nothing and has its first answer, "
        "for 30 days; with another body it is a conflict.",
    )
    dryRun = serializers.BooleanField(required=False, allow_null=True, default=False)
    onConflict = serializers.ChoiceField(
        choices=_WAYS, required=False, allow_null=True, default=OnConflict.REJECT.value
    )
    atomic = serializers.BooleanField(
        required=False,
        allow_null=True,
        default=True,
        help_text="Whether one error or refused conflict refuses all.",
    )


class ConflictSerializer(serializers.Serializer[Any]):
    """One conflict that was found, also where it was left out or shifted away."""

    type = serializers.ChoiceField(choices=_TYPES)
    phaseId = IdField()
    conflictsWith = serializers.JSONField(
        help_text="The predecessor's phaseId; the phase's own where its own START, END or "
        "second change is meant; a running job's jobId; null for an instant in the past."
    )
    detail = serializers.CharField()


class ChangeErrorSerializer(serializers.Serializer[Any]):
    """Why one change can't be made."""

    index = serializers.IntegerField(min_value=0, help_text="Its place in the request.")
    code = serializers.CharField(help_text="Stable; for programs.")
    message = serializers.CharField()


_NOT_YET = "Null in a dry run of what was not made yet."


class RescheduledSerializer(serializers.Serializer[Any]):
    """A job that was replaced."""

    oldJobId = serializers.CharField()
    newJobId = serializers.CharField(allow_null=True, help_text=_NOT_YET)
    phaseId = IdField()
    oldEndTime = serializers.DateTimeField()
    newEndTime = serializers.DateTimeField()


class CreatedSerializer(serializers.Serializer[Any]):
    """A job that was made where there was none."""

    newJobId = serializers.CharField(allow_null=True, help_text=_NOT_YET)
    projectId = IdField()
    phaseId = IdField()
    state = serializers.ChoiceField(choices=_STATES)
    newEndTime = serializers.DateTimeField()


class AdjustmentDetailsSerializer(serializers.Serializer[Any]):
    """Which jobs are concerned."""

    rescheduled = RescheduledSerializer(many=True)
    created = CreatedSerializer(many=True)
    cancelled = serializers.ListField(
        child=serializers.CharField(),
        help_text="Ids of jobs cancelled without another in their place; no change asks "
        "for that now.",
    )


class AdjustmentAnswerSerializer(serializers.Serializer[Any]):
    """What became of the changes, or what would become of them."""

    success = serializers.BooleanField()
    dryRun = serializers.BooleanField()
    adjustedCount = serializers.IntegerField(
        min_value=0, help_text="Rescheduled and created."
    )
    unchangedCount = serializers.IntegerField(
        min_value=0, help_text="Changes whose instant is the present one."
    )
    rescheduledCount = serializers.IntegerField(min_value=0)
    createdCount = serializers.IntegerField(min_value=0)
    cancelledCount = serializers.IntegerField(min_value=0)
    conflicts = ConflictSerializer(many=True)
    # A field, not the property of the same name, which stands all the same.
    errors = ChangeErrorSerializer(many=True)  # type: ignore[assignment]
    details = AdjustmentDetailsSerializer()
    batchId = serializers.CharField(allow_null=True)


class AdjustmentRefusalSerializer(serializers.Serializer[Any]):
    """A problem (RFC 9457) that also has all members of the answer.

    Those are left out where the batch or the key contradicts an earlier request.
    """

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(
        help_text="`schedule_conflict`, the first error's, or `conflict`."
    )
    category = serializers.ChoiceField(choices=_CATEGORIES)
    success = serializers.BooleanField(required=False)
    dryRun = serializers.BooleanField(required=False)
    adjustedCount = serializers.IntegerField(min_value=0, required=False)
    unchangedCount = serializers.IntegerField(min_value=0, required=False)
    rescheduledCount = serializers.IntegerField(min_value=0, required=False)
    createdCount = serializers.IntegerField(min_value=0, required=False)
    cancelledCount = serializers.IntegerField(min_value=0, required=False)
    conflicts = ConflictSerializer(many=True, required=False)
    errors = ChangeErrorSerializer(many=True, required=False)  # type: ignore[assignment]
    details = AdjustmentDetailsSerializer(required=False)
    batchId = serializers.CharField(required=False, allow_null=True)


_PROJECT = {"projectId": 12345}
_REQUEST: dict[str, Any] = {
    "changes": [
        _PROJECT | {"phaseId": 67890, "newEndTime": "2030-03-08T17:00:00.000Z"},
    ],
    "updateReason": "The client asked for another day.",
    "batchId": "extension-4711",
    "onConflict": "shift",
}
_CONFLICT = {
    "type": ConflictType.SUCCESSOR_BEFORE_PREDECESSOR.value,
    "phaseId": 67891,
    "conflictsWith": 67890,
    "detail": "the START of phase 67891 at 2030-03-07T17:00:00.000Z would come before the "
    "END of its predecessor 67890 at 2030-03-08T17:00:00.000Z",
}
_NOTHING: dict[str, Any] = {
    "success": False,
    "dryRun": False,
    "adjustedCount": 0,
    "unchangedCount": 0,
    "rescheduledCount": 0,
    "createdCount": 0,
    "cancelledCount": 0,
    "conflicts": [],
    "errors": [],
    "details": {"rescheduled": [], "created": [], "cancelled": []},
    "batchId": "extension-4711",
}
_MOVED = [(67890, 7, 8, "17:00"), (67891, 7, 8, "17:00"), (67891, 9, 10, "17:00")]
ADJUSTMENT_ANSWER_EXAMPLE = _NOTHING | {
    "success": True,
    "adjustedCount": 3,
    "rescheduledCount": 3,
    "conflicts": [_CONFLICT],
    "details": {
        "rescheduled": [
            {
                "oldJobId": f"job-189345600000{number}-12345-{phase}",
                "newJobId": f"job-1893542400000-12345-{phase}{suffix}",
                "phaseId": phase,
                "oldEndTime": f"2030-03-{old:02}T{hour}:00.000Z",
                "newEndTime": f"2030-03-{new:02}T{hour}:00.000Z",
            }
            for number, ((phase, old, new, hour), suffix) in enumerate(
                zip(_MOVED, ("", "", "-2"), strict=True)
            )
        ],
        "created": [],
        "cancelled": [],
    },
}
_REJECTED = _NOTHING | {
    "conflicts": [_CONFLICT],
    "code": SCHEDULE_CONFLICT,
    "type": "about:blank",
    "title": HTTPStatus.CONFLICT.phrase,
    "status": HTTPStatus.CONFLICT.value,
    "detail": f"Nothing was changed: {_CONFLICT['detail']}",
    "category": Category.SCHEDULING.value,
}
ADJUSTMENT_EXAMPLES = [
    OpenApiExample("A phase ends a day later", value=_REQUEST, request_only=True),
    OpenApiExample(
        "What would become of it",
        value={
            "changes": [
                _PROJECT
                | {
                    "phaseId": 67892,
                    "state": "START",
                    "phaseTypeName": "Review",
                    "newEndTime": "2030-03-10T17:00:00.000Z",
                    "changeReason": "The reviewers are late.",
                }
            ],
            "operator": "admin",
            "updateReason": "A new timeline.",
            "dryRun": True,
            "atomic": False,
        },
        request_only=True,
    ),
]
REFUSED: dict[int | tuple[int, str], Any] = {
    (HTTPStatus.CONFLICT.value, PROBLEM): OpenApiResponse(
        AdjustmentRefusalSerializer,
        description=f"Conflict: `{SCHEDULE_CONFLICT}`, an error's code, `conflict`",
        examples=[
            OpenApiExample(name, value=value, response_only=True, media_type=PROBLEM)
            for name, value in (
                (SCHEDULE_CONFLICT, _REJECTED),
                ("conflict", PROBLEM_EXAMPLES["conflict"]),
            )
        ],
    )
}
