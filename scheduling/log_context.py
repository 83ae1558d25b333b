"""What each log line names, so that one id leads from a symptom to its cause.

Request, job, challenge, event, run and correlation ids are bound where work on them
begins, or given with a line (`extra=`), and stand on every line that has one. Secrets of
this process are taken out of every line, whatever wrote it. Imported by the logging
configuration, before Django is there.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from structlog.contextvars import bound_contextvars, get_contextvars
from structlog.stdlib import ProcessorFormatter
from typing_extensions import override

__all__ = [
    "IDS",
    "ConsoleFormatter",
    "ContextFilter",
    "JsonFormatter",
    "bound_contextvars",
    "ids_of",
    "keep_secret",
]

IDS: Final = (
    "request_id",
    "job_id",
    "event_id",
    "challenge_id",
    "correlation_id",
    "run_id",
    "trace_id",
)
# What else a line may bring along for a program to read.
FIGURES: Final = ("lateness_ms", "partition", "offset", "phase_id", "state", "record")
HIDDEN: Final = "…"
# Shorter ones would take harmless words out of lines.
LEAST_SECRET_LENGTH: Final = 8
# What is secret by its place, whoever's it is: a token, and the password of an address.
_PATTERNS: Final = (
    re.compile(r"(?<=Bearer )[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE),
    re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9._-]+"),
)
_secrets: set[str] = set()


def keep_secret(values: Iterable[str]) -> None:
    """Take these values out of every line from now on."""
    _secrets.update(one for one in values if len(one) >= LEAST_SECRET_LENGTH)


def hide_secrets(line: str) -> str:
    """Return the line without what must not be read."""
    for secret in _secrets:
        if secret in line:
            line = line.replace(secret, HIDDEN)
    for pattern in _PATTERNS:
        line = pattern.sub(HIDDEN, line)
    return line


def ids_of(values: Mapping[str, object]) -> dict[str, str]:
    """Return those of the values that are there, as ids for a line's `extra`."""
    return {name: str(value) for name, value in values.items() if value}


class ContextFilter(logging.Filter):
    """Adds the ids that are bound to the records that are written meanwhile."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, with the ids."""
        for name, value in get_contextvars().items():
            if name in IDS and not hasattr(record, name):
                setattr(record, name, value)
        # Django logs an answer after the middleware has ended, and names its request.
        request_id = getattr(getattr(record, "request", None), "request_id", "")
        if request_id:
            record.request_id = request_id
        return True


class ConsoleFormatter(logging.Formatter):
    """Lines for people; the ids that the line does not say itself end it."""

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        """Return the line."""
        line = super().formatMessage(record)
        ids = _ids_on(record)
        request_id = ids.pop("request_id", "")
        more = [f"{name}={value}" for name, value in ids.items() if value not in line]
        ends = " ".join([*([request_id] if request_id else []), *more])
        return f"{line} [{ends}]" if ends else line

    @override
    def format(self, record: logging.LogRecord) -> str:
        return hide_secrets(super().format(record))


class JsonFormatter(ProcessorFormatter):
    """One JSON object a line."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        return hide_secrets(super().format(record))


def add_ids(logger: Any, name: str, event: dict[str, Any]) -> dict[str, Any]:
    """Add a record's ids and figures to its JSON (a processor of structlog's)."""
    record = event.get("_record")
    for key in (*IDS, *FIGURES):
        value = getattr(record, key, None)
        if value is not None and value != "":
            event[key] = value
    return event


def _ids_on(record: logging.LogRecord) -> dict[str, str]:
    """Return the ids of a record that a line can hold."""
    found = {name: str(getattr(record, name, "") or "") for name in IDS}
    return {name: one for name, one in found.items() if one and one.isprintable()}
