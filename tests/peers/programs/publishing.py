"""What every Python peer's handler does: put one record on Kafka, and wait for it.

The record is Autopilot's own, field by field, with the same key and headers; the handler
returns when all in-sync replicas have it, and raises where they don't.
"""

import asyncio
import functools
import json
import os
import queue
import threading
import uuid
from datetime import UTC, datetime

from confluent_kafka import Producer

TOPIC = "autopilot.phase.transition"
PATIENCE_SECONDS = 30


def due_at(due_ms):
    """Return the instant of epoch milliseconds."""
    return datetime.fromtimestamp(due_ms / 1000, UTC)


def publish(number, due_ms):
    """Publish the record of a job and wait for the acknowledgement."""
    answers = queue.SimpleQueue()
    _send(number, due_ms, answers.put)
    _check(answers.get(timeout=PATIENCE_SECONDS))


async def publish_async(number, due_ms):
    """Do the same in an event loop."""
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    _send(number, due_ms, lambda error: loop.call_soon_threadsafe(answer.set_result, error))
    _check(await asyncio.wait_for(answer, PATIENCE_SECONDS))


def _check(error):
    if error is not None:
        raise RuntimeError(f"the record was not acknowledged: {error}")


def _send(number, due_ms, answer):
    event_id = str(uuid.UUID(int=number))
    _producer(os.getpid()).produce(
        TOPIC,
        key=str(number),
        value=_value(number, due_ms),
        headers=[
            ("event-id", event_id),
            ("job-id", f"job-{number}"),
            ("correlation-id", event_id),
            ("content-type", "application/json"),
        ],
        on_delivery=lambda error, _: answer(error),
    )


def _value(number, due_ms):
    at = due_at(due_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    envelope = {
        "topic": TOPIC,
        "originator": "auto_pilot",
        "timestamp": at,
        "mimeType": "application/json",
        "payload": {
            "projectId": number,
            "phaseId": 1,
            "phaseTypeName": "Review",
            "state": "END",
            "operator": "peers",
            "projectStatus": "ACTIVE",
            "date": at,
        },
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


_making = threading.Lock()


def _producer(pid):
    # Several threads may publish their first record at once.
    with _making:
        return _producer_of(pid)


@functools.cache
def _producer_of(_):
    """Make the producer of this process, which is made after any fork."""
    producer = Producer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "enable.idempotence": True,
            "acks": "all",
            # A handler waits for its one record: to wait for more would only be late.
            "linger.ms": 0,
            "enable.metrics.push": False,
        }
    )

    def poll():
        while True:
            producer.poll(1)

    threading.Thread(target=poll, daemon=True, name="kafka").start()
    return producer
