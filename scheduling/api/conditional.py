"""Optimistic concurrency: a job's `ETag`, and what a request demands by it.

Two who change one job from what they saw have one winner: the services ask the
precondition of the locked row (RFC 9110, sections 8.8.3 and 13).
"""

import hashlib
import json
from datetime import datetime

from django.http import HttpResponseNotModified
from django.utils.http import parse_etags
from rest_framework.request import Request

from scheduling.domain.errors import PreconditionFailedError
from scheduling.domain.phases import format_instant
from scheduling.models import ScheduledTransition
from scheduling.queries import show_job
from scheduling.services.cancel import Precondition, any_state

# What never changes in the life of a job; databases give numbers in it back in other
# spellings than they were given.
_CONSTANT = "metadata"
_DIGITS = 32


def entity_tag(job: ScheduledTransition, *, archived_at: datetime | None = None) -> str:
    """Return the strong tag of a job as it stands: another one after any change of it."""
    shown = {name: value for name, value in show_job(job).items() if name != _CONSTANT}
    # To the microsecond: two changes may fall into one millisecond.
    shown["updatedAt"] = job.updated_at.isoformat()
    if archived_at is not None:
        shown["archivedAt"] = format_instant(archived_at)
    text = json.dumps(shown, sort_keys=True)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"'


def precondition_of(
    request: Request, *, archived_at: datetime | None = None
) -> Precondition:
    """Return what `If-Match` demands of a job; without the header, nothing.

    `*` is content with any job. Tags are compared strongly, so that a weak one, like one
    that is no tag at all, matches none.

    Args:
        archived_at: When the job that is asked about was archived.
    """
    header = request.headers.get("If-Match")
    if header is None:
        return any_state
    tags = parse_etags(header)

    def check(job: ScheduledTransition) -> None:
        if tags == ["*"] or entity_tag(job, archived_at=archived_at) in tags:
            return
        if not tags:
            raise PreconditionFailedError(
                'If-Match has no tag: send the ETag as it came, with its quotes (")',
                jobId=job.job_id,
            )
        if all(tag.startswith("W/") for tag in tags):
            raise PreconditionFailedError(
                "If-Match compares strongly: send the ETag as it came, without W/",
                jobId=job.job_id,
            )
        raise PreconditionFailedError(
            f"job {job.job_id} is not, or no longer, as If-Match demands: read it again",
            jobId=job.job_id,
        )

    return check


def not_modified(request: Request, tag: str) -> HttpResponseNotModified | None:
    """Return 304 where the reader has what `tag` names (`If-None-Match`), else None.

    Tags are compared weakly here.
    """
    header = request.headers.get("If-None-Match")
    if header is None:
        return None
    known = [one.removeprefix("W/") for one in parse_etags(header)]
    if known != ["*"] and tag not in known:
        return None
    return HttpResponseNotModified(headers={"ETag": tag})
