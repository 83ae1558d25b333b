"""The steps of recovery, for whoever has phases of their own to bring up to date.

They take phase data of transitions, as the API has it, and touch nothing else: no
challenge is read or kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from django.db import IntegrityError

from recovery.results import Tally
from recovery.strategies import decider
from scheduling.adapters.challenge_service import challenge_service
from scheduling.adapters.patience import atomic_within
from scheduling.conf import recovery_settings
from scheduling.domain.actors import RECOVERY, Actor
from scheduling.domain.challenges import ACTIVE, Phase, Reading
from scheduling.domain.errors import SchedulingError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import (
    PhaseData,
    parse_id,
    parse_instant,
    read_phase_data,
)
from scheduling.domain.plan import Expected, Finding, plan_transitions
from scheduling.services.apply_challenge import limits_at
from scheduling.services.apply_changes import carry_out
from scheduling.services.compare import Change, Origin, Wanted, compare
from scheduling.services.unproven import Proven, searching_first

GivenPhase = PhaseData | Mapping[str, object]
MOST_TRIES: Final = 3
_REASON: Final = "recovery"


def scan_active_phases() -> list[PhaseData]:
    """Return each START and END that upstream wants and that has not happened yet.

    In due order; none where there is no Challenge service.

    Raises:
        ServiceUnavailableError: The list can't be read to its end.
    """
    service = challenge_service()
    if service is None:
        return []
    found = [
        _phase_data(Reading(challenge=challenge, source=_REASON), expected, due_at)
        for page in service.read_active()
        for challenge in page.challenges
        if challenge.is_active
        for expected in plan_transitions(Reading(challenge=challenge, source=_REASON))
        if (due_at := expected.due_at) is not None
    ]
    return sorted(found, key=lambda one: one.end_time)


def _phase_data(reading: Reading, expected: Expected, due_at: datetime) -> PhaseData:
    """Return what upstream wants as phase data."""
    challenge = reading.challenge
    return PhaseData(
        project_id=challenge.project_id,
        phase_id=expected.phase.phase_id,
        challenge_id=challenge.challenge_id,
        phase_type_name=expected.phase.name,
        state=expected.kind,
        end_time=due_at,
        operator=challenge.operator,
        project_status=challenge.status,
    )


def schedule_upcoming(phases: Iterable[GivenPhase], *, now: datetime) -> Tally:
    """Schedule, or move, the transitions that are due after `now`.

    Phase data that can't be understood is counted and named here, since it has no
    instant by which to tell whose it is; `process_overdue` passes over it.
    """
    tally = Tally()
    wanted = _read(phases, tally, now=now, is_overdue=False)
    _bring_up_to_date(wanted, tally, now=now)
    return tally


def process_overdue(phases: Iterable[GivenPhase], *, now: datetime) -> Tally:
    """Fire the transitions that were due by `now`, in due order, or expire them."""
    tally = Tally()
    wanted = _read(phases, tally, now=now, is_overdue=True)
    _bring_up_to_date(wanted, tally, now=now)
    return tally


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A transition that was given, and when it is due."""

    wanted: Wanted
    due_at: datetime


def _read(
    phases: Iterable[GivenPhase], tally: Tally, *, now: datetime, is_overdue: bool
) -> list[_Item]:
    """Return what was given and is meant, each transition once, in due order."""
    found: dict[tuple[str, str, str], _Item] = {}
    for given in phases:
        instant = _instant_of(given)
        if (instant is not None and instant <= now) is not is_overdue:
            continue
        try:
            data = read_phase_data(given)
        except SchedulingError as error:
            _leave_out(given, tally, error.detail)
            continue
        if data.project_status != ACTIVE:
            _leave_out(given, tally, f"its challenge is {data.project_status}, not ACTIVE")
            continue
        item = _item(data)
        first = found.setdefault(item.wanted.identity, item)
        if first is item:
            continue
        if first.due_at == item.due_at:
            tally.find(Finding.UNCHANGED, phase_id=data.phase_id)
        else:
            _leave_out(given, tally, "it is given twice, with different instants")
    return sorted(found.values(), key=lambda one: one.due_at)


