"""What an operator does to one job beside moving it: cancel, run now, retry."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.api.answers import change_job, check_job_id
from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView, check_fields
from scheduling.api.conditional import precondition_of
from scheduling.api.schema import (
    CANCELLED,
    CONTENT_LOCATION,
    ETAG,
    IF_MATCH,
    JOB_ID,
    REASON_EXAMPLE,
    SUCCESSOR,
    WANTED_NOW,
    responses,
)
from scheduling.api.serializers import JobSerializer, ReasonSerializer
from scheduling.domain.actors import Operation
from scheduling.domain.errors import (
    JobNotCancellableError,
    JobNotRetryableError,
    JobNotRunnableError,
    SchedulingError,
)
from scheduling.models import ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.retry import retry_transition
from scheduling.services.run_now import run_transition_now


def _describe(
    operation_id: str,
    *,
    summary: str,
    description: str,
    refusal: str,
    status: int,
    shown: Mapping[str, Any],
) -> Callable[[Any], Any]:
    """Return what describes one of the operations, which differ in little."""
    return extend_schema(
        operation_id=operation_id,
        summary=summary,
        description=description,
        parameters=[JOB_ID, IF_MATCH, ETAG, CONTENT_LOCATION],
        request=ReasonSerializer,
        examples=[REASON_EXAMPLE],
        responses=responses(
            "job_not_found",
            refusal,
            "conflict",
            "precondition_failed",
            is_read=False,
            shown=shown,
            **{f"status_{status}": JobSerializer},
        ),
        tags=["transitions"],
    )


class _Override(ApiView):
    """The door to one service that asks for a job and a reason.

    service: called with job id, actor, reason, instant and precondition.
    action: what the audit calls its effect.
    refusal: what it raises for a job in another status.
    success: the status of the answer.
    """

    service: ClassVar[Callable[..., ScheduledTransition]]
    action: ClassVar[str]
    refusal: ClassVar[type[SchedulingError]]
    success: ClassVar[int] = HTTPStatus.OK

    def _override(self, request: Request, job_id: str) -> Response:
        """Change the job and answer with what it is now."""
        check_job_id(job_id)
        check_fields(request.data, known=frozenset({"reason"}))
        return change_job(
            job_id,
            request,
            change=lambda: type(self).service(
                job_id=job_id,
                actor=actor_of(request),
                reason=request.data.get("reason"),
                now=timezone.now(),
                precondition=precondition_of(request),
            ),
            refusal=self.refusal,
            was_done=self.was_done(self.action, job_id=job_id),
            status=self.success,
        )


class TransitionCancel(_Override):
    """The door to cancel a job."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.CANCEL}
    service = staticmethod(cancel_transition)
    action = "transition.cancelled"
    refusal = JobNotCancellableError

    @_describe(
        "cancelTransition",
        summary="Cancel a job",
        description="From scheduled, expired or failed; a cancelled job never fires.",
        refusal="job_not_cancellable",
        status=200,
        shown=CANCELLED,
    )
    def post(self, request: Request, jobId: str) -> Response:  # noqa: N803 -- wire name
        """Cancel a job."""
        return self._override(request, jobId)


class TransitionRunNow(_Override):
    """The door to fire a job before its instant, or although it expired."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.RUN_NOW}
    service = staticmethod(run_transition_now)
    action = "transition.run_now"
    refusal = JobNotRunnableError
    success = HTTPStatus.ACCEPTED

    @_describe(
        "runTransitionNow",
        summary="Fire a job now",
        description="From scheduled or expired, without waiting for its instant or for "
        "earlier jobs of its key. The answer comes before the event is published: read "
        "the job again to see it completed.",
        refusal="job_not_runnable",
        status=202,
        shown=WANTED_NOW,
    )
    def post(self, request: Request, jobId: str) -> Response:  # noqa: N803 -- wire name
        """Fire a job now."""
        return self._override(request, jobId)


class TransitionRetry(_Override):
    """The door to try a failed job again."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.RETRY}
    service = staticmethod(retry_transition)
    action = "transition.retried"
    refusal = JobNotRetryableError
    success = HTTPStatus.ACCEPTED

    @_describe(
        "retryTransition",
        summary="Try a failed job again",
        description="Makes a new job with the same `eventId`, which fires at once; the "
        "answer is the new job, with `replaces`. Where the event turns out to be on the "
        "topic already it is not published a second time.",
        refusal="job_not_retryable",
        status=202,
        shown=SUCCESSOR,
    )
    def post(self, request: Request, jobId: str) -> Response:  # noqa: N803 -- wire name
        """Try a failed job again."""
        return self._override(request, jobId)
