"""A challenge's phases over time as an SVG picture: values in, text out.

All x are percentages and all y are pixels, so that the picture takes the width there is
while its texts keep their size. Colours come from classes (static/scheduling/gantt.css)
and from the text's own colour; no status is told by its colour alone. It is one image
for whoever can't see it: the page tells the same facts in a table.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Final

from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.domain.texts import printable

ROW_HEIGHT: Final = 46
BAR_HEIGHT: Final = 14
# A row is its phase's name, and below it the bars.
_NAME_BASELINE: Final = 14
_BAR_TOP: Final = 22
_AXIS_HEIGHT: Final = 34
MOST_GRID_LINES: Final = 6
# What a bar without length is still seen by, in per cent.
_LEAST_WIDTH: Final = 0.4
# Left and right of the first and last instant, as a share of what is between them.
_MARGIN: Final = 0.03
_DAY: Final = 86_400
_GRID_STEPS: Final = (
    *(60, 300, 900, 1_800, 3_600, 3 * 3_600, 6 * 3_600, 12 * 3_600),
    *(_DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY, 91 * _DAY, 365 * _DAY),
    *(3_650 * _DAY, 36_500 * _DAY, 182_500 * _DAY, 365_000 * _DAY, 730_000 * _DAY),
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Shown beside a tick whose job did not, or will not, happen.
_SIGNS: Final[Mapping[TransitionStatus, str]] = {
    TransitionStatus.FAILED: "!",
    TransitionStatus.EXPIRED: "!",
    TransitionStatus.CANCELLED: "×",  # noqa: RUF001 -- a cross is meant
}


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A job of a phase: which end of it, when, and how the job stands."""

    kind: TransitionKind
    at: datetime
    status: TransitionStatus


