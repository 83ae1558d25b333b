"""One service call or one query per endpoint (contract, section 4)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from typing_extensions import override

from scheduling.api.answers import (
    change_job,
    changed_job,
    check_job_id,
    find_job,
    job_response,
    with_operator,
)
from scheduling.api.authentication import actor_of
from scheduling.api.base import ApiView
from scheduling.api.conditional import entity_tag, not_modified, precondition_of
from scheduling.api.errors import NOTHING_HERE
from scheduling.api.paging import PAGE_PARAMETERS, show_page
from scheduling.api.schema import (
    CONTENT_LOCATION,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    JOB_ID,
    LIST_PARAMETERS,
    LOCATION,
    NOT_MODIFIED,
    PHASE_DATA_PROBLEMS,
    SCHEDULE_EXAMPLE,
    SUCCESSOR,
    UPDATE_EXAMPLE,
    responses,
)
from scheduling.api.serializers import (
    AuditEntrySerializer,
    JobPageSerializer,
    JobSerializer,
    JobWithArchiveSerializer,
    PhaseDataSerializer,
    UpdateSerializer,
)
from scheduling.domain.actors import Operation
from scheduling.domain.errors import JobNotFoundError, JobNotUpdatableError
from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry
from scheduling.queries import FILTERS, camel_case, list_jobs, show_job
from scheduling.queries.audit import show_audit_entry
from scheduling.queries.jobs import search_in_due_order
from scheduling.services.cancel import read_reason
from scheduling.services.schedule import schedule_transition
from scheduling.services.update import has_values, read_update, update_transition

_FILTER_NAMES = {camel_case(name): name for name in FILTERS} | {"ordering": "ordering"}


class TransitionList(ApiView):
    """All jobs, and the door to schedule one."""

    operations: ClassVar[Mapping[str, Operation]] = {"POST": Operation.SCHEDULE}
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
        now = timezone.now()
        found = search_in_due_order(filters, now=now)
        if found is not None:
            return Response(show_page(found, request, show=show_job))
        jobs = list_jobs(filters, now=now, live_by_default=False)
        return Response(show_page(jobs, request, show=show_job))

    @extend_schema(
        operation_id="scheduleTransition",
        summary="Schedule a transition",
        description="Makes a job that publishes the transition at `endTime`. Where the "
        "same transition (`projectId`, `phaseId`, `state`) is scheduled for the same "
        "instant already, that job is the answer, with its own values in all other fields; "
        "at another instant it is a conflict. How the phases of a challenge follow each "
        "other is not looked at here, but by `schedule-adjustments/`.",
        request=PhaseDataSerializer,
        examples=[SCHEDULE_EXAMPLE],
        parameters=[ETAG, LOCATION, CONTENT_LOCATION],
        responses=responses(
            *PHASE_DATA_PROBLEMS,
            "duplicate_job",
            "conflict",
            is_read=False,
            status_200=JobSerializer,
            status_201=JobSerializer,
        ),
        tags=["transitions"],
    )
    def post(self, request: Request) -> Response:
        """Schedule a transition."""
        data = with_operator(request.data, request)
        made = self.made_before([data])
        if made:
            job, _ = find_job(made[0])
            return job_response(job, request, status=HTTPStatus.CREATED)
        scheduled = schedule_transition(data, actor=actor_of(request), now=timezone.now())
        status = HTTPStatus.CREATED if scheduled.is_new else HTTPStatus.OK
        return job_response(scheduled.job, request, status=status)


class TransitionDetail(ApiView):
    """One job, for ever, and the door to change it."""

    operations: ClassVar[Mapping[str, Operation]] = {"PATCH": Operation.UPDATE}

    @extend_schema(
        operation_id="getTransition",
        summary="Show a job",
        description="Also after clean-up: the audit keeps the job whole. Its `ETag` may "
        "be given back as `If-None-Match` here, and as `If-Match` to change the job.",
        parameters=[JOB_ID, IF_MATCH, IF_NONE_MATCH, ETAG],
        responses=responses(
            "job_not_found",
            "precondition_failed",
            is_read=True,
            status_200=JobWithArchiveSerializer,
        )
        | NOT_MODIFIED,
        tags=["transitions"],
    )
    def get(self, request: Request, jobId: str) -> HttpResponseBase:  # noqa: N803 -- wire name
        """Return a job."""
        check_job_id(jobId)
        job, archived_at = find_job(jobId)
        precondition_of(request, archived_at=archived_at)(job)
        tag = entity_tag(job, archived_at=archived_at)
        shown_at = None if archived_at is None else format_instant(archived_at)
        return not_modified(request, tag) or Response(
            {**show_job(job), "archivedAt": shown_at}, headers={"ETag": tag}
        )

    @extend_schema(
        operation_id="updateTransition",
        summary="Move or change a job",
        description="Cancels the scheduled job and makes a new one in its place, in one "
        "step, audited as `transition.updated` and `transition.scheduled`; the answer is "
        "the new job, with `replaces`. Where nothing differs the answer is the job as it "
        "is. A refused change leaves the job as it was. How the phases of a challenge "
        "follow each other is not looked at here, but by `schedule-adjustments/`.",
        parameters=[JOB_ID, IF_MATCH, ETAG, CONTENT_LOCATION],
        request=UpdateSerializer,
        examples=[UPDATE_EXAMPLE],
        responses=responses(
            *(code for code in PHASE_DATA_PROBLEMS if code != "invalid_phase_data"),
            "job_not_found",
            "job_not_updatable",
            "conflict",
            "precondition_failed",
            is_read=False,
            shown=SUCCESSOR | {"endTime": UPDATE_EXAMPLE.value["endTime"]},
            status_200=JobSerializer,
        ),
        tags=["transitions"],
    )
    def patch(self, request: Request, jobId: str) -> Response:  # noqa: N803 -- wire name
        """Replace a job by one with other values."""
        check_job_id(jobId)
        changes = dict(request.data)
        reason = changes.pop("reason", None)
        if reason is not None:
            reason = read_reason(reason)
        update = read_update(changes)
        return change_job(
            jobId,
            request,
            change=lambda: update_transition(
                job_id=jobId,
                update=update,
                actor=actor_of(request),
                now=timezone.now(),
                reason=reason or "",
                precondition=precondition_of(request),
            ),
            refusal=JobNotUpdatableError,
            # The same user may have moved it elsewhere since.
            was_done=self.was_done("transition.updated", job_id=jobId)
            and has_values(changed_job(jobId), update),
        )


class TransitionAudit(ApiView):
    """What happened to one job."""

    @extend_schema(
        operation_id="listTransitionAudit",
        summary="Show what happened to a job",
        description="Its audit records, oldest first; also after clean-up.",
        parameters=[JOB_ID],
        responses=responses(
            "job_not_found", is_read=True, status_200=AuditEntrySerializer(many=True)
        ),
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


@extend_schema(exclude=True)
class NothingHere(APIView):
    """Answers for every path under /api/ that is none of the API's, whatever the method."""

    authentication_classes = ()
    permission_classes = ()
    # `Allow` is to name none.
    http_method_names = []

    @override
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse.

        Raises:
            NotFound: Always.
        """
        hint = "" if request.path.endswith("/") else " Paths of the API end with a slash."
        raise NotFound(f"{NOTHING_HERE}{hint}")
