"""Each log line of a request names it, so that a client's id finds all of them.

Imported by the logging configuration, before Django is there.
"""

import logging
from contextvars import ContextVar

from typing_extensions import override

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to the records that a request has caused."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, with the id."""
        # Django logs an answer after the middleware has ended, and names its request.
        request = getattr(record, "request", None)
        request_id = getattr(request, "request_id", "") or current_request_id.get()
        if request_id:
            record.request_id = request_id
        return True


class ConsoleFormatter(logging.Formatter):
    """Lines for people; the request's id ends them."""

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        """Return the line."""
        line = super().formatMessage(record)
        request_id = getattr(record, "request_id", "")
        return f"{line} [{request_id}]" if request_id else line
