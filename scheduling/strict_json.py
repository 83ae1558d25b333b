"""Strict JSON (RFC 8259), as every door reads it (contract, section 1).

Python's own reader is lenient: it takes NaN, keeps the last of two equal keys, and lets
through texts that no database column or UTF-8 record can hold.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

from scheduling.domain.phases import DEEPEST_NESTING

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def loads(data: bytes) -> object:
    """Return the one JSON value that the bytes hold.

    Raises:
        ValueError: Not UTF-8, not JSON to the letter, a key twice, a number that no
            double holds, a NUL or a lone surrogate in a text, or nested too deeply.
    """
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (at byte {error.start})") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            parse_int=_parse_int,
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_tree(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's members, each name once."""
    members = dict(pairs)
    if len(members) < len(pairs):
        _refuse_twice(name for name, _ in pairs)
    return members


def _refuse_twice(names: Iterable[str]) -> NoReturn:
    """Refuse an object for the first of its names that comes again.

    In one pass: there may be half a million of them.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _check_text(name)
            raise ValueError(f"has the key {name[:100]!r} twice")
        seen.add(name)
    raise AssertionError("no name comes twice")


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which JSON does not know."""
    raise ValueError(f"contains {name}, which JSON does not know")


def _parse_float(text: str) -> float:
    """Return a number that a double holds; an infinity could not be written again."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("contains a number beyond the range of a double")
    return value


def _parse_int(text: str) -> int:
    """Return a whole number; Python itself refuses to read thousands of digits."""
    try:
        return int(text)
    except ValueError:
        raise ValueError("contains a number of too many digits") from None


def _check_tree(value: object) -> None:
    """Refuse what nests too deeply, and texts that can't be stored."""
    level: list[object] = [value]
    depth = 0
    while level:
        below: list[object] = []
        for item in level:
            match item:
                case str():
                    _check_text(item)
                case dict():
                    for name in item:
                        _check_text(name)
                    below.extend(item.values())
                case list():
                    below.extend(item)
                case _:
                    pass
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > DEEPEST_NESTING:
            raise ValueError(_too_deep())
        level = below


def _check_text(text: str) -> None:
    """Refuse a NUL and a lone surrogate; both come in as escapes only."""
    if "\x00" in text:
        raise ValueError("contains a NUL character in a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("contains a lone surrogate in a text") from None


def _too_deep() -> str:
    """Say how deep is too deep."""
    return f"nests deeper than {DEEPEST_NESTING} levels"
