"""Spans of time as people write them: `1h`, `-30 min`, `+1 d 2 h`."""

import re
from datetime import timedelta
from typing import Final

_SECONDS: Final = {
    "s": 1,
    "sec": 1,
    "m": 60,
    "min": 60,
    "h": 3_600,
    "d": 86_400,
    "w": 7 * 86_400,
}
_SPAN: Final = re.compile(
    r"\s*(?P<sign>[+\-\u2212])?\s*(?P<parts>(?:[0-9]{1,9}\s*[a-z]{1,3}\s*)+)", re.ASCII
)
_PART: Final = re.compile(r"([0-9]+)\s*([a-z]+)", re.ASCII)
LONGEST_SPAN: Final = timedelta(days=366)


def parse_span(text: str) -> timedelta:
    """Return the span that a text names: a sign, then numbers with s, min, h, d or w.

    Raises:
        ValueError: It names none, or none but zero, or one over a year.
    """
    found = _SPAN.fullmatch(text.lower())
    parts = _PART.findall(found["parts"]) if found else []
    if found is None or any(unit not in _SECONDS for _, unit in parts):
        raise ValueError("must be a span such as +1h, -30min or 1d 2h")
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in parts)
    if not seconds:
        raise ValueError("must be more than nothing")
    if seconds > LONGEST_SPAN.total_seconds():
        raise ValueError("must be at most a year")
    return timedelta(seconds=seconds if found["sign"] in {None, "+"} else -seconds)
