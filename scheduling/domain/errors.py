"""Every expected error of the product: one family, each with a stable code.

A door (API, admin, command, consumer) translates the family exactly once; unexpected
errors travel up with their traceback.
"""

from enum import StrEnum
from typing import Any, ClassVar


class Category(StrEnum):
    """The original's four categories (contract, section 3)."""

    VALIDATION = "validation"
    SCHEDULING = "scheduling"
    NETWORK = "network"
    SYSTEM = "system"


class SchedulingError(Exception):
    """Something expected stands in the way of the request."""

    code: ClassVar[str] = "scheduling_error"
    category: ClassVar[Category] = Category.SCHEDULING

    def __init__(self, detail: str, **values: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.values = values


# Wrong fields of one thing that are named one by one.
MOST_TOLD = 50


class WrongFieldsError(SchedulingError):
    """Something that cannot be understood; `errors` names each field and cause."""

    category = Category.VALIDATION

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        if (more := len(errors) - MOST_TOLD) > 0:
            # An answer shall not be many times what was sent.
            errors = [*errors[:MOST_TOLD], ("", f"and {more:,} more")]
        # Without a field it is about the whole.
        told = (f"{field}: {message}" if field else message for field, message in errors)
        super().__init__("; ".join(told), errors=errors)
        self.errors = errors


class InvalidPhaseDataError(WrongFieldsError):
    """Phase data that cannot be understood."""

    code = "invalid_phase_data"


class InvalidScheduleTimeError(SchedulingError):
    """The instant is unreadable or has no zone."""

    code = "invalid_schedule_time"
    category = Category.VALIDATION


class OutsideWindowError(SchedulingError):
    """The due instant is none at which callers may schedule."""

    category = Category.VALIDATION

    def __init__(self, instant: str, why: str) -> None:
        super().__init__(f"endTime {instant} {why}", errors=[("endTime", why)])
        # For those who call the field otherwise.
        self.told = f"{instant} {why}"


class PastScheduleTimeError(OutsideWindowError):
    """The due instant is past, and scheduling in the past is not allowed."""

    code = "past_schedule_time"


class ScheduleTooSoonError(OutsideWindowError):
    """The due instant is nearer than SCHEDULER_MIN_SCHEDULE_ADVANCE."""

    code = "schedule_too_soon"


class ScheduleTooFarError(OutsideWindowError):
    """The due instant is farther than SCHEDULER_MAX_SCHEDULE_ADVANCE."""

    code = "schedule_too_far"


class InvalidRequestError(WrongFieldsError):
    """An argument beside the phase data (a reason, a filter) is not acceptable."""

    code = "invalid_request"


class OperationNotPermittedError(SchedulingError):
    """The actor's role may not do this."""

    code = "permission_denied"


class JobNotFoundError(SchedulingError):
    """No job has that id."""

    code = "job_not_found"


class DuplicateJobError(SchedulingError):
    """The identity already has a live job, at another instant; `job_id` is its id."""

    code = "duplicate_job"

    def __init__(self, job_id: str, instant: str = "") -> None:
        due = f", due {instant}" if instant else ""
        super().__init__(
            f"the transition is already scheduled as {job_id}{due}", jobId=job_id
        )
        self.job_id = job_id


class JobNotCancellableError(SchedulingError):
    """The job is running, completed or cancelled, or became so meanwhile."""

    code = "job_not_cancellable"


class JobNotUpdatableError(SchedulingError):
    """The job is no longer scheduled, or became so meanwhile."""

    code = "job_not_updatable"


class JobNotRunnableError(SchedulingError):
    """The job is neither scheduled nor expired, or its identity has another live job."""

    code = "job_not_runnable"


class JobNotRetryableError(SchedulingError):
    """The job has not failed, was dealt with, or its identity has another live job."""

    code = "job_not_retryable"


class PreconditionFailedError(SchedulingError):
    """The job is no longer as the caller last saw it, and the caller insists on that."""

    code = "precondition_failed"


class ConflictError(SchedulingError):
    """The request contradicts another one, or what became of its subject since.

    `retry_after_seconds`, where given, says when the same request may be tried again.
    """

    code = "conflict"


class DeadLetterNotFoundError(SchedulingError):
    """No dead letter has that id."""

    code = "not_found"


class ChallengeNotFoundError(SchedulingError):
    """No challenge of that id was ever read."""

    code = "not_found"


class RecoveryRunNotFoundError(SchedulingError):
    """No run of recovery has that id."""

    code = "not_found"


class BreakerNotFoundError(SchedulingError):
    """No circuit breaker has that name."""

    code = "not_found"


class DeadLetterSettledError(SchedulingError):
    """The dead letter was replayed or discarded already."""

    code = "conflict"


class ServiceUnavailableError(SchedulingError):
    """A neighbour needed for a safe answer is out of reach; ask again later."""

    code = "service_unavailable"
    category = Category.NETWORK

    def __init__(self, detail: str, *, retry_after_seconds: int = 5) -> None:
        super().__init__(detail, retry_after_seconds=retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds
