"""Runs of recovery over REST (contract, section 4)."""

# ruff: noqa: N815 -- fields are named as on the wire
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.urls import path
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from recovery.models import RecoveryRun
from recovery.results import COUNTERS, RunStatus, Trigger
from recovery.services import ask_for_recovery
from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView, check_fields
from scheduling.api.paging import PAGE_PARAMETERS, show_page
from scheduling.api.read_schema import (
    PageSerializer,
    answers,
    page_example,
    page_parameters,
)
from scheduling.api.serializers import OptionalIdField
from scheduling.domain.actors import Operation
from scheduling.domain.errors import InvalidRequestError, RecoveryRunNotFoundError

RUN_ID = OpenApiParameter(
    "runId",
    {"type": "string", "format": "uuid"},
    OpenApiParameter.PATH,
    description="The run's id.",
)
_BODY = frozenset({"dryRun", "projectId"})


class RecoveryRequestSerializer(serializers.Serializer[Any]):
    """What a run is to do."""

    dryRun = serializers.BooleanField(
        required=False, default=False, help_text="Look only, and count."
    )
    projectId = OptionalIdField(
        required=False, help_text="Only the challenges and jobs of this project."
    )


class RecoveryErrorSerializer(serializers.Serializer[Any]):
    """What stood in the way."""

    phaseId = OptionalIdField(help_text="Null where no one phase is to blame.")
    reason = serializers.CharField()


class RecoveryRunSerializer(serializers.Serializer[Any]):
    """What a run has found and done so far; each transition is in one of the counters."""

    runId = serializers.UUIDField()
    trigger = serializers.ChoiceField(choices=[(one.value, one.name) for one in Trigger])
    status = serializers.ChoiceField(choices=[(one.value, one.name) for one in RunStatus])
    dryRun = serializers.BooleanField()
    projectId = OptionalIdField(help_text="Null where it looks at all projects.")
    totalPhasesProcessed = serializers.IntegerField(
        min_value=0, help_text="The sum of the counters of transitions."
    )
    upcomingPhasesScheduled = serializers.IntegerField(min_value=0)
    rescheduledPhases = serializers.IntegerField(min_value=0)
    overduePhasesProcessed = serializers.IntegerField(min_value=0)
    expiredPhases = serializers.IntegerField(min_value=0)
    rescuedJobs = serializers.IntegerField(
        min_value=0, help_text="Jobs freed from dead workers, counted beside."
    )
    cancelledJobs = serializers.IntegerField(min_value=0)
    unchangedPhases = serializers.IntegerField(min_value=0)
    skippedPhases = serializers.IntegerField(min_value=0)
    failedPhases = serializers.IntegerField(min_value=0)
    # A field, not the property of the same name, which stands all the same.
    errors = RecoveryErrorSerializer(many=True)  # type: ignore[assignment]
    startedAt = serializers.DateTimeField(allow_null=True)
    finishedAt = serializers.DateTimeField(allow_null=True)
    executionTime = serializers.IntegerField(
        min_value=0, allow_null=True, help_text="In milliseconds; null until it has ended."
    )


class RecoveryRunPageSerializer(PageSerializer):
    """One page of runs."""

    results = RecoveryRunSerializer(many=True)


_WAITING: dict[str, Any] = {
    "runId": "5e1f8a0c-9b2d-4c3e-8f70-1a2b3c4d5e6f",
    "trigger": "manual",
    "status": "NOT_STARTED",
    "dryRun": False,
    "projectId": None,
    "totalPhasesProcessed": 0,
    **dict.fromkeys(COUNTERS.values(), 0),
    "rescuedJobs": 0,
    "errors": [],
    "startedAt": None,
    "finishedAt": None,
    "executionTime": None,
}
_ENDED: dict[str, Any] = _WAITING | {
    "status": "COMPLETED_WITH_ERRORS",
    "totalPhasesProcessed": 482,
    "upcomingPhasesScheduled": 4,
    "unchangedPhases": 476,
    "skippedPhases": 2,
    "errors": [
        {
            "phaseId": 67890,
            "reason": "it is to end at 2030-03-01T08:00:00.000Z, before its start at "
            "2030-03-02T08:00:00.000Z",
        }
    ],
    "startedAt": "2030-03-01T09:00:00.000Z",
    "finishedAt": "2030-03-01T09:00:01.250Z",
    "executionTime": 1_250,
}
_EXAMPLE = OpenApiExample(
    "All projects", value={"dryRun": False, "projectId": None}, request_only=True
)


class RecoveryRunList(ApiView):
    """All runs, and the door to begin one."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.RECOVER}
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="listRecoveryRuns",
        summary="List runs of recovery",
        description="The newest first, with the progress of the one that is in progress.",
        parameters=page_parameters("runs"),
        responses=answers(
            "not_found", shape=RecoveryRunPageSerializer, example=page_example(_ENDED)
        ),
        tags=["recovery"],
    )
    def get(self, request: Request) -> Response:
        """Return a page of runs."""
        runs = RecoveryRun.objects.order_by("-id")
        return Response(show_page(runs, request, show=RecoveryRun.show))

    @extend_schema(
        operation_id="startRecoveryRun",
        summary="Begin a run of recovery",
        description="A cluster carries it out; the answer names it. While a run waits or "
        "is in progress, that one is the answer.",
        request=RecoveryRequestSerializer,
        examples=[_EXAMPLE],
        responses=answers(
            "conflict",
            shape=RecoveryRunSerializer,
            example=_WAITING,
            status=202,
            is_read=False,
        ),
        tags=["recovery"],
    )
    def post(self, request: Request) -> Response:
        """Have a run begin."""
        data: dict[str, Any] = request.data
        check_fields(data, known=_BODY)
        dry_run = data.get("dryRun", False)
        if not isinstance(dry_run, bool):
            raise InvalidRequestError([("dryRun", "must be true or false")])
        run = ask_for_recovery(
            dry_run=dry_run, project_id=data.get("projectId"), actor=actor_of(request)
        )
        return Response(run.show(), status=status.HTTP_202_ACCEPTED)


class RecoveryRunDetail(ApiView):
    """One run."""

    @extend_schema(
        operation_id="getRecoveryRun",
        summary="Show a run of recovery",
        description="What it was asked for, what it has found and done, and what stood in "
        "the way.",
        parameters=[RUN_ID],
        responses=answers("not_found", shape=RecoveryRunSerializer, example=_ENDED),
        tags=["recovery"],
    )
    def get(self, request: Request, runId: str) -> Response:  # noqa: N803 -- wire name
        """Return a run."""
        try:
            run_id = UUID(runId)
        except ValueError:
            raise RecoveryRunNotFoundError("no run has an id of that form") from None
        run = RecoveryRun.objects.filter(run_id=run_id).first()
        # Python's UUID also takes braces, a prefix, and hyphens anywhere.
        if run is None or str(run_id) != runId.lower():
            raise RecoveryRunNotFoundError(f"there is no run {runId}")
        return Response(run.show())


urlpatterns = [
    path("recovery/runs/", RecoveryRunList.as_view(), name="recovery-runs"),
    path("recovery/runs/<runId>/", RecoveryRunDetail.as_view(), name="recovery-run"),
]
