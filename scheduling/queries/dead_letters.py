"""Dead letters: lists by the API's filters, and how each looks."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db.models import Case, F, Q, QuerySet, Value, When
from django.db.models.functions import Length

from scheduling.messages import show_dead_letter
from scheduling.models import DeadLetter
from scheduling.models.dead_letter import STATUSES
from scheduling.queries.filters import (
    Filter,
    choice_parser,
    read_conditions,
    show_instant,
    text_parser,
)

LONGEST_TOPIC = 249
LONGEST_CODE = 40
# Larger ones are left out of lists, which would grow to a hundred megabytes.
LARGEST_LISTED_BYTES = 64 * 1024

DEAD_LETTER_FILTERS: dict[str, Filter] = {
    "topic": (text_parser(longest=LONGEST_TOPIC), lambda value: Q(topic=value)),
    "status": (choice_parser(STATUSES), lambda value: Q(status=value)),
    "code": (text_parser(longest=LONGEST_CODE), lambda value: Q(code=value)),
}


def list_dead_letters(filters: Mapping[str, Any]) -> QuerySet[DeadLetter]:
    """Return the dead letters that match all filters, the newest first.

    What is larger than `LARGEST_LISTED_BYTES` stays in the database, see
    `show_listed_dead_letter`.

    Raises:
        InvalidRequestError: Names every unknown filter and every wrong value.
    """
    condition = read_conditions(filters, DEAD_LETTER_FILTERS)
    return (
        DeadLetter.objects.filter(condition)
        .order_by("-set_aside_at", "id")
        .defer("key", "value", "headers")
        .annotate(key_bytes=Length("key"), value_bytes=Length("value"))
        .annotate(listed_key=_if_small("key"), listed_value=_if_small("value"))
    )


def _if_small(column: str) -> Case:
    """Return the column where it is small enough for a list, else null."""
    is_small = Q(**{f"{column}_bytes__lte": LARGEST_LISTED_BYTES})
    return Case(When(is_small, then=F(column)), default=Value(None))


def show_listed_dead_letter(letter: Any) -> dict[str, Any]:
    """Return a dead letter of `list_dead_letters` as the outside sees it."""
    # The deferred columns would be read one by one.
    letter.key, letter.value = letter.listed_key, letter.listed_value
    is_truncated = any(
        (size or 0) > LARGEST_LISTED_BYTES
        for size in (letter.key_bytes, letter.value_bytes)
    )
    return show_whole_dead_letter(letter) | {"truncated": is_truncated}


def show_whole_dead_letter(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as the outside sees it, with all its bytes.

    Source: contract, sections 4 and 8.
    """
    return {
        "id": str(letter.pk),
        **show_dead_letter(letter),
        "truncated": False,
        "status": letter.status,
        "replayedAt": show_instant(letter.replayed_at),
        "reason": letter.reason or None,
        "replayOf": str(letter.replay_of) if letter.replay_of else None,
    }


def parse_dead_letter_id(text: str) -> UUID | None:
    """Return the id that a path or an argument names; None where it has another form."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    # Python's UUID also takes braces, a prefix, and hyphens anywhere.
    return found if str(found) == text.lower() else None
