"""Keep records that could not be handled, with their exact bytes."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from scheduling.adapters.inserts import insert_rows, new_row
from scheduling.domain.errors import SchedulingError
from scheduling.domain.records import Record
from scheduling.models import DeadLetter, OutgoingRecord
from scheduling.services.shown import shown
from scheduling.topics import dead_letter_topic
from scheduling.tracing import trace_headers

MOST_ERRORS = 50
# What the column holds; handlers of one's own bring codes of their own.
LONGEST_CODE = 40


def set_aside(
    refused: Sequence[tuple[Record, SchedulingError]],
    *,
    now: datetime,
    replay_of: uuid.UUID | None = None,
) -> None:
    """Keep records that could not be handled, and owe their topics a dead letter each.

    In the caller's transaction, which also notes them as handled.
    """
    letters = [
        _letter(record, error, now=now, replay_of=replay_of) for record, error in refused
    ]
    insert_rows(letters)
    insert_rows(
        [
            new_row(
                OutgoingRecord,
                topic=dead_letter_topic(letter.topic),
                key=letter.key,
                headers={
                    "correlation-id": record.correlation_id,
                    **trace_headers(record.trace_parent),
                },
                dead_letter_id=letter.pk,
                created_at=now,
            )
            for (record, _), letter in zip(refused, letters, strict=True)
        ]
    )


def _letter(
    record: Record,
    error: SchedulingError,
    *,
    now: datetime,
    replay_of: uuid.UUID | None,
) -> DeadLetter:
    """Return what is kept of a record."""
    errors: list[tuple[str, str]] = error.values.get("errors", [])
    letter: DeadLetter = new_row(
        DeadLetter,
        cluster_id=record.cluster_id,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=encode_headers(record),
        code=error.code[:LONGEST_CODE],
        category=error.category.value,
        message=shown(error.detail),
        errors=[
            {"field": shown(field), "message": shown(cause)}
            for field, cause in errors[:MOST_ERRORS]
        ],
        set_aside_at=now,
        replay_of=replay_of,
    )
    return letter


def encode_headers(record: Record) -> list[list[str | None]]:
    """Return a record's headers as they are kept: names, and values in hexadecimal."""
    return [
        [
            name.encode("utf-8", "backslashreplace").decode().replace("\x00", ""),
            None if value is None else value.hex(),
        ]
        for name, value in record.headers
    ]


def decode_headers(kept: Sequence[Sequence[Any]]) -> tuple[tuple[str, bytes | None], ...]:
    """Return headers from how they are kept."""
    return tuple(
        (str(name), None if value is None else bytes.fromhex(value)) for name, value in kept
    )


def original_record(letter: DeadLetter) -> Record:
    """Return the record that was set aside, as it was received."""
    return Record(
        cluster_id=letter.cluster_id,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=None if letter.key is None else bytes(letter.key),
        value=None if letter.value is None else bytes(letter.value),
        headers=decode_headers(letter.headers),
        timestamp_ms=int(letter.set_aside_at.timestamp() * 1000),
    )
