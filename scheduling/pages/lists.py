"""A page of rows: filters in the address, so many rows at a time, bounded however many.

class DeadLetters(ListPage):
template_name = "admin/dead_letters.html"   # extends "admin/list.html"
fields = (ListField(name="topic", label="Topic"), …)

def find(self, filters):      # the API's names; raises InvalidRequestError
return list_dead_letters(filters)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from django.db.models import QuerySet
from typing_extensions import override

from scheduling.domain.errors import InvalidRequestError
from scheduling.pages.base import AdminPage
from scheduling.queries.filters import camel_case

# Nobody turns so many leaves; a narrower filter finds the row sooner, and the database
# would have to walk past all that comes before.
LAST_PAGE: Final = 200
# What a browser's field for instants sends; the page says that it means UTC.
_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?")
# So many digits are read as a page's number.
_MOST_DIGITS: Final = 6


@dataclass(frozen=True, kw_only=True)
class ListField:
    """A filter of a list.

    name: snake-case, as the queries have it; the address has it in camelCase.
    choices: value and label of each; empty: a text.
    is_instant: whether it is an instant, which the page takes in UTC.
    """

    name: str
    label: str
    choices: Sequence[tuple[str, str]] = ()
    is_instant: bool = False
    help: str = ""

    @property
    def wire_name(self) -> str:
        """The name in the address."""
        return camel_case(self.name)


class ListPage(AdminPage):
    """Rows that match the filters, the same number of queries for any number of them."""

    http_method_names = ["get", "head"]
    fields: ClassVar[Sequence[ListField]] = ()
    page_size: ClassVar[int] = 50
    noun: ClassVar[str] = "row"
    nouns: ClassVar[str] = ""
    empty: ClassVar[str] = "Nothing matches. Take a filter away to see more."
    has_count: ClassVar[bool] = True

    def find(self, filters: Mapping[str, Any]) -> QuerySet[Any]:
        """Return the rows that match, in their order.

        Args:
            filters: The given values by snake-case name.

        Raises:
            InvalidRequestError: Names every wrong value.
        """
        raise NotImplementedError

    def show(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Return the rows of one page as the template shows them."""
        return rows

    @property
    def given(self) -> Mapping[str, str]:
        """What the address says, by snake-case name; empty fields say nothing."""
        query = self.request.GET
        return {
            field.name: text
            for field in self.fields
            if (text := query.get(field.wire_name, "").strip())
        }

    @property
    def filters(self) -> Mapping[str, str]:
        """The filters as the queries take them."""
        instants = {field.name for field in self.fields if field.is_instant}
        return {
            name: f"{text}Z" if name in instants and _LOCAL.fullmatch(text) else text
            for name, text in self.given.items()
        }

    @override
    def context(self) -> dict[str, Any]:
        """Return the filters with what they say, and the asked page of the rows."""
        given, errors = self.given, {}
        rows: Sequence[Any] = []
        has_next, has_more, count, number = False, False, 0, self._number()
        try:
            matching = self.find(self.filters)
            start = (number - 1) * self.page_size
            found = list(matching[start : start + self.page_size + 1])
        except InvalidRequestError as error:
            errors = dict(error.errors)
        else:
            has_next = len(found) > self.page_size
            rows = self.show(found[: self.page_size])
            count = start + len(found)
            if self.has_count and has_next:
                # As far as one can turn the leaves; to count on would cost too much.
                most = LAST_PAGE * self.page_size
                count = max(count, matching[: most + 1].count())
                has_more = count > most
                count = min(count, most)
        return {
            "fields": [
                (field, given.get(field.name, ""), errors.get(field.wire_name, ""))
                for field in self.fields
            ],
            "errors": errors,
            "is_filtered": bool(given),
            "rows": rows,
            "count": count,
            "has_more": has_more,
            "noun": self.noun,
            "nouns": self.nouns or f"{self.noun}s",
            "empty": self.empty,
            "page_number": number,
            "next_page": number + 1 if has_next and number < LAST_PAGE else None,
            "previous_page": number - 1 if number > 1 else None,
            "is_cut": has_next and number == LAST_PAGE,
        }

    def _number(self) -> int:
        """Return the asked page; the first where the address names none that is shown."""
        text = self.request.GET.get("page", "1")
        is_plain = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
        return min(max(int(text), 1), LAST_PAGE) if is_plain else 1
