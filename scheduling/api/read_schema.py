"""How the OpenAPI document describes what is only read: parameters, pages, answers."""

from http import HTTPStatus
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework import serializers

from scheduling.api.paging import DEFAULT_SIZE, LARGEST_SIZE
from scheduling.api.schema import responses
from scheduling.queries.counting import MOST_COUNTED

INSTANT = {"type": "string", "format": "date-time"}


def query(name: str, schema: Any, description: str, **options: Any) -> OpenApiParameter:
    """Return a query parameter."""
    return OpenApiParameter(
        name, schema, OpenApiParameter.QUERY, description=description, **options
    )


def page_parameters(rows: str) -> list[OpenApiParameter]:
    """Return the parameters of every list.

    Args:
        rows: What a page holds, in the plural.
    """
    number = {"type": "integer", "minimum": 1, "default": 1}
    size = {
        "type": "integer",
        "minimum": 1,
        "maximum": LARGEST_SIZE,
        "default": DEFAULT_SIZE,
    }
    return [
        query("page", number, "Which page; one beyond the end is not found."),
        query("pageSize", size, f"How many {rows} a page holds."),
    ]


class PageSerializer(serializers.Serializer[Any]):
    """What every page has beside its results."""

    count = serializers.IntegerField(
        min_value=0,
        help_text=f"How many there are on all pages: exact up to {MOST_COUNTED:,}, beyond "
        "that an estimate.",
    )
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


def answers(
    *problems: int | str, shape: Any, example: Any, status: int = 200, is_read: bool = True
) -> dict[int | tuple[int, str], Any]:
    """Return the answers of an operation: one success with its example, and problems.

    Args:
        problems: As `schema.responses` takes them.
    """
    success = OpenApiResponse(
        shape,
        description=HTTPStatus(status).phrase,
        examples=[OpenApiExample("An answer", value=example, response_only=True)],
    )
    return responses(*problems, is_read=is_read) | {(status, "application/json"): success}


def page_example(*results: Any) -> dict[str, Any]:
    """Return a page that holds these."""
    return {
        "count": len(results),
        "next": None,
        "previous": None,
        "results": list(results),
    }