def _instant_of(given: object) -> datetime | None:
    """Return the due instant of what was given; None where it has none."""
    if isinstance(given, PhaseData):
        return given.end_time
    try:
        return parse_instant(given.get("endTime") if isinstance(given, Mapping) else None)
    except ValueError:
        return None


def _leave_out(given: object, tally: Tally, reason: str) -> None:
    """Count and name what is not valid, as RECOVERY_SKIP_INVALID_PHASES wants it."""
    phase_id = ""
    if isinstance(given, PhaseData):
        phase_id = given.phase_id
    elif isinstance(given, Mapping):
        with suppress(ValueError):
            phase_id = parse_id(given.get("phaseId"))
    skips = recovery_settings().skip_invalid_phases
    tally.counts["skipped_phases" if skips else "failed_phases"] += 1
    tally.name(phase_id, reason)


def _item(data: PhaseData) -> _Item:
    """Return phase data as something wanted."""
    origin = Origin(
        project_id=data.project_id,
        challenge_id=data.challenge_id,
        operator=data.operator,
        project_status=data.project_status,
        reason=_REASON,
        metadata=data.metadata,
    )
    expected = Expected(
        phase=Phase(phase_id=data.phase_id, name=data.phase_type_name),
        kind=data.state,
        due_at=data.end_time,
        same_as=frozenset({data.end_time}),
    )
    return _Item(wanted=Wanted(origin=origin, expected=expected), due_at=data.end_time)


def _bring_up_to_date(items: Sequence[_Item], tally: Tally, *, now: datetime) -> None:
    """Carry out what differs, in batches; a batch that fails is done one by one."""
    left = iter(items)
    while batch := list(islice(left, recovery_settings().max_batch_size)):
        try:
            _carry_out([item.wanted for item in batch], tally, now=now)
        except (SchedulingError, IntegrityError):
            for item in batch:
                _carry_out_alone(item.wanted, tally, now=now)


def _carry_out_alone(wanted: Wanted, tally: Tally, *, now: datetime) -> None:
    """Carry out one transition, or count and name it."""
    try:
        _carry_out([wanted], tally, now=now)
    except (SchedulingError, IntegrityError) as error:
        phase_id = wanted.expected.phase.phase_id
        reason = error.detail if isinstance(error, SchedulingError) else "it keeps changing"
        tally.fail([phase_id], reason, transitions=1)


def _carry_out(wanted: Sequence[Wanted], tally: Tally, *, now: datetime) -> None:
    """Carry out and count in one transaction.

    Raises:
        ServiceUnavailableError: A job's outcome must be known first, and can't be now.
        IntegrityError: Others keep taking the identities.
    """
    actor: Actor = RECOVERY
    conf = recovery_settings()
    limits = limits_at(now, decide=decider(conf))

    def work(proven: Proven) -> list[Change]:
        with atomic_within(conf.period("phase_timeout")):
            changes = compare(wanted, limits=limits)
            return carry_out(wanted, changes, actor=actor, now=now, proven=proven)

    for change in _several_times(work, now=now):
        live = change.live
        fires = (
            live is not None
            and change.finding is Finding.UNCHANGED
            and live.current_status is TransitionStatus.SCHEDULED
            and live.due_at <= now
        )
        found = Finding.FIRE if fires else change.finding
        tally.find(found, phase_id=change.expected.phase.phase_id)


def _several_times(work: Any, *, now: datetime) -> list[Change]:
    """Do it, and again where another writer was faster.

    Raises:
        IntegrityError: Each time.
        ServiceUnavailableError: As `searching_first`.
    """
    for _ in range(MOST_TRIES - 1):
        try:
            changes: list[Change] = searching_first(work, now=now)
        except IntegrityError:
            continue
        return changes
    last: list[Change] = searching_first(work, now=now)
    return last
