"""One example of each problem that the API answers with, for the OpenAPI document."""

from typing import Any

from scheduling.api.errors import (
    NOTHING_HERE,
    of_scheduling_error,
    plain,
    problem_of,
    unexpected,
)
from scheduling.domain import errors
from scheduling.domain.errors import SchedulingError

_JOB = "job-1893456000000-12345-67890"
_WRONG_ID = (
    "projectId",
    "must be a positive integer up to 9007199254740991 or a UUID string",
)
_WRONG_TIME = "endTime: has no zone: end it with Z or an offset such as +02:00"
_FAMILY: tuple[SchedulingError, ...] = (
    errors.InvalidPhaseDataError([_WRONG_ID, ("state", "must be START or END")]),
    errors.InvalidScheduleTimeError(
        _WRONG_TIME, errors=[("endTime", _WRONG_TIME.partition(": ")[2])]
    ),
    errors.PastScheduleTimeError("2020-01-01T00:00:00.000Z", "is in the past"),
    errors.ScheduleTooSoonError("2030-01-01T00:00:00.500Z", "is less than 1000 ms ahead"),
    errors.ScheduleTooFarError(
        "2040-01-01T00:00:00.000Z", "is more than 7776000000 ms ahead"
    ),
    errors.InvalidRequestError([("reason", "is required")]),
    errors.OperationNotPermittedError(
        "the role viewer may not schedule: that takes the role operator",
        operation="schedule",
        role="viewer",
    ),
    errors.JobNotFoundError(f"there is no job {_JOB}", jobId=_JOB),
    errors.DuplicateJobError(_JOB, "2030-01-01T00:00:00.000Z"),
    errors.JobNotCancellableError(
        f"job {_JOB} is completed and can't be cancelled", status="completed"
    ),
    errors.JobNotUpdatableError(
        f"job {_JOB} is cancelled and can't be updated", status="cancelled"
    ),
    errors.JobNotRunnableError(
        f"job {_JOB} is completed and can't be run", status="completed"
    ),
    errors.JobNotRetryableError(
        f"job {_JOB} is scheduled and can't be retried", status="scheduled"
    ),
    errors.PreconditionFailedError(
        f"job {_JOB} is not, or no longer, as If-Match demands: read it again", jobId=_JOB
    ),
    errors.ConflictError(
        "the Idempotency-Key was given with another request; use a new key"
    ),
    errors.ServiceUnavailableError("the topic can't be searched now"),
)
_OTHERS = (
    plain(401, "Authentication credentials were not provided."),
    plain(404, NOTHING_HERE),
    plain(406, "Could not satisfy the request Accept header."),
    plain(413, "The body must hold at most 262,144 bytes."),
    plain(415, 'Unsupported media type "text/plain" in request. Send application/json.'),
    plain(429, "Request was throttled. Expected available in 5 seconds."),
    unexpected("5f0c2d3e8a9b4c7d8e9f0a1b2c3d4e5f"),
)


def _bodies() -> dict[str, dict[str, Any]]:
    """Return the body of each, by code."""
    family = [problem for error in _FAMILY if (problem := problem_of(error)) is not None]
    return {problem.code: problem.body() for problem in (*family, *_OTHERS)}


PROBLEM_EXAMPLES = _bodies()
# What is wrong with a request that has no body.
WRONG_QUERY = of_scheduling_error(
    errors.InvalidRequestError(
        [("foo", "is not a known query parameter; known are: page, pageSize")]
    )
).body()
