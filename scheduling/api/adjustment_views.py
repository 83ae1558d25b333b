"""Many instants changed as one batch (contract, section 5)."""

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.api.adjustment_schema import (
    ADJUSTMENT_ANSWER_EXAMPLE,
    ADJUSTMENT_EXAMPLES,
    REFUSED,
    AdjustmentAnswerSerializer,
    AdjustmentSerializer,
)
from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView
from scheduling.api.errors import MEDIA_TYPE, Problem
from scheduling.api.parsers import LARGEST_BULK_BODY
from scheduling.api.read_schema import answers
from scheduling.domain.actors import Operation
from scheduling.domain.adjustment_request import read_adjustment
from scheduling.domain.errors import (
    Category,
    ScheduleTooFarError,
    ScheduleTooSoonError,
)
from scheduling.services.adjust import adjust_schedules

_INVALID = frozenset({ScheduleTooFarError.code, ScheduleTooSoonError.code})


class ScheduleAdjustments(ApiView):
    """The door to move many transitions at once."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.ADJUST}
    largest_body = LARGEST_BULK_BODY

    @extend_schema(
        operation_id="adjustSchedules",
        summary="Move many transitions as one batch",
        description="Up to 1,000 changes, in a body of up to 4 MiB, judged together "
        "against what is scheduled and what was last read of the challenges. With "
        "`atomic`, the default, one error or refused conflict changes nothing. "
        "`onConflict` says what becomes of conflicts: `reject` refuses them, `skip` leaves "
        "the conflicting changes out, `shift` moves a phase that would begin before its "
        "predecessor ends, and what follows it, keeping each duration, and refuses the "
        "other types. `dryRun` answers what would become of it, and changes nothing; of a "
        "batch that was accepted before, whose `batchId` it has, the first answer.",
        request=AdjustmentSerializer,
        examples=ADJUSTMENT_EXAMPLES,
        responses=answers(
            "invalid_schedule_time",
            shape=AdjustmentAnswerSerializer,
            example=ADJUSTMENT_ANSWER_EXAMPLE,
            is_read=False,
        )
        | REFUSED,
        tags=["transitions"],
    )
    def post(self, request: Request) -> Response:
        """Move many transitions."""
        asked = read_adjustment(request.data)
        is_named = asked.batch_id is not None or asked.is_dry_run
        if not is_named:
            # A batch keeps its answer in the transaction that makes its changes: a repeated
            # request finds it there, whatever became of the jobs since.
            asked = replace(asked, batch_id=self.request_name)
        answer = adjust_schedules(asked, actor=actor_of(request), now=timezone.now())
        if not is_named:
            answer = {**answer, "batchId": None}
        if answer["success"]:
            return Response(answer)
        problem = refusal_of(answer)
        return Response(problem.body(), status=problem.status, content_type=MEDIA_TYPE)


def refusal_of(answer: Mapping[str, Any]) -> Problem:
    """Return the problem that a refused request is; it has all members of the answer."""
    causes = [
        *(conflict["detail"] for conflict in answer["conflicts"]),
        *(f"change {error['index']}: {error['message']}" for error in answer["errors"]),
    ]
    is_invalid = answer["code"] in _INVALID
    more = f" (and {len(causes) - 1:,} more)" if len(causes) > 1 else ""
    return Problem(
        status=HTTPStatus.CONFLICT,
        code=answer["code"],
        category=Category.VALIDATION if is_invalid else Category.SCHEDULING,
        detail=f"Nothing was changed: {causes[0]}{more}",
        values=dict(answer),
    )
