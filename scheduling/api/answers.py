"""Answers that are one job: with its tag, and where it is."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from scheduling.api.conditional import entity_tag, precondition_of
from scheduling.domain.errors import JobNotFoundError, SchedulingError
from scheduling.models import ScheduledTransition
from scheduling.queries import show_job
from scheduling.queries.archive import find_archived

# What job ids are made of; anything else names no job, and may not fit a column.
_JOB_ID = re.compile(r"[A-Za-z0-9-]{1,128}")


def check_job_id(job_id: str) -> None:
    """Refuse what can't be any job's id.

    Raises:
        JobNotFoundError: It has another form.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise JobNotFoundError("no job has an id of that form")


def with_operator(data: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Return phase data whose operator is the login name where it names none."""
    if data.get("operator") is None:
        return {**data, "operator": request.user.get_username()}
    return dict(data)


def job_response(
    job: ScheduledTransition, request: Request, *, status: int = HTTPStatus.OK
) -> Response:
    """Answer with a job that the request made, changed or found.

    `Content-Location` says which job it is: an update or a retry answers with another
    one than the path names, and the tag is that job's.
    """
    address = reverse("transition", kwargs={"jobId": job.job_id}, request=request)
    headers = {"ETag": entity_tag(job), "Content-Location": address}
    if status == HTTPStatus.CREATED:
        headers["Location"] = address
    return Response(show_job(job), status=status, headers=headers)


def change_job(
    job_id: str,
    request: Request,
    *,
    change: Callable[[], ScheduledTransition],
    refusal: type[SchedulingError],
    was_done: bool,
    status: int = HTTPStatus.OK,
) -> Response:
    """Change a job and answer with what it is now.

    Args:
        change: Calls the service.
        was_done: It was changed by an earlier try of the same request.
        refusal: The error that the service raises for a job in another status. One that
            was cleaned up is refused in the same way: it is final for ever.

    Raises:
        JobNotFoundError: There is no such job and never was.
        PreconditionFailedError: A cleaned-up job is not as If-Match demands.
        All that the service raises.
    """
    if was_done:
        return job_response(changed_job(job_id), request, status=status)
    try:
        job = change()
    except JobNotFoundError:
        archived = find_archived(job_id)
        if archived is None:
            raise
        job, at = archived
        precondition_of(request, archived_at=at)(job)
        raise refusal(
            f"job {job_id} is {job.status}, was cleaned up and can't be changed",
            status=job.status,
        ) from None
    return job_response(job, request, status=status)


def find_job(job_id: str) -> tuple[ScheduledTransition, datetime | None]:
    """Return a job, and when it was cleaned up.

    Raises:
        JobNotFoundError: There is no such job and never was.
    """
    job = ScheduledTransition.objects.filter(job_id=job_id).first()
    if job is not None:
        return job, None
    archived = find_archived(job_id)
    if archived is None:
        raise JobNotFoundError(f"there is no job {job_id}", jobId=job_id)
    return archived


def changed_job(job_id: str) -> ScheduledTransition:
    """Return what stands in place of a job that was changed: its successor, or itself."""
    job, _ = find_job(job_id)
    return find_job(job.replaced_by)[0] if job.replaced_by else job
