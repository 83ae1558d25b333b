"""Dead letters: what came in and could not be handled, and what to do about it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet
from django.http import Http404
from django.urls import reverse
from typing_extensions import override

from scheduling.admin.own_pages import OwnPagesAdmin
from scheduling.domain.actors import Operation
from scheduling.domain.dumps import Dump, dump
from scheduling.domain.errors import DeadLetterNotFoundError
from scheduling.models import DeadLetter
from scheduling.models.dead_letter import NEW, STATUSES
from scheduling.pages.base import AdminPage
from scheduling.pages.confirm import ConfirmPage
from scheduling.pages.lists import ListField, ListPage
from scheduling.queries.dead_letters import list_dead_letters, parse_dead_letter_id
from scheduling.services.dead_letters import (
    discard_dead_letter,
    get_dead_letter,
    replay_dead_letter,
)

# Groups are counted among so many of the newest that nobody dealt with.
MOST_GROUPED: Final = 10_000
MOST_GROUPS: Final = 50
_LIST: Final = "admin:scheduling_deadletter_changelist"
_ROW: Final = "admin:scheduling_deadletter_change"


class DeadLetterList(ListPage):
    """Dead letters, the newest first, under their groups."""

    title = "Dead letters"
    template_name = "admin/dead_letter_list.html"
    noun = "dead letter"
    empty = "No dead letter matches: every record of these topics was handled."
    fields = (
        ListField(name="topic", label="Topic"),
        ListField(name="code", label="Reason code", help="Such as unusable_message"),
        ListField(
            name="status", label="Status", choices=[(status, status) for status in STATUSES]
        ),
    )

    @override
    def find(self, filters: Mapping[str, Any]) -> QuerySet[Any]:
        # What a list shows needs neither the bytes nor their sizes read.
        return list_dead_letters(filters).defer("key", "value", "headers", "errors")

    @override
    def context(self) -> dict[str, Any]:
        waiting = DeadLetter.objects.filter(status=NEW).order_by("-set_aside_at")
        found = list(waiting.values_list("topic", "code")[: MOST_GROUPED + 1])
        groups = Counter(found[:MOST_GROUPED])
        return {
            "groups": [(topic, code, n) for (topic, code), n in groups.most_common()][
                :MOST_GROUPS
            ],
            "has_more_waiting": len(found) > MOST_GROUPED,
            "most_grouped": MOST_GROUPED,
            **super().context(),
        }


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of a record."""

    field: str
    message: str


class _LetterPage(AdminPage):
    """A page about one dead letter."""

    @cached_property
    def letter(self) -> DeadLetter:
        """The dead letter that the address names.

        Raises:
            Http404: There is none.
        """
        found = parse_dead_letter_id(str(self.kwargs["key"]))
        try:
            if found is not None:
                return get_dead_letter(found)
        except DeadLetterNotFoundError:
            pass
        raise Http404("there is no such dead letter")

    @override
    def context(self) -> dict[str, Any]:
        return {"letter": self.letter, **super().context()}


class DeadLetterPage(_LetterPage):
    """One dead letter: why, its bytes as text and as digits, what was done about it."""

    title = "Dead letter"
    template_name = "admin/dead_letter.html"

    @override
    def context(self) -> dict[str, Any]:
        letter = self.letter
        errors = [
            FieldError(str(one.get("field", "")), str(one.get("message", "")))
            for one in letter.errors
            if isinstance(one, dict)
        ]
        complaints = [letter.message, *(one.message for one in errors)]
        again = _again(letter).defer("key", "value").first() if letter.replayed_at else None
        return {
            "errors": errors,
            "value": _dump(letter.value, complaints),
            "record_key": _dump(letter.key, ()),
            "headers": [
                (str(name), _dump(_from_hex(value), ())) for name, value in letter.headers
            ],
            "again": again,
            "may_deal": letter.status == NEW and self.may(Operation.REPLAY),
            **super().context(),
        }


def _again(letter: DeadLetter) -> QuerySet[DeadLetter]:
    """Return what a replay of the letter set aside; its instant is what has an index."""
    since = letter.replayed_at or letter.set_aside_at
    return DeadLetter.objects.filter(replay_of=letter.pk, set_aside_at__gte=since)


def _dump(content: Any, complaints: Sequence[str]) -> Dump | None:
    """Return bytes for eyes; None where there are none."""
    return None if content is None else dump(bytes(content), complaints=complaints)


def _from_hex(value: object) -> bytes | None:
    """Return a header's value; None where it has none."""
    return bytes.fromhex(value) if isinstance(value, str) else None


class _DealPage(ConfirmPage, _LetterPage):
    """Something that is done about one dead letter."""

    operation = Operation.REPLAY

    @property
    def _url(self) -> str:
        """The dead letter's page."""
        return reverse(_ROW, args=[self.letter.pk])


class ReplayDeadLetter(_DealPage):
    """Handles a record again."""

    path = "<str:key>/replay/"
    name = "scheduling_deadletter_replay"
    title = "Replay this dead letter"
    button = "Replay this dead letter"
    needs_reason = False
    template_name = "admin/deal_with_dead_letter.html"

    @override
    def carry_out(self, reason: str) -> tuple[str, str]:
        replayed = replay_dead_letter(self.letter.pk, actor=self.actor, now=self.now)
        if _again(replayed).exists():
            return "Replayed, and it failed again: see the new dead letter.", self._url
        return "Replayed: the record was handled.", self._url


class DiscardDeadLetter(_DealPage):
    """Gives a record up."""

    path = "<str:key>/discard/"
    name = "scheduling_deadletter_discard"
    title = "Discard this dead letter"
    button = "Discard this dead letter"
    is_danger = True
    template_name = "admin/deal_with_dead_letter.html"

    @override
    def carry_out(self, reason: str) -> tuple[str, str]:
        discard_dead_letter(self.letter.pk, actor=self.actor, reason=reason, now=self.now)
        return "Discarded: it stays on record.", self._url


@admin.register(DeadLetter)
class DeadLetterAdmin(OwnPagesAdmin):
    """The dead letters' place in the admin."""

    list_page = DeadLetterList
    row_page = DeadLetterPage
    more_pages = (ReplayDeadLetter, DiscardDeadLetter)
