"""Circuit breakers over REST (contract, section 4)."""

# ruff: noqa: N815 -- fields are named as on the wire
from collections.abc import Mapping
from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView, check_fields
from scheduling.api.read_schema import answers
from scheduling.api.serializers import ReasonSerializer
from scheduling.conf import BREAKER_SETTINGS
from scheduling.domain.actors import Operation
from scheduling.models.circuit_breaker import STATES
from scheduling.queries.breakers import list_breakers, show_breaker
from scheduling.services.breakers import reset_breaker

BREAKER_NAME = OpenApiParameter(
    "name",
    {"type": "string", "enum": list(BREAKER_SETTINGS)},
    OpenApiParameter.PATH,
    description="What the breaker guards: `scheduler` publishing on Kafka, `recovery` "
    "what recovery writes, `challenge` the Challenge service.",
)
RESET_EXAMPLE = OpenApiExample(
    "A reason", value={"reason": "The broker is back after its upgrade."}, request_only=True
)
BREAKER_EXAMPLE: dict[str, Any] = {
    "name": "scheduler",
    "state": "open",
    "failureCount": 5,
    "successCount": 0,
    "totalCalls": 48_122,
    "rejectedCount": 3,
    "failureThreshold": 5,
    "successThreshold": 3,
    "resetTimeoutMs": 60_000,
    "openedAt": "2030-03-01T09:00:00.000Z",
    "lastFailureAt": "2030-03-01T09:00:00.000Z",
    "lastError": "no Kafka broker answers",
}


class BreakerSerializer(serializers.Serializer[Any]):
    """A circuit breaker, whose state all processes share."""

    name = serializers.ChoiceField(choices=[(one, one) for one in BREAKER_SETTINGS])
    state = serializers.ChoiceField(choices=[(one, one) for one in STATES])
    failureCount = serializers.IntegerField(min_value=0, help_text="Failures in a row.")
    successCount = serializers.IntegerField(
        min_value=0, help_text="Successes in a row while half open."
    )
    totalCalls = serializers.IntegerField(
        min_value=0, help_text="Calls since ever; each process adds its own with a delay."
    )
    rejectedCount = serializers.IntegerField(
        min_value=0, help_text="Of them, those not let through."
    )
    failureThreshold = serializers.IntegerField(min_value=1)
    successThreshold = serializers.IntegerField(min_value=1)
    resetTimeoutMs = serializers.IntegerField(min_value=1_000)
    openedAt = serializers.DateTimeField(allow_null=True, help_text="Null while closed.")
    lastFailureAt = serializers.DateTimeField(allow_null=True)
    lastError = serializers.CharField(allow_null=True)


class BreakerList(ApiView):
    """All circuit breakers."""

    @extend_schema(
        operation_id="listCircuitBreakers",
        summary="List the circuit breakers",
        description="An open breaker holds jobs back unharmed: they fire when it closes.",
        responses=answers(shape=BreakerSerializer(many=True), example=BREAKER_EXAMPLE),
        tags=["circuit breakers"],
    )
    def get(self, request: Request) -> Response:
        """List the breakers."""
        return Response([show_breaker(one) for one in list_breakers()])


class BreakerReset(ApiView):
    """One breaker, to be closed by hand."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.RESET_BREAKER}

    @extend_schema(
        operation_id="resetCircuitBreaker",
        summary="Close a circuit breaker before its time",
        description="Its failures are forgotten. All processes act on it within a second.",
        parameters=[BREAKER_NAME],
        request=ReasonSerializer,
        examples=[RESET_EXAMPLE],
        responses=answers(
            "not_found",
            "conflict",
            shape=BreakerSerializer,
            example=BREAKER_EXAMPLE
            | {"state": "closed", "failureCount": 0, "openedAt": None},
            is_read=False,
        ),
        tags=["circuit breakers"],
    )
    def post(self, request: Request, name: str) -> Response:
        """Close a breaker."""
        data: dict[str, Any] = request.data
        check_fields(data, known=frozenset({"reason"}))
        breaker = reset_breaker(
            name,
            actor=actor_of(request),
            reason=data.get("reason"),
            now=timezone.now(),
        )
        return Response(show_breaker(breaker))
