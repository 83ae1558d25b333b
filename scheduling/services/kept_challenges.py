"""What was last read of each challenge: its row and its phases' rows, and how they change.

Rows are written only where something differs: a sweep that finds nothing new leaves
nothing behind. `read_at` so tells since when what is kept is known.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from scheduling import models
from scheduling.adapters.inserts import new_row
from scheduling.adapters.upserts import upsert_rows
from scheduling.domain.challenges import Challenge, Reading, Scope
from scheduling.domain.lifecycle import is_terminal_challenge_status

# How far ahead of ours another host's clock may be and still be believed.
LARGEST_CLOCK_ERROR = timedelta(minutes=5)
_LAST_POSITION = 32_767
# What makes a row another one; `read_at` goes with it.
_TOLD = (
    "project_id",
    "name",
    "status",
    "newest_message_at",
    "must_be_read_since",
)
_WHOLE_PHASE = (
    "template_id",
    "name",
    "position",
    "scheduled_start_at",
    "scheduled_end_at",
    "actual_start_at",
    "actual_end_at",
    "predecessor",
)
_ENDS_ONLY = ("name", "scheduled_end_at")
_COLUMNS = {Scope.WHOLE: _WHOLE_PHASE, Scope.ENDS: _ENDS_ONLY}
Values = tuple[Any, ...]


class Verdict(StrEnum):
    """What became of a reading.

    PLANNED: the challenge is active, and its jobs are as its phases want them.
    OVER: it has a terminal status; its jobs are cancelled.
    STALE: something newer was applied before, so it changed nothing.
    RECORDED: nothing follows for jobs: it is neither active nor over, no phases were
        told, or it was over before.
    """

    PLANNED = "planned"
    OVER = "over"
    STALE = "stale"
    RECORDED = "recorded"


@dataclass
class Kept:
    """One reading beside what is kept of its challenge.

    row: the challenge's row, brought up to the reading by `judge`.
    before: what the row said then; empty for one that is new.
    phases: what the phases' rows say, by phase id: their columns of `_WHOLE_PHASE`.
    """

    reading: Reading
    row: models.Challenge
    before: Values
    phases: Mapping[str, Values] = field(default_factory=dict)
    verdict: Verdict = Verdict.RECORDED

    @property
    def is_row_new(self) -> bool:
        """Whether the challenge's row has something to tell that is not kept yet."""
        return self.verdict is not Verdict.STALE and self.before != _values(self.row, _TOLD)

    @property
    def new_phases(self) -> list[models.Phase]:
        """The phases' rows that are to be written."""
        if self.verdict is Verdict.STALE:
            return []
        columns = _COLUMNS[self.reading.scope]
        places = [_WHOLE_PHASE.index(name) for name in columns]
        found = []
        for row in _phase_rows(self.row, self.reading.challenge):
            kept = self.phases.get(row.phase_id)
            if kept is None or [kept[n] for n in places] != list(_values(row, columns)):
                found.append(row)
        return found


def look_at_kept(readings: Sequence[Reading]) -> list[Kept]:
    """Return the readings beside what is kept, for a look that changes nothing."""
    rows = _rows(reading.challenge.challenge_id for reading in readings)
    for reading in readings:
        challenge = reading.challenge
        rows.setdefault(challenge.challenge_id, _empty_row(challenge))
    return _beside(readings, rows)


def hold_kept(readings: Sequence[Reading]) -> list[Kept]:
    """Lock each challenge's row, made where it is missing, and return what is kept.

    Whoever else applies something to the same challenge waits here. Rows are made and
    locked in one order by everybody, so that two never wait for each other.
    """
    by_id = {reading.challenge.challenge_id: reading.challenge for reading in readings}
    rows = _rows(by_id, must_lock=True)
    missing = sorted(by_id.keys() - rows.keys())
    if missing:
        upsert_rows(
            [_empty_row(by_id[challenge_id]) for challenge_id in missing],
            unique=["challenge_id"],
            update=[],
        )
        rows |= _rows(missing, must_lock=True)
    return _beside(readings, rows)


def _empty_row(challenge: Challenge) -> models.Challenge:
    """Return the row of a challenge of which nothing is known."""
    return models.Challenge(
        challenge_id=challenge.challenge_id, project_id=challenge.project_id, status=""
    )


def _rows(
    challenge_ids: Iterable[str], *, must_lock: bool = False
) -> dict[str, models.Challenge]:
    """Return the rows there are, locked until the transaction ends if they must be."""
    rows = models.Challenge.objects.filter(challenge_id__in=list(challenge_ids))
    if must_lock:
        rows = rows.select_for_update()
    return {row.challenge_id: row for row in rows.order_by("challenge_id")}


