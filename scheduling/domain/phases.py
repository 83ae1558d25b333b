"""Phase data, ids and instants: what a caller may say about one transition.

Rules of contract.md, section 1. Nothing is guessed: what is not exactly one of the
accepted forms is refused with the field's name and the cause.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from scheduling.domain.errors import InvalidPhaseDataError, InvalidScheduleTimeError
from scheduling.domain.lifecycle import TransitionKind

LARGEST_ID = 2**53 - 1
LONGEST_TEXT = 255
LONGEST_REASON = 2_000
LARGEST_METADATA_BYTES = 64 * 1024
DEEPEST_NESTING = 64

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Extended calendar format only: week dates, ordinal dates and the basic format are
# legal ISO 8601, but easily mistyped, and other parsers read them differently.
_INSTANT = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt](?P<hour>\d{2}):\d{2}(:\d{2}([.,]\d{1,9})?)?"
    r"(?P<zone>[Zz]|[+-](?P<offset_hour>\d{2})(:?(?P<offset_minute>\d{2}))?)?",
    # Otherwise \d takes the digits of every script.
    re.ASCII,
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# An integer id as text: its one spelling.
_PLAIN_NUMBER = re.compile(r"[1-9][0-9]{0,15}")


def parse_id(value: object) -> str:
    """Return the canonical text of an id: decimal digits, or a lower-case UUID.

    Raises:
        ValueError: Not a positive integer up to 2^53-1, nor a UUID string.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if 1 <= value <= LARGEST_ID:
            return str(value)
    elif isinstance(value, UUID):
        return str(value)
    elif isinstance(value, str) and _UUID.fullmatch(value):
        return value.lower()
    raise ValueError(f"must be a positive integer up to {LARGEST_ID} or a UUID string")


def wire_id(text: str) -> int | str:
    """Return an id as it came in: an integer as integer, a UUID as text."""
    return int(text) if text.isdigit() else text


def parse_query_id(text: str) -> str:
    """Return the canonical id of a command-line or query argument, always text.

    Raises:
        ValueError: As `parse_id`.
    """
    return parse_id(int(text) if _PLAIN_NUMBER.fullmatch(text) else text)


def parse_instant(value: object) -> datetime:
    """Return the aware UTC instant, cut to the millisecond.

    Args:
        value: ISO 8601 text with `Z` or an offset, or an aware datetime.

    Raises:
        ValueError: Unreadable, impossible, or without a zone.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError("has no zone: end it with Z or an offset such as +02:00")
        instant = value
    else:
        instant = _read_instant(value)
    try:
        instant = instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the calendar once brought to UTC") from None
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def _read_instant(value: object) -> datetime:
    """Return the datetime that the text names."""
    match = _INSTANT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            "must be an ISO 8601 instant with a zone, such as 2026-03-07T17:00:00.000Z"
        )
    if match["zone"] is None:
        raise ValueError("has no zone: end it with Z or an offset such as +02:00")
    try:
        _check_ranges(match)
        return datetime.fromisoformat(match[0].replace(",", ".").upper())
    except ValueError as error:
        raise ValueError(f"is not a possible instant ({error})") from None


def _check_ranges(match: re.Match[str]) -> None:
    """Refuse what `fromisoformat` lets pass, some of it in newer Pythons only.

    Raises:
        ValueError: Hour 24, or an offset of a day or more, or of 60 minutes or more beside
            its hours. `fromisoformat` refuses the second in words that are Python's.
    """
    if match["hour"] == "24":
        raise ValueError("hour must be in 0..23")
    if (match["offset_hour"] or "00") > "23":
        raise ValueError("hours of the offset must be in 0..23")
    if (match["offset_minute"] or "00") > "59":
        raise ValueError("minutes of the offset must be in 0..59")


def format_instant(instant: datetime) -> str:
    """Return the instant as the product always writes it: UTC, milliseconds, `Z`."""
    utc = instant.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_text(value: object, *, longest: int = LONGEST_TEXT) -> str:
    """Return the text, not blank, as given.

    Raises:
        ValueError: No text, blank, too long, or with a NUL or lone surrogate.
    """
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004 -- one error kind per field
    if not value.strip():
        raise ValueError("must not be blank")
    if len(value) > longest:
        raise ValueError(f"must hold at most {longest:,} characters")
    check_storable(value)
    return value


def check_storable(value: str) -> None:
    """Refuse what no database column or UTF-8 record can hold.

    Raises:
        ValueError: A NUL or a lone surrogate is in the text.
    """
    if "\x00" in value:
        raise ValueError("must not contain a NUL character")
    if not value.isascii() and _SURROGATE.search(value):
        raise ValueError("must not contain a lone surrogate")


def parse_reason(value: object) -> str:
    """Return an operator's reason.

    Raises:
        ValueError: As `parse_text`, with its own length; or nothing of it can be seen.
    """
    text = parse_text(value, longest=LONGEST_REASON)
    if not any(char.isprintable() and not char.isspace() for char in text):
        raise ValueError("must not be blank")
    return text


def parse_state(value: object) -> TransitionKind:
    """Return START or END, written exactly so.

    Raises:
        ValueError: Anything else.
    """
    kind = _KINDS.get(value) if isinstance(value, str) else None
    if kind is None:
        raise ValueError("must be START or END")
    return kind


_KINDS: dict[str, TransitionKind] = {kind.value: kind for kind in TransitionKind}


def parse_metadata(value: object) -> dict[str, Any]:
    """Return the metadata object, as every database gives it back.

    Raises:
        ValueError: No object, too deep, over 64 KiB, or not representable in JSON.
    """
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 -- one error kind per field
    _check_tree(value, depth=1)
    if _POWER not in _checked_text(value):
        return value
    written_out: dict[str, Any] = _written_out(value)
    _checked_text(written_out)
    return written_out


def _checked_text(metadata: dict[str, Any]) -> str:
    """Return it as JSON.

    Raises:
        ValueError: It is over 64 KiB.
    """
    text = json.dumps(metadata, ensure_ascii=False)
    if len(text.encode()) > LARGEST_METADATA_BYTES:
        raise ValueError(f"must hold at most {LARGEST_METADATA_BYTES:,} bytes as JSON")
    return text


# How Python writes a large float. PostgreSQL's jsonb keeps the number that stands there
# and writes it with all its digits, which Python reads as a whole number.
_POWER = "e+"


def _written_out(value: object) -> Any:
    """Return a JSON value with its large floats as the whole numbers that they say."""
    if isinstance(value, dict):
        return {name: _written_out(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_written_out(one) for one in value]
    if isinstance(value, float) and _POWER in repr(value):
        return int(Decimal(repr(value)))
    return value


def _check_tree(value: object, *, depth: int) -> None:
    """Refuse nesting over the limit, and values that strict JSON does not know."""
    if not isinstance(value, (dict, list)):
        _check_leaf(value)
        return
    if depth > DEEPEST_NESTING:
        raise ValueError(f"must not nest deeper than {DEEPEST_NESTING} levels")
    if isinstance(value, dict):
        for key in value:
            _check_name(key)
    for item in value.values() if isinstance(value, dict) else value:
        _check_tree(item, depth=depth + 1)


def _check_name(key: object) -> None:
    """Refuse what is no name of a JSON object's member."""
    if not isinstance(key, str):
        raise ValueError("must have texts as names")  # noqa: TRY004 -- as above
    check_storable(key)


