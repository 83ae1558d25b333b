"""Pages of a list: `page` and `pageSize`, strictly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db.models import Model, QuerySet
from django.http import Http404, QueryDict
from rest_framework.request import Request
from rest_framework.utils.urls import remove_query_param, replace_query_param

from scheduling.domain.errors import InvalidRequestError
from scheduling.queries.counting import MOST_COUNTED_IN_SEARCH, count_rows
from scheduling.queries.job_search import estimate_found

PAGE_PARAMETERS = ("page", "pageSize")
DEFAULT_SIZE = 100
LARGEST_SIZE = 500
# More digits than any count has, and few enough to read at once.
_MOST_DIGITS = 18
# Without `ordering` a list has its own order.
_INDEXED_ORDERINGS = (None, "endTime", "-endTime")
Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True, kw_only=True)
class Page(Generic[Row]):
    """A page's rows, how many there are in all, and its neighbours' addresses.

    count: exact as far as `count_rows` counts; beyond that PostgreSQL's estimate.
    """

    count: int
    next: str | None
    previous: str | None
    rows: Sequence[Row]

    def show(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the page as the outside sees it.

        Args:
            results: The rows, as the outside sees them.
        """
        return {
            "count": self.count,
            "next": self.next,
            "previous": self.previous,
            "results": results,
        }


def show_page(
    rows: QuerySet[Row], request: Request, *, show: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:
    """Return the asked page of the rows, with the addresses of its neighbours.

    Raises:
        InvalidRequestError, Http404: As `read_page`.
    """
    page = read_page(rows, request)
    return page.show([show(row) for row in page.rows])


def read_page(rows: QuerySet[Row], request: Request) -> Page[Row]:
    """Return the asked page of the rows.

    Raises:
        InvalidRequestError: `page` or `pageSize` is no number in its range.
        Http404: The page lies beyond the end; the first never does.
    """
    number, size = _read(request.query_params)
    start = (number - 1) * size
    # No table holds more rows than a key has numbers, and no database takes larger ones.
    if start + size >= 2**63:
        raise Http404
    # One more tells whether there is a next page.
    found = list(rows[start : start + size + 1])
    if not found and number > 1:
        raise Http404
    has_next = len(found) > size
    # An order that has an index serves the count as it serves the page; in another one
    # all rows would have to be sorted.
    ordering = request.query_params.get("ordering")
    counted = rows if ordering in _INDEXED_ORDERINGS else rows.order_by()
    text = request.query_params.get("search", "")
    address = request.build_absolute_uri()
    return Page(
        # The last page has counted all rows already.
        count=(
            count_rows(
                counted,
                at_least=start + size + 1,
                most=MOST_COUNTED_IN_SEARCH if text else None,
                ceiling=lambda: estimate_found(text.strip()) if text else None,
            )
            if has_next
            else start + len(found)
        ),
        next=_address(address, number + 1) if has_next else None,
        previous=_address(address, number - 1) if number > 1 else None,
        rows=found[:size],
    )


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
