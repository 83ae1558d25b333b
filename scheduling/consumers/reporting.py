"""What a consumer tells of itself, for whoever looks after it."""

import logging
import os
import socket
import time
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from scheduling.adapters.owner import Owner
from scheduling.domain.phases import format_instant
from scheduling.models import ProcessState

logger = logging.getLogger("autopilot.consumer")

EVERY_SECONDS = 2.0
COMMITTED_SECONDS = 1.0
KIND = "consumer"


class Report:
    """Writes this consumer's row now and then, and takes it away at the end."""

    def __init__(self) -> None:
        self._started_at = timezone.now()
        self._owner = str(Owner.of_process(os.getpid()))
        self._written_at = 0.0
        self._paused_since: datetime | None = None
        self._pause_reason = ""
        # The group's places when the present assignment was first looked at.
        self._committed: dict[tuple[str, int], int] = {}

    def pause(self, reason: str) -> None:
        """Note that consumption waits, and for what."""
        self._paused_since = self._paused_since or timezone.now()
        self._pause_reason = reason

    def resume(self) -> None:
        """Note that it goes on."""
        self._paused_since, self._pause_reason = None, ""

    def begin_assignment(self) -> None:
        """Note that the group has dealt out its partitions anew, perhaps as before.

        The client knows no place in them any more, and the group's have moved on.
        """
        self._committed.clear()

    def write(self, consumer: Consumer, *, handled: int) -> None:
        """Write the row, if the last time was long enough ago."""
        if time.monotonic() < self._written_at + EVERY_SECONDS:
            return
        self._written_at = time.monotonic()
        figures = {
            "owner": self._owner,
            "handled": handled,
            "isPaused": self._paused_since is not None,
            "pausedSince": (
                format_instant(self._paused_since) if self._paused_since else None
            ),
            "pauseReason": self._pause_reason,
            "lag": self._lag(consumer),
        }
        try:
            ProcessState.tell(
                **self._key(),
                started_at=self._started_at,
                now=timezone.now(),
                figures=figures,
            )
        except DatabaseError as error:
            # The handling of the next record meets it too, and waits. Where none comes,
            # nobody else would replace a connection that broke.
            connection.close()
            logger.debug("the consumer's figures are not written: %s", error)

    def remove(self) -> None:
        """Take the row away: this consumer ends in order."""
        try:
            ProcessState.objects.filter(**self._key()).delete()
        except DatabaseError as error:
            logger.debug("the consumer's figures stay: %s", error)

    def _key(self) -> dict[str, Any]:
        """Return what identifies this process."""
        return {"kind": KIND, "host": socket.gethostname()[:255], "pid": os.getpid()}

    def _lag(self, consumer: Consumer) -> dict[str, int]:
        """Return how many records of each assigned partition are still to be handled.

        From what the client knows of the partitions' ends and of its own place. It knows
        no place where it has read nothing yet: there the group's counts, for which the
        broker is asked once for each assignment.
        """
        lag: dict[str, int] = {}
        try:
            assigned = consumer.assignment()
            for place in consumer.position(assigned):
                low, end = consumer.get_watermark_offsets(place, cached=True)
                if end < 0:
                    continue
                at = place.offset
                if at < 0:
                    offsets = self._group_offsets(consumer, assigned)
                    at = offsets.get((place.topic, place.partition), -1)
                # Where nobody of the group was before, it begins with the first record.
                at = max(low, 0) if at < 0 else at
                lag[f"{place.topic}[{place.partition}]"] = max(0, end - at)
        except KafkaException:
            return {}
        return lag

    def _group_offsets(
        self, consumer: Consumer, assigned: list[TopicPartition]
    ) -> dict[tuple[str, int], int]:
        """Return the group's places in what is assigned; negative where it has none.

        Raises:
            KafkaException: The broker does not say.
        """
        if {(one.topic, one.partition) for one in assigned} != self._committed.keys():
            self._committed = {
                (one.topic, one.partition): one.offset
                for one in consumer.committed(assigned, timeout=COMMITTED_SECONDS)
            }
        return self._committed