def _check_leaf(value: object) -> None:
    """Refuse a value that strict JSON does not know."""
    if isinstance(value, str):
        check_storable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not contain NaN or an infinity")
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise ValueError(f"must not contain a {type(value).__name__}")


def is_same_json(left: object, right: object) -> bool:
    """Tell whether two JSON values are the same; unlike Python's ==, true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            is_same_json(value, right[name]) for name, value in left.items()
        )
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_same_json, left, right))
    return left == right


@dataclass(frozen=True, kw_only=True)
class PhaseData:
    """What a caller says about one transition, understood.

    project_id, phase_id, challenge_id: canonical ids (see `parse_id`).
    end_time: due instant, aware UTC, whole milliseconds; for START too.
    date: the instant that the caller gave beside it, kept as said.
    """

    project_id: str
    phase_id: str
    phase_type_name: str
    state: TransitionKind
    end_time: datetime
    operator: str
    project_status: str
    challenge_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    date: datetime | None = None


# Wire name, attribute, parser, whether it must be there.
FIELDS: tuple[tuple[str, str, Callable[[object], object], bool], ...] = (
    ("projectId", "project_id", parse_id, True),
    ("phaseId", "phase_id", parse_id, True),
    ("phaseTypeName", "phase_type_name", parse_text, True),
    ("state", "state", parse_state, True),
    ("endTime", "end_time", parse_instant, True),
    ("operator", "operator", parse_text, True),
    ("projectStatus", "project_status", parse_text, True),
    ("challengeId", "challenge_id", parse_id, False),
    ("metadata", "metadata", parse_metadata, False),
    ("date", "date", parse_instant, False),
)
WIRE_NAMES = frozenset(name for name, *_ in FIELDS)
# What a job shows beside its phase data; clients send it back with a job that they read.
READ_ONLY_NAMES = frozenset(
    (
        *("jobId", "eventId", "status", "attempts", "maxAttempts", "nextAttemptAt"),
        *("lastError", "createdAt", "updatedAt", "startedAt", "completedAt", "latenessMs"),
        *("replaces", "replacedBy", "topicPartition", "topicOffset", "archivedAt"),
    )
)


def why_not_taken(name: str) -> str:
    """Return what is wrong with a field that phase data has no place for."""
    return "is read-only" if name in READ_ONLY_NAMES else "is not a known field"


def read_phase_data(data: "PhaseData | Mapping[str, object]") -> PhaseData:
    """Return phase data from its dataclass or from a mapping with camelCase names.

    Raises:
        InvalidScheduleTimeError: `endTime` is there but no instant with a zone, and
            nothing else is wrong.
        InvalidPhaseDataError: Other fields are missing, unknown or wrong; names all.
    """
    given = _as_mapping(data)
    values: dict[str, Any] = {}
    errors = [(name, why_not_taken(name)) for name in given if name not in WIRE_NAMES]
    for name, attribute, parse, is_required in FIELDS:
        value = given.get(name)
        if value is None:
            if is_required:
                errors.append((name, "is required"))
            continue
        try:
            values[attribute] = parse(value)
        except ValueError as error:
            errors.append((name, str(error)))
    if [name for name, _ in errors] == ["endTime"] and given.get("endTime") is not None:
        raise InvalidScheduleTimeError(f"endTime: {errors[0][1]}", errors=errors)
    if errors:
        raise InvalidPhaseDataError(errors)
    return PhaseData(**values)


def _as_mapping(data: "PhaseData | Mapping[str, object]") -> Mapping[str, object]:
    """Return the camelCase view of either form."""
    if isinstance(data, PhaseData):
        fields = {name: getattr(data, attribute) for name, attribute, *_ in FIELDS}
        # A caller who builds the dataclass by hand may have canonical text ids.
        for name in ("projectId", "phaseId", "challengeId"):
            value = fields[name]
            is_number = isinstance(value, str) and _PLAIN_NUMBER.fullmatch(value)
            fields[name] = int(value) if is_number else value
        return fields
    if not isinstance(data, Mapping):
        raise InvalidPhaseDataError([("", "must be an object")])
    return data
