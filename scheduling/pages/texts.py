"""Instants, spans, lateness and numbers as the admin's pages write them.

Plain functions of values; `pages.shown` puts them into HTML, and `autopilot/admin.js`
keeps the relative ones true in the browser by the same rules.
"""

from datetime import UTC, datetime, timedelta

NARROW_SPACE = "\u202f"
NOTHING = "\u2013"
_SECOND, _MINUTE, _HOUR, _DAY = 1, 60, 3_600, 86_400
_MS = 1_000
# Below so many of the larger unit the smaller one is told as well.
_MINUTES_WITH_SECONDS = 10
_DAYS_IN_HOURS = 2
# Below so many milliseconds a tenth counts.
_MS_WITH_TENTHS = 10


def number_text(number: float) -> str:
    """Return a whole number in groups of three digits."""
    return f"{number:,.0f}".replace(",", NARROW_SPACE)


def instant_text(at: datetime, *, now: datetime, has_milliseconds: bool = False) -> str:
    """Return `Mon 23 Nov 14:05:00 UTC`, with the year where it isn't this one."""
    at = at.astimezone(UTC)
    year = "" if at.year == now.astimezone(UTC).year else f" {at.year}"
    milliseconds = f".{at.microsecond // _MS:03d}" if has_milliseconds else ""
    return f"{at:%a} {at.day} {at:%b}{year} {at:%H:%M:%S}{milliseconds} UTC"


def span_text(span: timedelta) -> str:
    """Return a span as `340 ms`, `12 s`, `3 min 20 s`, `34 min`, `5 h 10 min`, `3 d 4 h`.

    Args:
        span: Its sign is left out.
    """
    seconds = abs(span.total_seconds())
    if seconds < _SECOND:
        return f"{seconds * _MS:.0f} ms"
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        minutes, rest = divmod(whole, _MINUTE)
        has_seconds = rest and minutes < _MINUTES_WITH_SECONDS
        return f"{minutes} min" + (f" {rest} s" if has_seconds else "")
    if whole < _DAYS_IN_HOURS * _DAY:
        hours, rest = divmod(whole, _HOUR)
        minutes = rest // _MINUTE
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    days, rest = divmod(whole, _DAY)
    hours = rest // _HOUR
    return f"{days} d" + (f" {hours} h" if hours else "")


def relative_text(at: datetime, *, now: datetime, past: str = "ago") -> str:
    """Return `in 4 min`, `now` or `12 s ago`.

    Args:
        past: The word after a span that has passed: `late` for an instant that was due.
    """
    span = at - now
    if abs(span) < timedelta(seconds=1):
        return "now"
    return f"in {span_text(span)}" if span > timedelta() else f"{span_text(span)} {past}"


def lateness_text(lateness_ms: float | None) -> str:
    """Return a lateness: `2.4 ms`, `340 ms`, `1.23 s`, `3 min 20 s`, `12 s early`."""
    if lateness_ms is None:
        return NOTHING
    size = abs(lateness_ms)
    if size < _MS_WITH_TENTHS:
        text = f"{size:.1f} ms"
    elif size < _MS:
        text = f"{size:.0f} ms"
    elif size < _MINUTE * _MS:
        text = f"{size / _MS:.2f} s"
    else:
        text = span_text(timedelta(milliseconds=size))
    return text if lateness_ms >= 0 else f"{text} early"


def offset_text(at: datetime, *, start: datetime) -> str:
    """Return how long after another instant one is: `+2 ms`, `-340 ms`, `+3 min 20 s`."""
    span = at - start
    sign = "\u2212" if span < timedelta() else "+"
    ms = abs(span.total_seconds()) * _MS
    return sign + lateness_text(ms)


def count_text(number: int, noun: str) -> str:
    """Return `1 transition`, `12 transitions`."""
    return f"{number_text(number)} {noun}" + ("" if number == 1 else "s")