@dataclass(frozen=True, kw_only=True)
class Row:
    """One phase; an instant that nobody knows is None.

    predecessor: `phase_id` of the row that this one follows, or empty.
    moved_start_at, moved_end_at: where the phase would be after a change that is only
        tried out.
    """

    phase_id: str
    name: str
    planned_start_at: datetime | None = None
    planned_end_at: datetime | None = None
    actual_start_at: datetime | None = None
    actual_end_at: datetime | None = None
    predecessor: str = ""
    moved_start_at: datetime | None = None
    moved_end_at: datetime | None = None
    ticks: Sequence[Tick] = field(default=())

    @property
    def is_contradictory(self) -> bool:
        """Whether the phase is said to end before it starts."""
        pairs = (
            (self.planned_start_at, self.planned_end_at),
            (self.actual_start_at, self.actual_end_at),
        )
        return any(start and end and end < start for start, end in pairs)


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Instants to per cent of the width. lowest, highest: seconds since 1970."""

    lowest: float
    highest: float

    @classmethod
    def of(cls, rows: Sequence[Row], *, now: datetime) -> "_Scale":
        """Return the scale that shows all of the rows, and now where it is not far off."""
        found = [_seconds(instant) for row in rows for instant in _instants(row)]
        at = _seconds(now)
        lowest, highest = min(found, default=at), max(found, default=at)
        span = max(highest - lowest, 60.0)
        if lowest - span <= at <= highest + span:
            lowest, highest = min(lowest, at), max(highest, at)
        margin = max(highest - lowest, 60.0) * _MARGIN
        return cls(lowest=lowest - margin, highest=highest + margin)

    def shows(self, instant: datetime) -> bool:
        """Tell whether the instant lies in the picture."""
        return self.lowest <= _seconds(instant) <= self.highest

    def at(self, instant: datetime) -> float:
        """Return an instant's place, 0 to 100."""
        share = (_seconds(instant) - self.lowest) / (self.highest - self.lowest)
        return min(100.0, max(0.0, share * 100))

    @property
    def step(self) -> int:
        """Return the seconds between two lines of the grid."""
        span = self.highest - self.lowest
        return next(
            (one for one in _GRID_STEPS if span / one <= MOST_GRID_LINES), _GRID_STEPS[-1]
        )

    def grid(self) -> Sequence[datetime]:
        """Return a few round instants, in order."""
        first, last = int(self.lowest // self.step) + 1, int(self.highest // self.step)
        found = (_instant(number * self.step) for number in range(first, last + 1))
        return [instant for instant in found if instant is not None]


def draw_gantt(rows: Sequence[Row], *, now: datetime, label_id: str = "gantt") -> str:
    """Return the picture of the phases as an `svg` element, all texts escaped.

    Args:
        rows: One a phase, from top to bottom.
        label_id: Of the picture's title; another one for a second picture of a page.
    """
    scale = _Scale.of(rows, now=now)
    height = _AXIS_HEIGHT + ROW_HEIGHT * len(rows) + 6
    name = escape(label_id, quote=True)
    parts = [
        f'<svg class="gantt" role="img" width="100%" height="{height}" '
        f'aria-labelledby="{name}-title {name}-desc" xmlns="http://www.w3.org/2000/svg">',
        f'<title id="{name}-title">Phases over time</title>',
        f'<desc id="{name}-desc">{_text(_describe(rows, scale, now=now))}</desc>',
        *_draw_grid(scale, height=height),
        *_draw_now(scale, now=now, height=height),
        *_draw_arrows(rows, scale),
    ]
    for number, row in enumerate(rows):
        parts += _draw_row(row, scale, top=_top(number))
    return "".join([*parts, "</svg>"])


def _describe(rows: Sequence[Row], scale: _Scale, *, now: datetime) -> str:
    """Return the picture in words; the table beside it has every instant."""
    count = f"{len(rows)} phase{'' if len(rows) == 1 else 's'}"
    undated = sum(1 for row in rows if next(_instants(row), None) is None)
    contradictory = sum(1 for row in rows if row.is_contradictory)
    told = [f"{count}, each with its planned and its actual time."]
    if undated:
        told.append(f"{undated} without any instant.")
    if contradictory:
        told.append(f"{contradictory} said to end before the start.")
    if not scale.shows(now):
        told.append("The present lies outside of the picture.")
    told.append("The table that follows holds the same facts.")
    return " ".join(told)


# --- The parts ------------------------------------------------------------------------
def _draw_grid(scale: _Scale, *, height: int) -> Iterator[str]:
    """Yield the lines of round instants with their labels, in UTC."""
    day = None
    for instant in scale.grid():
        x = _percent(scale.at(instant))
        yield (
            f'<line class="gantt-grid" x1="{x}" x2="{x}" y1="{_AXIS_HEIGHT - 4}" '
            f'y2="{height}"/>'
        )
        if scale.step < _DAY:
            yield _label(x, 12, f"{instant:%H:%M}")
        if (date := _date(instant, step=scale.step)) != day:
            yield _label(x, 26, date)
        day = date


def _draw_now(scale: _Scale, *, now: datetime, height: int) -> Iterator[str]:
    """Yield the line of the present, where it lies in the picture."""
    if scale.shows(now):
        x = _percent(scale.at(now))
        yield (
            f'<line class="gantt-now" x1="{x}" x2="{x}" y1="{_AXIS_HEIGHT - 4}" '
            f'y2="{height}"><title>now</title></line>'
        )


def _draw_row(row: Row, scale: _Scale, *, top: int) -> Iterator[str]:
    """Yield a phase: its name, its bars, and its jobs' ticks."""
    yield f'<g class="gantt-row"><title>{_text(row.name)}</title>'
    yield (
        f'<text class="gantt-name" x="0" y="{top + _NAME_BASELINE}">{_text(row.name)}'
        f"</text>"
    )
    y = top + _BAR_TOP
    if next(_instants(row), None) is None:
        yield f'<text class="gantt-note" x="0" y="{y + 11}">no instants known</text>'
    wrong = " gantt-contradictory" if row.is_contradictory else ""
    yield _bar(
        f"gantt-planned{wrong}",
        scale,
        row.planned_start_at,
        row.planned_end_at,
        y=y,
        height=BAR_HEIGHT,
    )
    yield _bar(
        f"gantt-actual{wrong}",
        scale,
        row.actual_start_at,
        row.actual_end_at,
        y=y + 4,
        height=BAR_HEIGHT - 8,
    )
    yield _bar(
        "gantt-moved",
        scale,
        row.moved_start_at,
        row.moved_end_at,
        y=y - 2,
        height=BAR_HEIGHT + 4,
    )
    for tick in row.ticks:
        yield _draw_tick(tick, scale, y=y)
    yield "</g>"


def _bar(
    name: str,
    scale: _Scale,
    start: datetime | None,
    end: datetime | None,
    *,
    y: int,
    height: int,
) -> str:
    """Return a bar; of a time of which one end is not known, a mark at the other."""
    known = [scale.at(one) for one in (start, end) if one is not None]
    if not known:
        return ""
    left, width = min(known), max(max(known) - min(known), _LEAST_WIDTH)
    is_open = " gantt-open" if len(known) == 1 else ""
    return (
        f'<rect class="{name}{is_open}" x="{_percent(left)}" y="{y}" '
        f'width="{_percent(width)}" height="{height}" rx="2"/>'
    )


def _draw_tick(tick: Tick, scale: _Scale, *, y: int) -> str:
    """Return a job's mark: a triangle for a START, a square for an END."""
    shape = (
        "M0 -6 L7 0 L0 6 Z" if tick.kind is TransitionKind.START else "M-6 -5 H0 V5 H-6 Z"
    )
    told = f"{tick.kind} {tick.status}, due {_full(tick.at)}"
    sign = _SIGNS.get(tick.status)
    beside = f'<text class="gantt-sign" y="-8">{sign}</text>' if sign else ""
    return (
        f'<svg class="gantt-tick" x="{_percent(scale.at(tick.at))}" '
        f'y="{y + BAR_HEIGHT // 2}" overflow="visible">'
        f'<g class="gantt-job gantt-{tick.status.value}"><title>{_text(told)}</title>'
        f'<path d="{shape}"/>{beside}</g></svg>'
    )


def _draw_arrows(rows: Sequence[Row], scale: _Scale) -> Iterator[str]:
    """Yield an arrow from the end of each predecessor to the start of what follows it."""
    numbers = {row.phase_id: number for number, row in enumerate(rows)}
    for number, row in enumerate(rows):
        before = numbers.get(row.predecessor) if row.predecessor else None
        if before is None or before == number:
            continue
        ends_at = _first(rows[before].planned_end_at, rows[before].actual_end_at)
        begins_at = _first(row.planned_start_at, row.planned_end_at, row.actual_start_at)
        if ends_at is None or begins_at is None:
            continue
        is_below = number > before
        x, tip = _percent(scale.at(ends_at)), _percent(scale.at(begins_at))
        y = _top(before) + _BAR_TOP + BAR_HEIGHT // 2
        tip_y = _top(number) + _BAR_TOP + (0 if is_below else BAR_HEIGHT)
        back = -6 if is_below else 6
        yield (
            f'<g class="gantt-arrow"><line x1="{x}" y1="{y}" x2="{tip}" y2="{y}"/>'
            f'<line x1="{tip}" y1="{y}" x2="{tip}" y2="{tip_y}"/>'
            f'<svg x="{tip}" y="{tip_y}" overflow="visible">'
            f'<path d="M-4 {back} L0 0 L4 {back}"/></svg></g>'
        )


def _label(x: str, y: int, text: str) -> str:
    """Return a label of the axis."""
    return f'<text class="gantt-axis" x="{x}" y="{y}">{_text(text)}</text>'


# --- Values ---------------------------------------------------------------------------
def _instants(row: Row) -> Iterator[datetime]:
    """Yield the instants that are known of a row."""
    ends: Iterable[datetime | None] = (
        *(row.planned_start_at, row.planned_end_at),
        *(row.actual_start_at, row.actual_end_at),
        *(row.moved_start_at, row.moved_end_at),
        *(tick.at for tick in row.ticks),
    )
    yield from (one for one in ends if one is not None)


def _first(*instants: datetime | None) -> datetime | None:
    """Return the first instant that is known."""
    return next((one for one in instants if one is not None), None)


def _seconds(instant: datetime) -> float:
    """Return the seconds since 1970; negative before."""
    return (instant - _EPOCH) / timedelta(seconds=1)


def _instant(seconds: float) -> datetime | None:
    """Return the instant; None beyond the calendar."""
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return None


def _top(number: int) -> int:
    """Return where a row begins, in pixels."""
    return _AXIS_HEIGHT + ROW_HEIGHT * number


def _percent(value: float) -> str:
    """Return a place as an attribute's value."""
    return f"{value:.2f}%"


def _date(instant: datetime, *, step: int) -> str:
    """Return a day as the axis shows it: the less exact, the farther the lines apart."""
    if step >= 365 * _DAY:
        return f"{instant.year:04d}"
    if step >= 30 * _DAY:
        return f"{instant:%b} {instant.year:04d}"
    return f"{instant.day} {instant:%b}"


def _full(instant: datetime) -> str:
    """Return an instant in words, in UTC."""
    at = instant.astimezone(UTC)
    return f"{at:%a} {at.day} {at:%b} {at.year:04d} {at:%H:%M:%S} UTC"


def _text(text: str) -> str:
    """Return a text for an element's content; what can't be seen is an escape."""
    return escape(printable(text), quote=True)
