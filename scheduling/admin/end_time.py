"""The new instant as an operator types it: `+1h`, `14:30`, or ISO 8601 with a zone."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from scheduling.domain.errors import InvalidScheduleTimeError
from scheduling.domain.phases import parse_instant
from scheduling.pages.texts import span_text

HELP = (
    "An instant such as 2030-03-07T17:00:00Z, a time of day in UTC such as 14:30, or a "
    "span such as +1h, -15min or +1h30m."
)
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "sec": timedelta(seconds=1),
}
_PART = re.compile(r"(\d{1,6})\s*(min|sec|[dhms])", re.ASCII)
_SPAN = re.compile(r"([+\-\u2212])\s*((?:\d{1,6}\s*(?:min|sec|[dhms])\s*)+)", re.ASCII)
_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_LONGEST = 64


@dataclass(frozen=True, kw_only=True)
class EndTime:
    """What was understood: an instant for all, or a span that moves each by itself.

    understood: in words, for whoever typed it.
    """

    at: datetime | None = None
    span: timedelta | None = None
    understood: str

    def for_one(self, base: datetime) -> datetime:
        """Return the instant for what is due at `base`.

        Raises:
            InvalidScheduleTimeError: It lies outside the calendar.
        """
        if self.at is not None:
            return self.at
        try:
            return base + (self.span or timedelta())
        except OverflowError:
            raise InvalidScheduleTimeError(
                "the span leads outside the calendar", errors=[]
            ) from None


def read_end_time(text: str, *, now: datetime, is_from_now: bool) -> EndTime:
    """Return what an operator typed.

    Args:
        is_from_now: Whether a span counts from now, and not from each job's instant.

    Raises:
        InvalidScheduleTimeError: It is none of the forms; says which there are.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise InvalidScheduleTimeError(HELP, errors=[("end_time", HELP)])
    for read in (_read_span, _read_time_of_day):
        found = read(text, now=now, is_from_now=is_from_now)
        if found is not None:
            return found
    try:
        return EndTime(at=parse_instant(text), understood="that instant")
    except ValueError as error:
        raise InvalidScheduleTimeError(
            f"this is none. {HELP}", errors=[("end_time", str(error))]
        ) from None


def _read_span(text: str, *, now: datetime, is_from_now: bool) -> EndTime | None:
    """Return what a span says; None for what is none."""
    match = _SPAN.fullmatch(text)
    if match is None:
        return None
    span = sum(
        (int(number) * _UNITS[unit] for number, unit in _PART.findall(match[2])),
        timedelta(),
    )
    span = span if match[1] == "+" else -span
    if is_from_now:
        try:
            at = now + span
        except OverflowError:
            raise InvalidScheduleTimeError(
                "the span leads outside the calendar", errors=[]
            ) from None
        return EndTime(at=_cut(at), understood=f"{span_text(span)} from now")
    direction = "later" if span >= timedelta() else "earlier"
    return EndTime(
        span=span, understood=f"each {span_text(span)} {direction} than it is due now"
    )


def _read_time_of_day(text: str, *, now: datetime, is_from_now: bool) -> EndTime | None:
    """Return the next instant at a time of day, UTC; None for what is none."""
    match = _TIME_OF_DAY.fullmatch(text)
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.groups())
    at = now.astimezone(UTC).replace(hour=hour, minute=minute, second=second, microsecond=0)
    if at > now:
        return EndTime(at=at, understood=f"today at {text} UTC")
    return EndTime(at=at + timedelta(days=1), understood=f"tomorrow at {text} UTC")


def _cut(at: datetime) -> datetime:
    """Return an instant in whole milliseconds."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
