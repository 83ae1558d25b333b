"""Bytes from outside, for eyes: as text and as hexadecimal digits, with a place marked.

Plain values in and out; whoever shows them escapes them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

LARGEST_TEXT: Final = 64 * 1024
LARGEST_HEX: Final = 4 * 1024
_ROW: Final = 16
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# How the readers of records tell where they stopped (scheduling.strict_json).
_AT_BYTE: Final = re.compile(r"\bat byte (\d{1,12})\b")
_AT_LINE: Final = re.compile(r"\(line (\d{1,9}), column (\d{1,9})\)")
_KEPT: Final = frozenset("\n\t")


@dataclass(frozen=True, kw_only=True)
class Dump:
    """The bytes in parts that a page puts one after the other.

    before, marked, after: the text, with the offending sign in the middle.
    rows: offset, hexadecimal digits and printable signs of sixteen bytes each.
    marked_at: place of the offending byte; None where it is not known.
    hidden: bytes that are not shown as text.
    """

    size: int
    before: str
    marked: str
    after: str
    rows: Sequence[tuple[str, str, str, bool]]
    marked_at: int | None
    hidden: int


def dump(content: bytes, *, complaints: Iterable[str] = ()) -> Dump:
    """Return the bytes as text and as digits.

    Args:
        complaints: What was said about them; a place that one tells is marked.
    """
    at = find_place(content, complaints)
    shown = content[:LARGEST_TEXT]
    if at is None or at >= len(shown):
        before, marked, after = shown, b"", b""
    else:
        end = at + 1
        # A sign is marked whole.
        while end < len(shown) and shown[end] & 0xC0 == 0x80:  # noqa: PLR2004 -- UTF-8
            end += 1
        before, marked, after = shown[:at], shown[at:end], shown[end:]
    first = max(0, (at or 0) // _ROW * _ROW - LARGEST_HEX // 2) // _ROW * _ROW
    return Dump(
        size=len(content),
        before=_text(before),
        marked=_text(marked),
        after=_text(after),
        rows=list(_rows(content[first : first + LARGEST_HEX], first=first, at=at)),
        marked_at=at,
        hidden=len(content) - len(shown),
    )


def find_place(content: bytes, complaints: Iterable[str]) -> int | None:
    """Return the place of the byte at which a reader stopped; None where none tells."""
    for complaint in complaints:
        if found := _AT_BYTE.search(complaint):
            place = int(found[1]) + _length_of_mark(content)
        elif found := _AT_LINE.search(complaint):
            place = _place_of(content, line=int(found[1]), column=int(found[2]))
        else:
            continue
        if 0 <= place < len(content):
            return place
    return None


def _length_of_mark(content: bytes) -> int:
    """Return how many bytes stand before those that a reader counts."""
    return len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0


def _place_of(content: bytes, *, line: int, column: int) -> int:
    """Return the place of a sign that is told by line and column, both from 1."""
    mark = _length_of_mark(content)
    lines = content[mark:].decode(errors="replace").split("\n")
    if line > len(lines):
        return -1
    before = "".join(f"{one}\n" for one in lines[: line - 1])
    return mark + len(f"{before}{lines[line - 1][: column - 1]}".encode())


def _text(content: bytes) -> str:
    """Return bytes as text; what can't be seen is an escape."""
    text = content.decode(errors="backslashreplace")
    return "".join(
        sign if sign in _KEPT or sign.isprintable() else _escaped(sign) for sign in text
    )


def _escaped(sign: str) -> str:
    """Return a sign that can't be seen as an escape."""
    return sign.encode("unicode_escape").decode()


def _rows(
    content: bytes, *, first: int, at: int | None
) -> Iterable[tuple[str, str, str, bool]]:
    """Yield the rows of digits; the last value tells whether the place is in the row."""
    for start in range(0, len(content), _ROW):
        row = content[start : start + _ROW]
        signs = "".join(chr(one) if 32 <= one < 127 else "." for one in row)  # noqa: PLR2004 -- ASCII
        place = first + start
        is_marked = at is not None and place <= at < place + _ROW
        yield f"{place:08x}", row.hex(" "), signs, is_marked
