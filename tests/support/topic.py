"""Records on the topic, put there as another process's publishing would."""

from confluent_kafka import Producer
from django.conf import settings

from scheduling.topics import PHASE_TRANSITION

CLOSED_PORT = "127.0.0.1:9"


def put_event(job, *, at):
    """Put the job's record on the topic and wait for its acknowledgement."""
    producer = Producer({**settings.KAFKA_CLIENT, "message.timeout.ms": 10_000})
    failures = []
    producer.produce(
        PHASE_TRANSITION,
        key=job.key,
        value=b"{}",
        headers=[("event-id", str(job.event_id)), ("job-id", job.job_id)],
        timestamp=int(at.timestamp() * 1000),
        on_delivery=lambda error, _: failures.append(error) if error else None,
    )
    assert producer.flush(15) == 0
    assert not failures


def cut_off(settings):
    """Make every Kafka client from now on find nobody."""
    settings.KAFKA_CLIENT = {**settings.KAFKA_CLIENT, "bootstrap.servers": CLOSED_PORT}
