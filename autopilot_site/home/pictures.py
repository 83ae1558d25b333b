"""The home page's small pictures: plain SVG, coloured by the style sheet alone."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from autopilot_site.home.day import PER_DECADE
from scheduling.pages.texts import lateness_text

SPARK_WIDTH: Final = 120
SPARK_HEIGHT: Final = 28
WIDTH: Final = 720
HEIGHT: Final = 180
_FLOOR: Final = 150
_TOP: Final = 12
# The axis: 1 ms to one minute.
_FIRST_MS: Final = 1.0
_LAST_MS: Final = 60_000.0
_TICKS: Final = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 60_000.0)


def sparkline(values: Sequence[float | None]) -> str:
    """Return the points of a line through the values; an unknown one is left out."""
    known = [(at, value) for at, value in enumerate(values) if value is not None]
    if len(known) < 2:  # noqa: PLR2004 -- a line needs two points
        return ""
    most = max(value for _, value in known) or 1.0
    across = SPARK_WIDTH / max(1, len(values) - 1)
    usable = SPARK_HEIGHT - 4
    return " ".join(
        f"{at * across:.1f},{SPARK_HEIGHT - 2 - usable * value / most:.1f}"
        for at, value in known
    )


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of the histogram, with what it stands for."""

    x: float
    y: float
    width: float
    height: float
    is_late: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Lateness on a logarithmic axis, and where the objective lies on it."""

    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    slo_x: float


def draw_histogram(lateness: Counter[int], *, slo_ms: float) -> Histogram:
    """Draw the histogram; what lies outside the axis stands at its ends."""
    first = math.floor(math.log10(_FIRST_MS) * PER_DECADE)
    last = math.ceil(math.log10(_LAST_MS) * PER_DECADE)
    shown: Counter[int] = Counter()
    for bucket, count in lateness.items():
        shown[min(max(bucket, first), last)] += count
    most = max(shown.values(), default=1)
    width = WIDTH / (last - first + 1)
    bars = []
    for bucket, count in sorted(shown.items()):
        height = max(2.0, (_FLOOR - _TOP) * count / most)
        low, high = 10 ** (bucket / PER_DECADE), 10 ** ((bucket + 1) / PER_DECADE)
        bars.append(
            Bar(
                x=round((bucket - first) * width + 1, 1),
                y=round(_FLOOR - height, 1),
                width=round(width - 2, 1),
                height=round(height, 1),
                is_late=low >= slo_ms,
                title=f"{count:,} from {lateness_text(low)} to {lateness_text(high)}",
            )
        )
    return Histogram(
        bars=bars,
        ticks=[(_x(at), _tick_text(at)) for at in _TICKS],
        slo_x=_x(min(max(slo_ms, _FIRST_MS), _LAST_MS)),
    )


def _x(at_ms: float) -> float:
    """Return where a lateness lies on the axis."""
    first = math.floor(math.log10(_FIRST_MS) * PER_DECADE)
    last = math.ceil(math.log10(_LAST_MS) * PER_DECADE)
    width = WIDTH / (last - first + 1)
    return round((math.log10(at_ms) * PER_DECADE - first) * width, 1)


def _tick_text(at_ms: float) -> str:
    """Return a tick's label."""
    if at_ms >= 60_000:  # noqa: PLR2004 -- a minute
        return "1 min"
    return f"{at_ms / 1_000:.0f} s" if at_ms >= 1_000 else f"{at_ms:.0f} ms"  # noqa: PLR2004
