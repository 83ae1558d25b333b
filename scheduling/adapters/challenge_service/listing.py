"""The list of ACTIVE challenges: pages that are checked against what they claim.

Upstream answers an empty list where its own query fails, and its list may shift between
two pages. What is missing here looks like challenges that are over, so a list that is
not certainly whole ends in an error.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx2

from scheduling import strict_json
from scheduling.adapters.challenge_service.answers import NAME, check_is_json, not_json
from scheduling.adapters.challenge_service.interface import (
    ChallengeAnswerError,
    Page,
    Unreadable,
)
from scheduling.domain.challenges import Challenge
from scheduling.messages import (
    UnusableMessageError,
    read_api_challenge_in_part,
    read_api_id,
)

# How often the list may change under our eyes before we give up.
MOST_CHANGES = 3
MOST_PAGES = 100_000
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_NO_ITEM_YET, _AFTER_ITEM = "[", ","


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a page says of the whole list: how many challenges on how many pages."""

    total: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A page as it came: each item a value of strict JSON, or why it is none."""

    totals: Totals
    items: tuple[object, ...]


@dataclass(frozen=True)
class NotStrict:
    """An item that JSON's letter or our limits forbid."""

    reason: str


class _ListChangedError(Exception):
    """What was read before no longer fits: the list has to be read again."""


# Asks for one page; the callable it is given refuses a page that is not whole, so that
# it may be asked for once more.
Fetch = Callable[[int, Callable[[Listing], None]], Listing]


def read_listing(response: httpx2.Response, *, number: int) -> Listing:
    """Return a page from the service's answer.

    Raises:
        ChallengeAnswerError: No JSON array, or headers that are missing or contradict
            it.
    """
    shown = _count(response, "X-Page")
    totals = Totals(
        total=_count(response, "X-Total"), last=_count(response, "X-Total-Pages")
    )
    if shown != number:
        raise ChallengeAnswerError(f"{NAME} sent page {shown} instead of page {number}")
    return Listing(totals=totals, items=_items(response))


def _count(response: httpx2.Response, name: str) -> int:
    """Return a header's number."""
    text = response.headers.get(name, "").strip()
    if not _COUNT.fullmatch(text):
        raise ChallengeAnswerError(f"{NAME} sent a list without a usable {name}")
    return int(text)


def _items(response: httpx2.Response) -> tuple[object, ...]:
    """Return the items of a JSON array; one that is not strict spoils itself only."""
    check_is_json(response)
    try:
        content = strict_json.loads(response.content)
    except ValueError as error:
        return _items_one_by_one(response.content, error)
    if not isinstance(content, list):
        raise ChallengeAnswerError(f"{NAME} sent something else than a list")
    return tuple(content)


def _items_one_by_one(content: bytes, reason: ValueError) -> tuple[object, ...]:
    """Return the items of an array of which at least one is not strict JSON.

    Raises:
        ChallengeAnswerError: The array itself can't be taken apart.
    """
    decoder = json.JSONDecoder()
    items: list[object] = []
    try:
        text = content.decode("utf-8").strip(" \t\r\n")
        place, before = 0, _NO_ITEM_YET
        while text[place] == before:
            start = _skip_blanks(text, place + 1)
            _, place = decoder.raw_decode(text, start)
            items.append(_strict(text[start:place]))
            place, before = _skip_blanks(text, place), _AFTER_ITEM
        is_whole = text[place:] == "]"
    except (ValueError, IndexError, RecursionError):
        is_whole = False
    if not is_whole:
        raise not_json(reason)
    return tuple(items)


def _skip_blanks(text: str, place: int) -> int:
    """Return the place of the next character that says something."""
    while text[place] in " \t\r\n":
        place += 1
    return place


def _strict(text: str) -> object:
    """Return an item's value, or why it is none."""
    try:
        return strict_json.loads(text.encode())
    except ValueError as error:
        return NotStrict(str(error))


