"""One service call or one query per endpoint (contract, section 4)."""

import re
from typing import Any, cast

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView
from typing_extensions import override

from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView, check_fields
from scheduling.api.history import find_archived, show_audit_entry
from scheduling.api.paging import PAGE_PARAMETERS, show_page
from scheduling.api.schema import (
    JOB_ID,
    LIST_PARAMETERS,
    REASON_EXAMPLE,
    SCHEDULE_EXAMPLE,
    responses,
)
from scheduling.api.serializers import (
    AuditEntrySerializer,
    JobPageSerializer,
    JobSerializer,
    JobWithArchiveSerializer,
    PhaseDataSerializer,
    ReasonSerializer,
)
from scheduling.domain.errors import JobNotCancellableError, JobNotFoundError
from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.queries import FILTERS, camel_case, list_jobs, show_job
from scheduling.services.cancel import cancel_transition
from scheduling.services.schedule import schedule_transition

_FILTER_NAMES = {camel_case(name): name for name in FILTERS} | {"ordering": "ordering"}
# What job ids are made of; anything else names no job, and may not fit a column.
_JOB_ID = re.compile(r"[A-Za-z0-9-]{1,128}")


class TransitionList(ApiView):
    """All jobs, and the door to schedule one."""

    query_parameters = (*_FILTER_NAMES, *PAGE_PARAMETERS)
    repeatable = frozenset({"status"})

    @extend_schema(
        operation_id="listTransitions",
        summary="List jobs",
        description="Jobs of every status unless filtered, in the order of their due "
        "instants. All filters must hold.",
        parameters=LIST_PARAMETERS,
        responses=responses(404, is_read=True, status_200=JobPageSerializer),
        tags=["transitions"],
    )
    def get(self, request: Request) -> Response:
        """Return a page of jobs."""
        query = request.query_params
        filters: dict[str, Any] = {
            _FILTER_NAMES[name]: values if name in self.repeatable else values[0]
            for name, values in query.lists()
            if name in _FILTER_NAMES
        }
        jobs = list_jobs(filters, now=timezone.now(), live_by_default=False)
        return Response(show_page(jobs, request, show=show_job))

    @extend_schema(
        operation_id="scheduleTransition",
        summary="Schedule a transition",
        description="Makes a job that publishes the transition at `endTime`. Where the "
        "same transition is scheduled for the same instant already, that job is the "
        "answer; at another instant it is a conflict.",
        request=PhaseDataSerializer,
        examples=[SCHEDULE_EXAMPLE],
        responses=responses(
            409, is_read=False, status_200=JobSerializer, status_201=JobSerializer
        ),
        tags=["transitions"],
    )
    def post(self, request: Request) -> Response:
        """Schedule a transition."""
        data = dict(request.data)
        if data.get("operator") is None:
            data["operator"] = request.user.get_username()
        scheduled = schedule_transition(data, actor=actor_of(request), now=timezone.now())
        job = scheduled.job
        if not scheduled.is_new:
            return Response(show_job(job))
        address = reverse("transition", kwargs={"jobId": job.job_id}, request=request)
        return Response(
            show_job(job), status=status.HTTP_201_CREATED, headers={"Location": address}
        )


class TransitionDetail(ApiView):
    """One job, for ever."""

    @extend_schema(
        operation_id="getTransition",
        summary="Show a job",
        description="Also after clean-up: the audit keeps the job whole.",
        parameters=[JOB_ID],
        responses=responses(404, is_read=True, status_200=JobWithArchiveSerializer),
        tags=["transitions"],
    )
    def get(self, request: Request, jobId: str) -> Response:  # noqa: N803 -- wire name
        """Return a job."""
        check_job_id(jobId)
        job = ScheduledTransition.objects.filter(job_id=jobId).first()
        if job is not None:
            return Response({**show_job(job), "archivedAt": None})
        archived = find_archived(jobId)
        if archived is None:
            raise JobNotFoundError(f"there is no job {jobId}", jobId=jobId)
        job, at = archived
        return Response({**show_job(job), "archivedAt": format_instant(at)})


class TransitionCancel(ApiView):
    """The door to cancel a job."""

    @extend_schema(
        operation_id="cancelTransition",
        summary="Cancel a job",
        description="From scheduled, expired or failed; a cancelled job never fires.",
        parameters=[JOB_ID],
        request=ReasonSerializer,
        examples=[REASON_EXAMPLE],
        responses=responses(404, 409, is_read=False, status_200=JobSerializer),
        tags=["transitions"],
    )
    def post(self, request: Request, jobId: str) -> Response:  # noqa: N803 -- wire name
        """Cancel a job."""
        check_job_id(jobId)
        actor = actor_of(request)
        check_fields(request.data, known=frozenset({"reason"}))
        try:
            job = cancel_transition(
                job_id=jobId,
                actor=actor,
                # Whatever it is: the service reads it after it has asked for the role.
                reason=cast("str", request.data.get("reason")),
                now=timezone.now(),
            )
        except JobNotFoundError:
            archived = find_archived(jobId)
            if archived is None:
                raise
            old = archived[0].status
            raise JobNotCancellableError(
                f"job {jobId} is {old}, was cleaned up and can't be cancelled", status=old
            ) from None
        return Response(show_job(job))


class TransitionAudit(ApiView):
    """What happened to one job."""

    @extend_schema(
        operation_id="listTransitionAudit",
        summary="Show what happened to a job",
        description="Its audit records, oldest first; also after clean-up.",
        parameters=[JOB_ID],
        responses=responses(404, is_read=True, status_200=AuditEntrySerializer(many=True)),
        tags=["transitions"],
    )
    def get(self, request: Request, jobId: str) -> Response:  # noqa: N803 -- wire name
        """Return a job's audit records."""
        check_job_id(jobId)
        entries = AuditEntry.objects.filter(job_id=jobId).order_by("id")
        records = [show_audit_entry(entry) for entry in entries.iterator()]
        if not records:
            raise JobNotFoundError(f"there is no job {jobId}", jobId=jobId)
        return Response(records)


def check_job_id(job_id: str) -> None:
    """Refuse what can't be any job's id.

    Raises:
        JobNotFoundError: It has another form.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise JobNotFoundError("no job has an id of that form")


@extend_schema(exclude=True)
class NothingHere(APIView):
    """Answers for every path under /api/ that is none of the API's, whatever the method."""

    authentication_classes = ()
    permission_classes = ()

    @override
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse.

        Raises:
            NotFound: Always.
        """
        hint = "" if request.path.endswith("/") else " Paths of the API end with a slash."
        raise NotFound(f"There is nothing at this path.{hint}")
