"""The life of a job: its statuses, and which change is allowed (contract, section 2).

The rules stand three times on purpose: here as a table to read, in the services as
guarded updates, and on the table as database constraints.
"""

from enum import StrEnum


class TransitionStatus(StrEnum):
    """Where a job stands.

    SCHEDULED waits for its instant, or for its next attempt. A schedule, an update, a
    given-back claim or a failed attempt puts it there; a claim, a cancel or an expiry
    moves it on.
    RUNNING is claimed by a worker that publishes it; its lease says until when.
    COMPLETED is acknowledged by the broker.
    FAILED has used up its attempts; an operator retries or cancels it.
    CANCELLED will never be published.
    EXPIRED was found too old to publish; an operator runs or cancels it.
    """

    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class TransitionKind(StrEnum):
    """Which end of the phase (the wire's `state`)."""

    START = "START"
    END = "END"


LIVE = frozenset({TransitionStatus.SCHEDULED, TransitionStatus.RUNNING})
FINAL = frozenset(TransitionStatus) - LIVE

S = TransitionStatus
ALLOWED_CHANGES: dict[TransitionStatus, frozenset[TransitionStatus]] = {
    # An operator's cancel, a claim, or an expiry; completed when an earlier attempt of
    # unknown outcome is found on the topic.
    S.SCHEDULED: frozenset({S.RUNNING, S.CANCELLED, S.EXPIRED, S.COMPLETED}),
    # Acknowledged; given back or retried; out of attempts.
    S.RUNNING: frozenset({S.COMPLETED, S.SCHEDULED, S.FAILED}),
    S.COMPLETED: frozenset(),
    # `retry` makes a new job and leaves this one; `cancel` deals with it; completed when
    # an attempt of unknown outcome turns out to be on the topic after all.
    S.FAILED: frozenset({S.CANCELLED, S.COMPLETED}),
    S.CANCELLED: frozenset(),
    # `run-now` revives it; `cancel` deals with it.
    S.EXPIRED: frozenset({S.SCHEDULED, S.CANCELLED}),
}


def may_change(old: TransitionStatus, new: TransitionStatus) -> bool:
    """Tell whether a job may go from `old` to `new`."""
    return new in ALLOWED_CHANGES[old]


def is_terminal_challenge_status(status: str) -> bool:
    """Tell whether a challenge of that status is over (contract, section 1)."""
    return status in {"COMPLETED", "DELETED", "CANCELLED"} or status.startswith(
        "CANCELLED_"
    )
