"""Records that could not be handled, and what to do about them (contract, section 4)."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView, check_fields
from scheduling.api.dead_letter_schema import (
    DEAD_LETTER_EXAMPLE,
    DEAD_LETTER_ID,
    DEAD_LETTER_PARAMETERS,
    DISCARD_EXAMPLE,
    REPLAY_BODY,
    REPLAY_EXAMPLE,
    DeadLetterPageSerializer,
    DeadLetterSerializer,
)
from scheduling.api.paging import PAGE_PARAMETERS, show_page
from scheduling.api.read_schema import answers, page_example
from scheduling.api.serializers import ReasonSerializer
from scheduling.domain.actors import Operation
from scheduling.domain.errors import DeadLetterNotFoundError
from scheduling.models import DeadLetter
from scheduling.queries.dead_letters import (
    DEAD_LETTER_FILTERS,
    list_dead_letters,
    parse_dead_letter_id,
    show_listed_dead_letter,
    show_whole_dead_letter,
)
from scheduling.services.dead_letters import (
    discard_dead_letter,
    get_dead_letter,
    replay_dead_letter,
)


class DeadLetterList(ApiView):
    """All dead letters."""

    query_parameters = (*DEAD_LETTER_FILTERS, *PAGE_PARAMETERS)

    @extend_schema(
        operation_id="listDeadLetters",
        summary="List records that could not be handled",
        description="The newest first. All filters must hold. A record's key or bytes "
        "over 64 KiB are left out of the list (`truncated`); the dead letter by itself "
        "has them.",
        parameters=DEAD_LETTER_PARAMETERS,
        responses=answers(
            "not_found",
            shape=DeadLetterPageSerializer,
            example=page_example(DEAD_LETTER_EXAMPLE),
        ),
        tags=["dead letters"],
    )
    def get(self, request: Request) -> Response:
        """Return a page of dead letters."""
        query = request.query_params
        letters = list_dead_letters(
            {name: query[name] for name in query if name in DEAD_LETTER_FILTERS}
        )
        return Response(show_page(letters, request, show=show_listed_dead_letter))


class DeadLetterDetail(ApiView):
    """One dead letter."""

    @extend_schema(
        operation_id="getDeadLetter",
        summary="Show a record that could not be handled",
        description="With its exact bytes, why it was set aside, and what was done "
        "about it.",
        parameters=[DEAD_LETTER_ID],
        responses=answers(
            "not_found", shape=DeadLetterSerializer, example=DEAD_LETTER_EXAMPLE
        ),
        tags=["dead letters"],
    )
    def get(self, request: Request, id: str) -> Response:  # noqa: A002 -- wire name
        """Return a dead letter."""
        return Response(show_whole_dead_letter(get_dead_letter(read_dead_letter_id(id))))


class DeadLetterReplay(ApiView):
    """The door to handle a record again."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.REPLAY}

    @extend_schema(
        operation_id="replayDeadLetter",
        summary="Handle a record again",
        description="Its original bytes are handled as if they had just come in. What "
        "fails again is a new dead letter, whose `replayOf` is this one's id.",
        parameters=[DEAD_LETTER_ID],
        request=REPLAY_BODY,
        examples=[REPLAY_EXAMPLE],
        responses=answers(
            "not_found",
            "conflict",
            shape=DeadLetterSerializer,
            example=DEAD_LETTER_EXAMPLE
            | {"status": "replayed", "replayedAt": "2030-03-01T10:00:00.000Z"},
            status=202,
            is_read=False,
        ),
        tags=["dead letters"],
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002 -- wire name
        """Handle a record again."""
        check_fields(request.data, known=frozenset())
        return _deal_with(
            self,
            id,
            "dead_letter.replayed",
            lambda letter_id: replay_dead_letter(
                letter_id, actor=actor_of(request), now=timezone.now()
            ),
        )


class DeadLetterDiscard(ApiView):
    """The door to give a record up."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.DISCARD}

    @extend_schema(
        operation_id="discardDeadLetter",
        summary="Give a record up",
        description="It stays on record, with the reason, and is never handled.",
        parameters=[DEAD_LETTER_ID],
        request=ReasonSerializer,
        examples=[DISCARD_EXAMPLE],
        responses=answers(
            "not_found",
            "conflict",
            shape=DeadLetterSerializer,
            example=DEAD_LETTER_EXAMPLE
            | {"status": "discarded", "reason": DISCARD_EXAMPLE.value["reason"]},
            status=202,
            is_read=False,
        ),
        tags=["dead letters"],
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002 -- wire name
        """Give a record up."""
        data: dict[str, Any] = request.data
        check_fields(data, known=frozenset({"reason"}))
        return _deal_with(
            self,
            id,
            "dead_letter.discarded",
            lambda letter_id: discard_dead_letter(
                letter_id,
                actor=actor_of(request),
                reason=data.get("reason"),
                now=timezone.now(),
            ),
        )


def _deal_with(
    view: ApiView, text: str, action: str, deal: Callable[[UUID], DeadLetter]
) -> Response:
    """Deal with a dead letter, unless an earlier try of the request has; answer with it.

    Args:
        text: The id that the path names.
        action: What the audit calls it.
        deal: Calls the service.
    """
    letter_id = read_dead_letter_id(text)
    is_done = view.was_done(action, changes__deadLetterId=str(letter_id))
    letter = get_dead_letter(letter_id) if is_done else deal(letter_id)
    return Response(show_whole_dead_letter(letter), status=status.HTTP_202_ACCEPTED)


def read_dead_letter_id(text: str) -> UUID:
    """Return the id that a path names.

    Raises:
        DeadLetterNotFoundError: It can't be any dead letter's.
    """
    dead_letter_id = parse_dead_letter_id(text)
    if dead_letter_id is None:
        raise DeadLetterNotFoundError("no dead letter has an id of that form")
    return dead_letter_id
