"""Filters as the API has them: parsers of their values, and the conditions they set."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import Q

from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.phases import (
    check_storable,
    format_instant,
    parse_id,
    parse_query_id,
)

# A filter: the parser of its value, and the condition that a value sets.
Filter = tuple[Callable[[object], Any], Callable[[Any], Q]]


def read_conditions(filters: Mapping[str, Any], known: Mapping[str, Filter]) -> Q:
    """Return the condition that all the filters set together.

    Args:
        filters: Values by snake-case name.

    Raises:
        InvalidRequestError: Names every unknown filter and every wrong value.
    """
    condition = Q()
    errors: list[tuple[str, str]] = []
    for name, value in filters.items():
        if name not in known:
            errors.append((camel_case(name), "is not a known filter"))
            continue
        parse, set_condition = known[name]
        try:
            condition &= set_condition(parse(value))
        except ValueError as error:
            errors.append((camel_case(name), str(error)))
    if errors:
        raise InvalidRequestError(errors)
    return condition


def parse_id_filter(value: object) -> str:
    """Return an id that came as text, or as itself.

    Raises:
        ValueError: It is none.
    """
    return parse_query_id(value) if isinstance(value, str) else parse_id(value)


def text_parser(*, longest: int) -> Callable[[object], str]:
    """Return a parser of texts that are looked for as they are.

    Args:
        longest: More characters than that are in no row.
    """

    def parse(value: object) -> str:
        if not isinstance(value, str) or not value or len(value) > longest:
            raise ValueError(f"must be a text of 1 to {longest} characters")
        check_storable(value)
        return value

    return parse


def choice_parser(choices: tuple[str, ...]) -> Callable[[object], str]:
    """Return a parser that takes one of the choices."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(f"must be one of {', '.join(choices)}")

    return parse


def camel_case(name: str) -> str:
    """Return the outside name of a snake-case one."""
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


def show_instant(value: datetime | None) -> str | None:
    """Return an instant as the product writes it; null where there is none."""
    return format_instant(value) if value else None
