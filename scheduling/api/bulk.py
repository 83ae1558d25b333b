"""Many transitions scheduled by one request; each stands alone."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.api.answers import with_operator
from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView, check_fields
from scheduling.api.errors import of_scheduling_error
from scheduling.api.parsers import LARGEST_BULK_BODY
from scheduling.api.schema import BULK_EXAMPLES, responses
from scheduling.api.serializers import BulkAnswerSerializer, BulkSerializer
from scheduling.domain.actors import Operation
from scheduling.domain.errors import InvalidRequestError, SchedulingError
from scheduling.services.schedule import LARGEST_CHUNK, Scheduled, schedule_many

MOST_ITEMS = LARGEST_CHUNK


class TransitionBulk(ApiView):
    """The door to schedule many transitions at once."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.SCHEDULE}
    largest_body = LARGEST_BULK_BODY

    @extend_schema(
        operation_id="scheduleTransitions",
        summary="Schedule many transitions",
        description="Up to 1,000, in a body of up to 4 MiB. Each item stands alone: what "
        "is wrong with one is told in its result and keeps no other from being scheduled. "
        "An item that is scheduled already, or the second of two identical ones, is "
        "`existing`.",
        request=BulkSerializer,
        examples=BULK_EXAMPLES,
        responses=responses("conflict", is_read=False, status_200=BulkAnswerSerializer),
        tags=["transitions"],
    )
    def post(self, request: Request) -> Response:
        """Schedule many transitions."""
        items = [
            with_operator(item, request) if isinstance(item, dict) else item
            for item in _items(request.data)
        ]
        made = self.made_before([item if isinstance(item, dict) else {} for item in items])
        fresh = iter(
            schedule_many(
                [item for index, item in enumerate(items) if index not in made],
                actor=actor_of(request),
                now=timezone.now(),
            )
        )
        results = [
            made[index] if index in made else next(fresh) for index in range(len(items))
        ]
        scheduled = [one for one in results if isinstance(one, Scheduled)]
        failed = sum(isinstance(one, SchedulingError) for one in results)
        # Of two identical items that an earlier try met the second one is existing.
        created = len(set(made.values())) + sum(one.is_new for one in scheduled)
        return Response(
            {
                "created": created,
                "existing": len(results) - failed - created,
                "failed": failed,
                "results": [_show(index, one) for index, one in enumerate(results)],
            }
        )


def _items(data: dict[str, Any]) -> list[Any]:
    """Return the items of the body.

    Raises:
        InvalidRequestError: There is no list of at most 1,000, or something beside it.
    """
    check_fields(data, known=frozenset({"transitions"}))
    items = data.get("transitions")
    if items is None:
        raise InvalidRequestError([("transitions", "is required")])
    if not isinstance(items, list):
        raise InvalidRequestError([("transitions", "must be a list")])
    if len(items) > MOST_ITEMS:
        raise InvalidRequestError(
            [("transitions", f"must hold at most {MOST_ITEMS:,} items, not {len(items):,}")]
        )
    return items


def _show(index: int, result: Scheduled | SchedulingError | str) -> dict[str, Any]:
    """Return what became of one item; of one that was made before the job id is known."""
    if isinstance(result, str):
        return {"index": index, "jobId": result}
    if isinstance(result, SchedulingError):
        return {"index": index, "error": of_scheduling_error(result).body()}
    return {"index": index, "jobId": result.job.job_id}
