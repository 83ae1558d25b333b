"""The audit as a file: CSV, NDJSON or one JSON array, written piece by piece."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.http import StreamingHttpResponse
from typing_extensions import override

from scheduling.models import AuditEntry
from scheduling.queries.audit import AUDIT_COLUMNS, show_audit_entry

# Entries that are written at once: some tens of kilobytes.
_PIECE = 200
EMPTY_ARRAY = b"[]\n"
# With these a spreadsheet takes a cell for a formula (OWASP, "CSV Injection"), the wide
# forms too. Some skip what can't be seen before them.
_FORMULA = re.compile(r"[\t\r\n]|[^\w!-~]*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def write_csv(entries: Iterable[AuditEntry]) -> Iterator[bytes]:
    """Yield a CSV file (RFC 4180, UTF-8) with a line of column names.

    `changes` is JSON; what is null is empty. A cell that a spreadsheet could take for a
    formula gets an apostrophe before it.
    """
    yield _csv_lines([AUDIT_COLUMNS])
    for piece in _pieces(entries):
        yield _csv_lines([_cell(value) for value in show.values()] for show in piece)


def write_ndjson(entries: Iterable[AuditEntry]) -> Iterator[bytes]:
    """Yield one JSON object a line."""
    for piece in _pieces(entries):
        yield "".join(f"{_json(show)}\n" for show in piece).encode()


def write_json(entries: Iterable[AuditEntry]) -> Iterator[bytes]:
    """Yield one JSON array, an object a line."""
    separator = "["
    for piece in _pieces(entries):
        lines = ",".join(f"\n{_json(show)}" for show in piece)
        yield f"{separator}{lines}".encode()
        separator = ","
    yield EMPTY_ARRAY if separator == "[" else b"\n]\n"


# By the name of the format: its media type and what writes it.
STREAMED: dict[str, tuple[str, Callable[[Iterable[AuditEntry]], Iterator[bytes]]]] = {
    "csv": ("text/csv; charset=utf-8", write_csv),
    "ndjson": ("application/x-ndjson", write_ndjson),
}


class StreamedResponse(StreamingHttpResponse):
    """Sends what a synchronous iterator yields while it yields it, under ASGI too.

    Django's own would collect all of it before the first byte. The iterator runs in the
    request's thread, and has a database connection only while it reads.
    """

    @override
    async def __aiter__(self) -> Any:
        pieces = cast("Iterator[bytes]", self.streaming_content)

        def take_one() -> bytes | None:
            # The end is no exception here: StopIteration can't leave a coroutine.
            piece = next(pieces, None)
            close_old_connections()
            return piece

        take = sync_to_async(take_one, thread_sensitive=True)
        while (piece := await take()) is not None:
            yield piece


def _pieces(entries: Iterable[AuditEntry]) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries as the outside sees them, some at a time."""
    rest = iter(entries)
    while piece := [show_audit_entry(entry) for entry in islice(rest, _PIECE)]:
        yield piece


def _csv_lines(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    """Return a value as a cell of CSV, which no spreadsheet takes for a formula."""
    if isinstance(value, dict):
        return _json(value)
    if isinstance(value, str) and _FORMULA.match(value):
        return f"'{value}"
    return value


def _json(value: object) -> str:
    """Return a value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
