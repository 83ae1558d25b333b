"""Pages of a list: `page` and `pageSize`, strictly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from django.db.models import Model, QuerySet
from django.http import QueryDict
from rest_framework.exceptions import NotFound
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
Row_co = TypeVar("Row_co", covariant=True)


class Cuttable(Protocol[Row_co]):
    """A list that knows a shorter way to a page of it, and to its length."""

    def cut(self, start: int, stop: int) -> Sequence[Row_co | None]:
        """Return the rows of these places; None for one that has just been deleted."""

    def count(self, *, at_least: int) -> int:
        """Return how many rows there are."""


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
    rows: QuerySet[Row] | Cuttable[Row],
    request: Request,
    *,
    show: Callable[[Row], dict[str, Any]],
) -> dict[str, Any]:
    """Return the asked page of the rows, with the addresses of its neighbours.

    Raises:
        InvalidRequestError, NotFound: As `read_page`.
    """
    page = read_page(rows, request)
    return page.show([show(row) for row in page.rows])


def read_page(rows: QuerySet[Row] | Cuttable[Row], request: Request) -> Page[Row]:
    """Return the asked page of the rows.

    Raises:
        InvalidRequestError: `page` or `pageSize` is no number in its range.
        NotFound: The page lies beyond the end; the first never does.
    """
    number, size = _read(request.query_params)
    start = (number - 1) * size
    beyond = NotFound(f"There is no page {number}.")
    # No table holds more rows than a key has numbers, and no database takes larger ones.
    if start + size >= 2**63:
        raise beyond
    listed = _Sliced(rows, request.query_params) if isinstance(rows, QuerySet) else rows
    # One more tells whether there is a next page.
    found = listed.cut(start, start + size + 1)
    if not found and number > 1:
        raise beyond
    has_next = len(found) > size
    address = request.build_absolute_uri()
    return Page(
        # The last page has counted all rows already.
        count=(listed.count(at_least=start + size + 1) if has_next else start + len(found)),
        next=_address(address, number + 1) if has_next else None,
        previous=_address(address, number - 1) if number > 1 else None,
        rows=[row for row in found[:size] if row is not None],
    )


class _Sliced(Generic[Row]):
    """The rows of a query."""

    def __init__(self, rows: QuerySet[Row], query: QueryDict) -> None:
        self._rows = rows
        self._query = query

    def cut(self, start: int, stop: int) -> Sequence[Row]:
        """Return the rows of these places."""
        return list(self._rows[start:stop])

    def count(self, *, at_least: int) -> int:
        """Return how many rows there are."""
        text = self._query.get("search", "").strip()
        if text:
            return count_rows(
                self._rows.order_by(),
                at_least=at_least,
                most=MOST_COUNTED_IN_SEARCH,
                ceiling=lambda: estimate_found(text),
            )
        # An order that has an index serves the count as it serves the page; in another
        # one all rows would have to be sorted.
        has_index = self._query.get("ordering") in _INDEXED_ORDERINGS
        return count_rows(
            self._rows if has_index else self._rows.order_by(), at_least=at_least
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
