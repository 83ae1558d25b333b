"""Settings of the running system over REST (contract, section 4)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView
from scheduling.api.read_schema import answers
from scheduling.domain.actors import Operation
from scheduling.live_settings import Live, live_settings
from scheduling.queries.settings import show_settings
from scheduling.services.change_settings import change_settings

_VALUE: dict[str, Any] = {"oneOf": [{"type": "integer"}, {"type": "boolean"}]}
_BOUND: dict[str, Any] = {"type": ["integer", "null"]}
_SETTING: dict[str, Any] = {
    "type": "object",
    "required": ["value", "default", "source", "min", "max"],
    "properties": {
        "value": _VALUE,
        "default": _VALUE | {"description": "What the environment gives."},
        "source": {"type": "string", "enum": ["default", "environment", "runtime"]},
        "min": _BOUND,
        "max": _BOUND,
    },
}
_ANSWER = {"type": "object", "additionalProperties": _SETTING}
_EXAMPLE = {
    "SCHEDULER_MAX_RETRIES": {
        "value": 5,
        "default": 3,
        "source": "runtime",
        "min": 0,
        "max": 100,
    }
}


def _member(one: Live) -> dict[str, Any]:
    """Return the schema of one setting's value; null takes back what was set."""
    is_switch = isinstance(one.default, bool)
    schema: dict[str, Any] = {
        "type": ["boolean" if is_switch else "integer", "null"],
        "description": one.info.description,
    }
    if not is_switch:
        schema |= {"minimum": one.bound("ge"), "maximum": one.bound("le")}
    return schema


def _body() -> dict[str, Any]:
    """Return the schema of a change."""
    reason = {"type": "string", "minLength": 1, "maxLength": 2_000}
    return {
        "type": "object",
        "required": ["reason"],
        "minProperties": 2,
        "properties": {
            "reason": reason,
            **{name: _member(one) for name, one in live_settings().items()},
        },
        "additionalProperties": False,
    }


class Settings(ApiView):
    """What may change without a restart."""

    operations: ClassVar[Mapping[str, Operation]] = {"PATCH": Operation.CHANGE_SETTINGS}

    @extend_schema(
        operation_id="getSettings",
        summary="Show the settings that may change while the system runs",
        description="`value` is in force, `default` is what the environment gives, and "
        "`source` tells which of them it is; all others need a restart.",
        responses=answers(shape=_ANSWER, example=_EXAMPLE),
        tags=["settings"],
    )
    def get(self, request: Request) -> Response:
        """Show the settings."""
        return Response(show_settings())

    @extend_schema(
        operation_id="changeSettings",
        summary="Change settings of the running system",
        description="All of them or none; null takes back what was set before. Every "
        "process acts on them within five seconds. Each change is audited.",
        request={"application/json": _body()},
        examples=[
            OpenApiExample(
                "More attempts",
                value={"SCHEDULER_MAX_RETRIES": 5, "reason": "The broker is unsteady."},
                request_only=True,
            )
        ],
        responses=answers("conflict", shape=_ANSWER, example=_EXAMPLE, is_read=False),
        tags=["settings"],
    )
    def patch(self, request: Request) -> Response:
        """Change settings."""
        wanted: dict[str, Any] = dict(request.data)
        reason = wanted.pop("reason", None)
        change_settings(wanted, actor=actor_of(request), reason=reason, now=timezone.now())
        return Response(show_settings())
