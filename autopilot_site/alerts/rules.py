"""Which conditions somebody is to be told of; pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from autopilot_site.health import CheckStatus, Health
from autopilot_site.health.facts import DatabaseFacts
from autopilot_site.health.judgement import STARTING
from recovery.results import RunStatus
from scheduling.models.circuit_breaker import CLOSED

# More failed jobs than these are told together.
MOST_SINGLE_JOBS: Final = 20
# Checks of the health that are told as they are; the others have rules of their own.
TOLD_CHECKS: Final = ("kafka", "scheduler", "clock", "disk")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something that holds now. `key` is the same for as long as it does."""

    key: str
    rule: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class FailedJob:
    """A job that failed for good, and that nobody has dealt with."""

    job_id: str
    state: str
    phase_id: str


def find_conditions(
    database: DatabaseFacts,
    health: Health,
    *,
    failed: Sequence[FailedJob],
    violations: int,
    overdue_seconds: int,
) -> list[Condition]:
    """Return all that somebody is to be told of.

    Args:
        failed: Up to one more than `MOST_SINGLE_JOBS` of them.
        violations: How many the last verification found.
        overdue_seconds: From when on an overdue job is told of.
    """
    return [
        *_overdue(database, overdue_seconds=overdue_seconds),
        *_failed(failed),
        *_breakers(database),
        *_recovery(database),
        *_checks(health),
        *_verification(violations),
    ]


def _overdue(database: DatabaseFacts, *, overdue_seconds: int) -> Iterator[Condition]:
    """Tell of jobs that ought to have fired."""
    seconds = database.jobs.oldest_overdue_seconds
    if seconds > overdue_seconds:
        yield Condition(
            key="overdue",
            rule="overdue",
            summary=f"{database.jobs.overdue} overdue, the oldest by {seconds:.0f} s",
        )


def _failed(failed: Sequence[FailedJob]) -> Iterator[Condition]:
    """Tell of each job that failed for good, or of all together where they are many."""
    for job in failed[:MOST_SINGLE_JOBS]:
        yield Condition(
            key=f"job failed:{job.job_id}",
            rule="job failed",
            summary=f"{job.job_id} ({job.state} of phase {job.phase_id}) has failed for "
            "good: mend the cause and retry it, or cancel it",
        )
    if len(failed) > MOST_SINGLE_JOBS:
        yield Condition(
            key="jobs failed",
            rule="job failed",
            summary="more jobs have failed for good than can be told one by one",
        )


def _breakers(database: DatabaseFacts) -> Iterator[Condition]:
    """Tell of circuit breakers that hold calls back."""
    for breaker in database.breakers:
        if breaker.state != CLOSED:
            yield Condition(
                key=f"breaker:{breaker.name}",
                rule="breaker",
                summary=f"the circuit breaker {breaker.name} has opened",
            )


def _recovery(database: DatabaseFacts) -> Iterator[Condition]:
    """Tell of a failed run, until one has succeeded."""
    if not database.runs:
        return
    last = database.runs[0]
    if last.status in {RunStatus.FAILED, RunStatus.TIMED_OUT}:
        yield Condition(
            key="recovery",
            rule="recovery failed",
            summary=f"the last run of recovery ended {last.status.value}",
        )


def _checks(health: Health) -> Iterator[Condition]:
    """Tell of what is missing or wrong beside: a silent consumer or cluster, a clock."""
    for name in TOLD_CHECKS:
        check = health.checks.get(name)
        if check is None or check.status is CheckStatus.UP:
            continue
        # Overdue jobs have a rule, and a limit, of their own; a start is no trouble.
        causes = [
            one
            for one in check.detail.split("; ")
            if " overdue, " not in one and one != STARTING
        ]
        if causes:
            yield Condition(key=f"check:{name}", rule=name, summary="; ".join(causes))


def _verification(violations: int) -> Iterator[Condition]:
    """Tell of broken promises, until a verification finds none."""
    if violations:
        yield Condition(
            key="verify",
            rule="verify",
            summary=f"`manage.py verify` has found {violations} violations",
        )