def walk(fetch: Fetch, *, project_id: str | None) -> Iterator[Page]:
    """Return the pages of the list, each challenge once.

    Where the list changes meanwhile it is read again from its start, and what was given
    before is left out. A change that keeps all totals shows only where a challenge
    turns up twice; one that is missed then is read by the next run.

    Raises:
        ChallengeServiceError: A page can't be read, the pages contradict each other, or
            the list keeps changing.
    """
    given: set[str] = set()
    for _ in range(MOST_CHANGES):
        try:
            yield from _walk_once(fetch, given=given, project_id=project_id)
        except _ListChangedError:
            continue
        return
    raise ChallengeAnswerError(f"{NAME} told of another list with each page")


def _walk_once(fetch: Fetch, *, given: set[str], project_id: str | None) -> Iterator[Page]:
    """Return the pages from the first to the last.

    Raises:
        _ListChangedError: The pages are not of one list.
    """
    totals: Totals | None = None
    size = told = number = 0
    ids: set[str] = set()
    while totals is None or number < totals.last:
        number += 1
        listing = fetch(number, _check_for(number, totals, size))
        if totals is not None and listing.totals != totals:
            raise _ListChangedError
        totals, size = listing.totals, size or len(listing.items)
        page = _understand(listing, number=number, project_id=project_id, given=given)
        told += len(listing.items)
        named = {name for name in map(_id_of, listing.items) if name}
        if ids & named or len(named) < sum(bool(_id_of(one)) for one in listing.items):
            raise _ListChangedError
        ids |= named
        given |= named
        yield page
    if told != totals.total:
        raise ChallengeAnswerError(
            f"{NAME} listed {told} challenges and spoke of {totals.total}"
        )


def _check_for(number: int, before: Totals | None, size: int) -> Callable[[Listing], None]:
    """Return what refuses a page that does not fit its own totals.

    Args:
        before: What the page before said; where it differs the list has changed, and
            the page is not to blame.
        size: How many challenges the first page had; 0 for the first page itself.
    """

    def check(listing: Listing) -> None:
        if before is not None and listing.totals != before:
            return
        total, last, count = listing.totals.total, listing.totals.last, len(listing.items)
        full = size or count
        expected = full if number < last else total - full * (last - 1)
        is_empty = total == 0 and last <= 1 and count == 0
        is_whole = 0 < count == expected <= full and full * (last - 1) < total
        is_whole &= last <= MOST_PAGES
        if not (is_empty or is_whole):
            raise ChallengeAnswerError(
                f"{NAME} sent {count} challenges as page {number} of {last}, "
                f"with {total} in all"
            )

    return check


def _understand(
    listing: Listing, *, number: int, project_id: str | None, given: set[str]
) -> Page:
    """Return the page's challenges, and beside them what can't be understood."""
    challenges: list[Challenge] = []
    unreadable: list[Unreadable] = []
    for item in listing.items:
        name = _id_of(item)
        if name and name in given:
            continue
        if isinstance(item, NotStrict):
            unreadable.append(Unreadable(challenge_id="", reason=item.reason))
            continue
        try:
            challenge, phases = read_api_challenge_in_part(item)
        except UnusableMessageError as error:
            unreadable.append(Unreadable(challenge_id=name, reason=str(error)))
            continue
        if project_id is not None and challenge.project_id != project_id:
            # A service that does not know the filter shows all.
            continue
        challenges.append(challenge)
        unreadable += [
            Unreadable(
                challenge_id=challenge.challenge_id,
                phase_id=phase_id,
                reason=reason,
                is_phase=True,
            )
            for phase_id, reason in phases
        ]
    return Page(
        number=number,
        last=listing.totals.last,
        total=listing.totals.total,
        challenges=tuple(challenges),
        unreadable=tuple(unreadable),
    )


def _id_of(item: object) -> str:
    """Return a challenge's canonical id, or nothing where it can't be read."""
    return read_api_id(item)
