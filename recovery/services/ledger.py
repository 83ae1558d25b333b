"""What a run counts and names, and what a dry run would do."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from recovery.results import INVALID, Tally
from recovery.services.observing import Observer, PlannedChange
from scheduling.adapters.challenge_service import Unreadable
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.plan import NEEDS_A_JOB, TOUCHES_A_JOB, Finding
from scheduling.models import ScheduledTransition
from scheduling.services.apply_challenge import Applied
from scheduling.services.compare import Change
from scheduling.services.kept_challenges import Verdict

_CHANGES: Final = NEEDS_A_JOB | TOUCHES_A_JOB


class Ledger:
    """Counts each transition of each challenge once.

    firing: keys of scheduled jobs whose instant has passed. They fire by themselves, and
        are counted once all else is: some belong to no challenge that is listed.
    """

    def __init__(self, tally: Tally, *, observer: Observer, is_dry: bool) -> None:
        self.tally = tally
        self.firing: set[int] = set()
        self._observer = observer
        self._is_dry = is_dry

    def count(self, applied: Applied, *, now: datetime) -> None:
        """Count each transition of a reading, by what was found then."""
        challenge = applied.reading.challenge
        self.tally.counts["cancelled_jobs"] += len(applied.cancelled)
        if applied.verdict in {Verdict.STALE, Verdict.RECORDED}:
            self.tally.counts["unchanged_phases"] += 2 * len(challenge.phases)
        for change in applied.differences:
            if change.live is not None and _fires_by_itself(change, now=now):
                self.firing.add(change.live.pk)
                continue
            phase_id = change.expected.phase.phase_id
            why = _why(change) if change.finding in INVALID else ""
            self.tally.find(change.finding, phase_id=phase_id, why=why)
        if self._is_dry:
            self._tell(_planned(applied))

    def skip(self, challenge_id: str, phases: Iterable[Unreadable]) -> None:
        """Count phases that are left out of their challenge: both ends of each."""
        for phase in phases:
            self.tally.counts["skipped_phases"] += 2
            self.tally.name(phase.phase_id, f"challenge {challenge_id}: {phase.reason}")

    def refuse(self, applied: Applied, invalid: Sequence[Unreadable]) -> None:
        """Count a whole challenge as failed because of phases that are not valid."""
        challenge = applied.reading.challenge
        wrong = {
            change.expected.phase.phase_id: _why(change)
            for change in applied.differences
            if change.finding in INVALID
        }
        # Several may have no readable id.
        told = [(one.phase_id, one.reason) for one in invalid] + list(wrong.items())
        for phase_id, reason in told:
            self.tally.fail([phase_id], reason)
        good = [one.phase_id for one in challenge.phases if one.phase_id not in wrong]
        self.tally.fail(good, "another phase of its challenge is not valid")

    def fail_unreadable(self, challenge: Unreadable) -> None:
        """Count a challenge that nobody can understand; nobody knows how many phases."""
        name = challenge.challenge_id or "without a readable id"
        self.tally.fail([""], f"challenge {name}: {challenge.reason}", transitions=1)

    def would_expire(self, jobs: Iterable[ScheduledTransition]) -> None:
        """Tell of live jobs that a dry run would expire."""
        self._tell(_planned_of_jobs(jobs, Finding.EXPIRE))

    def _tell(self, changes: Iterable[PlannedChange]) -> None:
        """Tell whoever waits what would be done."""
        for change in changes:
            self._observer.would_change(change)


def is_invalid(applied: Applied) -> bool:
    """Tell whether a challenge has a phase that can't be meant as it is."""
    return any(change.finding in INVALID for change in applied.differences)


def _fires_by_itself(change: Change, *, now: datetime) -> bool:
    """Tell whether the transition has a scheduled job whose instant has passed."""
    live = change.live
    return (
        live is not None
        and change.finding in {Finding.UNCHANGED, Finding.OVERRIDDEN}
        and live.current_status is TransitionStatus.SCHEDULED
        and live.forced_at is None
        and live.due_at < now
    )


def _why(change: Change) -> str:
    """Return what is wrong with a transition's phase."""
    return change.expected.contradiction or (
        f"upstream gives no instant for its {change.expected.kind.value}"
    )


def _planned(applied: Applied) -> Iterable[PlannedChange]:
    """Yield what would be changed of one challenge."""
    challenge = applied.reading.challenge
    for change in applied.differences:
        if change.finding in _CHANGES:
            yield PlannedChange(
                project_id=challenge.project_id,
                phase_id=change.expected.phase.phase_id,
                phase_name=change.expected.phase.name,
                kind=change.expected.kind,
                finding=change.finding,
                old_due_at=change.live.due_at if change.live else None,
                new_due_at=change.expected.due_at,
            )
    if applied.cancelled:
        jobs = ScheduledTransition.objects.filter(job_id__in=applied.cancelled)
        yield from _planned_of_jobs(jobs, Finding.CANCEL)


def _planned_of_jobs(
    jobs: Iterable[ScheduledTransition], finding: Finding
) -> Iterable[PlannedChange]:
    """Yield what would be done with live jobs."""
    for job in jobs:
        yield PlannedChange(
            project_id=job.project_id,
            phase_id=job.phase_id,
            phase_name=job.phase_type_name,
            kind=job.kind,
            finding=finding,
            old_due_at=job.due_at,
        )
