"""Publishing with a span for each record, where traces are on."""

import dataclasses
from collections.abc import Callable, Sequence

from scheduling.adapters.event_publisher import (
    EventPublisher,
    Outcome,
    OutgoingRecord,
    Verdict,
)
from scheduling.tracing import HEADER, SentRecord, is_on


def publish_traced(
    publisher: EventPublisher,
    records: Sequence[OutgoingRecord],
    *,
    deadline_seconds: float,
    while_waiting: Callable[[], bool],
) -> list[Outcome]:
    """Publish as `EventPublisher.publish` does; each record tells of its place in a trace.

    The header `traceparent` that a record has is where it comes from; the record on the
    topic names its own span there.
    """
    spans = [_span(record) for record in records] if is_on() else []
    if spans:
        records = [
            dataclasses.replace(
                record, headers={**record.headers, HEADER: span.trace_parent}
            )
            for record, span in zip(records, spans, strict=True)
        ]
    outcomes = publisher.publish(
        records, deadline_seconds=deadline_seconds, while_waiting=while_waiting
    )
    for span, outcome in zip(spans, outcomes, strict=False):
        if outcome.verdict is Verdict.ACKNOWLEDGED:
            span.end(partition=outcome.partition, offset=outcome.offset)
        else:
            span.fail(f"{outcome.verdict.value}: {outcome.error}")
    return outcomes


def _span(record: OutgoingRecord) -> SentRecord:
    """Begin the span of a record."""
    headers = record.headers
    known = {
        "messaging.message.id": headers.get("event-id", ""),
        "autopilot.job_id": headers.get("job-id", ""),
        "messaging.message.conversation_id": headers.get("correlation-id", ""),
    }
    return SentRecord(
        record.topic,
        headers.get(HEADER, ""),
        {name: value for name, value in known.items() if value},
    )
