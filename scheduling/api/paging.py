"""Pages of a list: `page` and `pageSize`, strictly."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.http import Http404, QueryDict
from rest_framework.request import Request
from rest_framework.utils.urls import remove_query_param, replace_query_param

from scheduling.domain.errors import InvalidRequestError

PAGE_PARAMETERS = ("page", "pageSize")
DEFAULT_SIZE = 100
LARGEST_SIZE = 500
# More digits than any count has, and few enough to read at once.
_MOST_DIGITS = 18
Row = TypeVar("Row", bound=Model)


def show_page(
    rows: QuerySet[Row], request: Request, *, show: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:
    """Return the asked page of the rows, with the addresses of its neighbours.

    Raises:
        InvalidRequestError: `page` or `pageSize` is no number in its range.
        Http404: The page lies beyond the end; the first never does.
    """
    number, size = _read(request.query_params)
    count = rows.count()
    last = max(1, -(-count // size))
    if number > last:
        raise Http404
    start = (number - 1) * size
    address = request.build_absolute_uri()
    return {
        "count": count,
        "next": _address(address, number + 1) if number < last else None,
        "previous": _address(address, number - 1) if number > 1 else None,
        "results": [show(row) for row in rows[start : start + size]],
    }


def _read(query: QueryDict) -> tuple[int, int]:
    """Return the page's number and size.

    Raises:
        InvalidRequestError: One of them is no number in its range.
    """
    errors: list[tuple[str, str]] = []
    number = _number(query.get("page", "1"))
    if number < 1:
        errors.append(("page", "must be a whole number from 1"))
    size = _number(query.get("pageSize", str(DEFAULT_SIZE)))
    if not 1 <= size <= LARGEST_SIZE:
        errors.append(("pageSize", f"must be a whole number from 1 to {LARGEST_SIZE}"))
    if errors:
        raise InvalidRequestError(errors)
    return number, size


def _number(text: str) -> int:
    """Return the number that plain digits say; -1 for anything else."""
    is_plain = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_plain else -1


def _address(address: str, number: int) -> str:
    """Return the address of another page of the same list."""
    if number == 1:
        return remove_query_param(address, "page")
    return replace_query_param(address, "page", number)
