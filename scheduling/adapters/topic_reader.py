"""Reads the transitions' topic from one place to another, for checks and measurements.

It joins no group and commits nothing, so it disturbs nobody. Searching for single events
before something is done with a job is `topic_search`'s.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from django.conf import settings

from scheduling.adapters.message_headers import headers_of
from scheduling.adapters.topic_search import event_id_of
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.topics import PHASE_TRANSITION

REQUEST_SECONDS = 10.0
# The broker must send something within this, or reading has failed.
STALLED_SECONDS = 15.0
_CHUNK = 1_000
_POLL_SECONDS = 0.2


class Span(NamedTuple):
    """What a partition holds: offsets from `low` up to, and without, `end`."""

    low: int
    end: int


class TopicRecord(NamedTuple):
    """One record; what it lacks, or has in another form than ours, is None."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes
    job_id: str | None
    event_id: uuid.UUID | None


class TopicReader:
    """One consumer of the topic `autopilot.phase.transition`; close it after use."""

    def __init__(self, client: Mapping[str, str | int | bool]) -> None:
        self._consumer = Consumer(
            {
                **client,
                # As in `topic_search`: the group for which there are rights.
                "group.id": settings.KAFKA_CONSUMER_GROUP,
                "enable.auto.commit": False,
                # It tells the end also where control records of others stand last.
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
                "isolation.level": "read_committed",
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def spans(self) -> dict[int, Span]:
        """Return what each partition holds now.

        Raises:
            ServiceUnavailableError: No broker answers, or it has no such topic.
        """
        try:
            metadata = self._consumer.list_topics(PHASE_TRANSITION, timeout=REQUEST_SECONDS)
            spans = {
                number: Span(
                    *self._consumer.get_watermark_offsets(
                        TopicPartition(PHASE_TRANSITION, number), timeout=REQUEST_SECONDS
                    )
                )
                for number in metadata.topics[PHASE_TRANSITION].partitions
            }
        except KafkaException as error:
            raise _unavailable(error) from error
        if not spans:
            raise ServiceUnavailableError(f"there is no topic {PHASE_TRANSITION}")
        return spans

    def offsets_at(self, instant: datetime, spans: Mapping[int, Span]) -> dict[int, int]:
        """Return where reading must start to see all records as young as the instant.

        The embedded broker answers no question about instants; then it is the beginning.

        Raises:
            ServiceUnavailableError: No broker answers.
        """
        since_ms = int(instant.timestamp() * 1000)
        asked = [TopicPartition(PHASE_TRANSITION, number, since_ms) for number in spans]
        try:
            answers = self._consumer.offsets_for_times(asked, timeout=REQUEST_SECONDS)
        except KafkaException as error:
            raise _unavailable(error) from error
        return {
            answer.partition: max(answer.offset, spans[answer.partition].low)
            for answer in answers
        }

    def read(
        self, starts: Mapping[int, int], ends: Mapping[int, int]
    ) -> Iterator[TopicRecord]:
        """Yield the records of each partition from its start up to its end.

        Raises:
            ServiceUnavailableError: Reading came to a standstill.
        """
        waiting = {
            number: end for number, end in ends.items() if starts.get(number, end) < end
        }
        self._consumer.assign(
            [TopicPartition(PHASE_TRANSITION, n, starts[n]) for n in waiting]
        )
        heard_at = time.monotonic()
        while waiting:
            messages = self._consumer.consume(_CHUNK, timeout=_POLL_SECONDS)
            heard_at = time.monotonic() if messages else heard_at
            if time.monotonic() - heard_at > STALLED_SECONDS:
                raise ServiceUnavailableError(
                    f"the topic {PHASE_TRANSITION} could not be read to its end"
                )
            for message in messages:
                record = _take(message, waiting)
                if record is not None:
                    yield record


def _take(message: Message, waiting: dict[int, int]) -> TopicRecord | None:
    """Return the record where it is one before its partition's end; note the end."""
    number, offset = int(message.partition() or 0), int(message.offset() or 0)
    error = message.error()
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 -- its name for a local error
            raise _unavailable(KafkaException(error))
        waiting.pop(number, None)
        return None
    end = waiting.get(number)
    if end is None or offset >= end:
        waiting.pop(number, None)
        return None
    if offset == end - 1:
        del waiting[number]
    return TopicRecord(
        partition=number,
        offset=offset,
        timestamp_ms=message.timestamp()[1],
        key=_bytes(message.key()),
        value=_bytes(message.value()),
        job_id=_job_id_of(message),
        event_id=event_id_of(message),
    )


def _job_id_of(message: Message) -> str | None:
    """Return the record's `job-id` header; None where it has none that is a text."""
    for name, value in headers_of(message):
        if name == "job-id" and value is not None:
            return _bytes(value).decode(errors="replace")
    return None


def _bytes(value: bytes | str | None) -> bytes:
    """Return a part of a record as bytes; nothing where there is none."""
    return value.encode() if isinstance(value, str) else value or b""


def _unavailable(error: KafkaException) -> ServiceUnavailableError:
    """Return the family's error for one of the client library."""
    return ServiceUnavailableError(
        f"the topic {PHASE_TRANSITION} can't be read now: {error.args[0].str()}"
    )
