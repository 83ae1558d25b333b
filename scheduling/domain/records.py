"""A record that came in, as the handlers take it: values only, nothing of Kafka."""

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_EVENT_ID = 128
LONGEST_CORRELATION_ID = 255
LONGEST_TRACE_PARENT = 55
Header = tuple[str, bytes | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record as it was received.

    timestamp_ms: the record's own, since 1970; -1 where it has none.
    """

    cluster_id: str
    topic: str
    partition: int
    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    timestamp_ms: int = -1

    @property
    def position(self) -> tuple[str, int, int]:
        """Where it stands in its cluster."""
        return self.topic, self.partition, self.offset

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @property
    def event_id(self) -> str:
        """Its `event-id` header; empty where it has none that can be kept."""
        return text_header(self.headers, "event-id", longest=LONGEST_EVENT_ID)

    @property
    def correlation_id(self) -> str:
        """Its `correlation-id` header; empty where it has none that can be kept."""
        return text_header(self.headers, "correlation-id", longest=LONGEST_CORRELATION_ID)

    @property
    def log_ids(self) -> dict[str, str]:
        """What a log line about it names."""
        ids = {
            "record": self.place,
            "event_id": self.event_id,
            "correlation_id": self.correlation_id,
            "job_id": self.job_id,
        }
        return {name: value for name, value in ids.items() if value}

    @property
    def trace_parent(self) -> str:
        """Its `traceparent` header (W3C, "Trace Context"); empty where it has none."""
        return text_header(self.headers, "traceparent", longest=LONGEST_TRACE_PARENT)

    @property
    def job_id(self) -> str:
        """Its `job-id` header; empty where it has none that can be a job's id."""
        return text_header(self.headers, "job-id", longest=LONGEST_EVENT_ID)


def text_header(headers: Sequence[Header], name: str, *, longest: int) -> str:
    """Return the first header of that name as text; empty where it can't be kept."""
    for given, value in headers:
        if given == name and value is not None:
            try:
                text = value.decode("utf-8").strip()
            except UnicodeDecodeError:
                return ""
            return text if text.isprintable() and len(text) <= longest else ""
    return ""
