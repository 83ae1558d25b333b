"""What was last read of each challenge (contract, section 4)."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.api.base import ApiView
from scheduling.api.challenge_schema import (
    CHALLENGE_EXAMPLE,
    CHALLENGE_ID,
    CHALLENGE_PARAMETERS,
    ChallengePageSerializer,
    ChallengeSerializer,
)
from scheduling.api.paging import PAGE_PARAMETERS, read_page
from scheduling.api.read_schema import answers, page_example
from scheduling.domain.errors import ChallengeNotFoundError
from scheduling.domain.phases import parse_query_id
from scheduling.models import Challenge
from scheduling.queries.challenges import (
    CHALLENGE_FILTERS,
    list_challenges,
    show_challenges,
)
from scheduling.queries.filters import camel_case

_FILTER_NAMES = {camel_case(name): name for name in CHALLENGE_FILTERS}


class ChallengeList(ApiView):
    """All challenges that upstream told of."""

    query_parameters = (*_FILTER_NAMES, *PAGE_PARAMETERS)

    @extend_schema(
        operation_id="listChallenges",
        summary="List challenges as they were last read",
        description="By id, each with its phases and jobs. Autopilot does not ask the "
        "Challenge service for this: `readAt` says how old the answer is. All filters "
        "must hold.",
        parameters=CHALLENGE_PARAMETERS,
        responses=answers(
            "not_found",
            shape=ChallengePageSerializer,
            example=page_example(CHALLENGE_EXAMPLE),
        ),
        tags=["challenges"],
    )
    def get(self, request: Request) -> Response:
        """Return a page of challenges."""
        query = request.query_params
        challenges = list_challenges(
            {_FILTER_NAMES[name]: query[name] for name in query if name in _FILTER_NAMES}
        )
        page = read_page(challenges, request)
        return Response(page.show(show_challenges(page.rows)))


class ChallengeDetail(ApiView):
    """One challenge."""

    @extend_schema(
        operation_id="getChallenge",
        summary="Show a challenge as it was last read",
        description="With its phases, and the jobs that were made for them and are still "
        "in the table.",
        parameters=[CHALLENGE_ID],
        responses=answers(
            "not_found", shape=ChallengeSerializer, example=CHALLENGE_EXAMPLE
        ),
        tags=["challenges"],
    )
    def get(self, request: Request, challengeId: str) -> Response:  # noqa: N803 -- wire name
        """Return a challenge."""
        try:
            challenge_id = parse_query_id(challengeId)
        except ValueError:
            raise ChallengeNotFoundError("no challenge has an id of that form") from None
        found = list(Challenge.objects.filter(challenge_id=challenge_id))
        if not found:
            raise ChallengeNotFoundError(f"challenge {challengeId} was never read")
        return Response(show_challenges(found)[0])