def _beside(
    readings: Sequence[Reading], rows: Mapping[str, models.Challenge]
) -> list[Kept]:
    """Return each reading beside its rows."""
    phases: dict[int, dict[str, Values]] = defaultdict(dict)
    keys = [row.pk for row in rows.values() if not row._state.adding]
    kept = models.Phase.objects.filter(challenge_id__in=keys).order_by()
    for key, phase_id, *values in kept.values_list(
        "challenge_id", "phase_id", *_WHOLE_PHASE
    ):
        phases[key][phase_id] = tuple(values)
    found = []
    for reading in readings:
        row = rows[reading.challenge.challenge_id]
        # A row that nobody has read anything into yet is as good as none.
        before = _values(row, _TOLD) if row.status else ()
        found.append(
            Kept(
                reading=reading,
                row=row,
                before=before,
                phases={} if row._state.adding else phases[row.pk],
            )
        )
    return found


def _values(row: Any, names: Sequence[str]) -> Values:
    """Return these columns of a row."""
    return tuple(getattr(row, name) for name in names)


def judge(kept: Sequence[Kept], *, now: datetime) -> None:
    """Decide what each reading means, and bring its challenge's row up to it."""
    for item in kept:
        reading, row = item.reading, item.row
        if _is_stale(reading, row):
            item.verdict = Verdict.STALE
            continue
        was_over = is_terminal_challenge_status(row.status)
        status = reading.challenge.status
        is_over = is_terminal_challenge_status(status)
        if is_over:
            item.verdict = Verdict.OVER
        elif reading.challenge.is_active and reading.challenge.phases and not was_over:
            item.verdict = Verdict.PLANNED
        if is_over or not was_over:
            # What is over stays so: a later message that says otherwise was produced
            # by somebody who did not know yet.
            row.status = status
        _update_row(row, reading, now=now)


def _is_stale(reading: Reading, row: models.Challenge) -> bool:
    """Tell whether something newer was applied before; of equals the later wins."""
    if reading.asked_at is not None and row.read_at is not None:
        return row.read_at > reading.asked_at
    return (
        reading.said_at is not None
        and row.newest_message_at is not None
        and reading.said_at < row.newest_message_at
    )


def _believable(said_at: datetime | None, now: datetime) -> datetime | None:
    """Return when something was said; now, where that lies too far ahead.

    One record of a clock that is wrong must not make all later ones of its challenge old.
    """
    is_too_far_ahead = said_at is not None and said_at > now + LARGEST_CLOCK_ERROR
    return now if is_too_far_ahead else said_at


def _update_row(row: models.Challenge, reading: Reading, *, now: datetime) -> None:
    """Note what the reading says of the challenge itself."""
    challenge = reading.challenge
    row.project_id = challenge.project_id
    row.name = challenge.name or row.name
    row.read_at = now
    row.newest_message_at = _believable(reading.said_at, now) or row.newest_message_at
    is_in_need = challenge.is_active and not is_terminal_challenge_status(row.status)
    if not is_in_need or (challenge.phases and reading.scope is Scope.WHOLE):
        row.must_be_read_since = None
    elif not challenge.phases and reading.asked_at is None:
        # Something changed, and we were not told what.
        row.must_be_read_since = row.must_be_read_since or now


def keep_what_is_new(kept: Sequence[Kept]) -> None:
    """Write the rows that have something to tell, in the caller's transaction."""
    phases = {
        scope: [
            row for item in kept if item.reading.scope is scope for row in item.new_phases
        ]
        for scope in Scope
    }
    upsert_rows(
        [item.row for item in kept if item.is_row_new],
        unique=["challenge_id"],
        update=[*_TOLD, "read_at"],
    )
    for scope, rows in phases.items():
        upsert_rows(rows, unique=["challenge", "phase_id"], update=_COLUMNS[scope])


def _phase_rows(row: models.Challenge, challenge: Challenge) -> list[models.Phase]:
    """Return the phases as rows."""
    return [
        new_row(
            models.Phase,
            challenge_id=row.pk,
            phase_id=phase.phase_id,
            template_id=phase.template_id,
            name=phase.name,
            position=min(position, _LAST_POSITION),
            scheduled_start_at=phase.scheduled_start_at,
            scheduled_end_at=phase.scheduled_end_at,
            actual_start_at=phase.actual_start_at,
            actual_end_at=phase.actual_end_at,
            predecessor=phase.predecessor,
        )
        for position, phase in enumerate(challenge.phases)
    ]
