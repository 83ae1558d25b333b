"""How the OpenAPI document describes the key metrics."""

# ruff: noqa: N815 -- fields are named as on the wire
from typing import Any

from rest_framework import serializers


def _count(**options: Any) -> serializers.IntegerField:
    """Return a number of things."""
    return serializers.IntegerField(min_value=0, **options)


def _optional(**options: Any) -> serializers.FloatField:
    """Return a figure that may be unknown."""
    return serializers.FloatField(allow_null=True, **options)


class LatenessSerializer(serializers.Serializer[Any]):
    """Acknowledgement minus due instant, in milliseconds; null without completed jobs."""

    p50 = _optional()
    p99 = _optional()
    max = _optional()


class ProcessSerializer(serializers.Serializer[Any]):
    """A long-running process of the last hour."""

    kind = serializers.CharField()
    pid = serializers.IntegerField(min_value=1)
    host = serializers.CharField()
    restarts = serializers.IntegerField(min_value=0, allow_null=True)
    startedAt = serializers.DateTimeField()
    seenAt = serializers.DateTimeField(help_text="Grows old once the process is dead.")


class SchedulerStatsSerializer(serializers.Serializer[Any]):
    """Jobs and their firing."""

    activeJobs = _count(help_text="Scheduled or running.")
    runningJobs = _count()
    overdueJobs = _count(help_text="Live jobs whose instant has passed.")
    oldestOverdueSeconds = serializers.FloatField(min_value=0, help_text="0 without any.")
    completedJobs = _count()
    failedJobs = _count()
    cancelledJobs = _count()
    expiredJobs = _count()
    averageExecutionTimeMs = _optional(help_text="From claim to acknowledgement.")
    latenessMs = LatenessSerializer()
    lastClaimAt = serializers.DateTimeField(
        allow_null=True, help_text="Of the jobs that are still in the table."
    )
    clockSkewMs = _optional(
        help_text="This host's clock minus the database's; null on SQLite, which has none."
    )
    processes = ProcessSerializer(many=True)


class ConsumerStatsSerializer(serializers.Serializer[Any]):
    """The consumers that are alive, taken together."""

    processes = _count()
    handled = _count(help_text="Records since each was started.")
    isPaused = serializers.BooleanField(help_text="Whether one of them waits.")
    pausedSince = serializers.DateTimeField(allow_null=True)
    pauseReason = serializers.CharField(allow_null=True)


class KafkaStatsSerializer(serializers.Serializer[Any]):
    """What is read from Kafka."""

    consumer = ConsumerStatsSerializer()
    consumerLag = serializers.DictField(
        child=_count(), help_text="Records not handled yet, by `topic[partition]`."
    )


class DeadLetterCountsSerializer(serializers.Serializer[Any]):
    """Dead letters by status."""

    new = _count()
    replayed = _count()
    discarded = _count()


class OutgoingStatsSerializer(serializers.Serializer[Any]):
    """Answers and dead letters that no broker has acknowledged yet."""

    unsent = _count()
    oldestUnsentSeconds = serializers.FloatField(min_value=0, help_text="0 without any.")


class StatsSerializer(serializers.Serializer[Any]):
    """The key metrics."""

    timestamp = serializers.DateTimeField(help_text="By the database's clock.")
    scheduler = SchedulerStatsSerializer()
    kafka = KafkaStatsSerializer()
    deadLetters = DeadLetterCountsSerializer()
    outgoingRecords = OutgoingStatsSerializer()


STATS_EXAMPLE: dict[str, Any] = {
    "timestamp": "2030-03-07T17:00:03.000Z",
    "scheduler": {
        "activeJobs": 1200,
        "runningJobs": 2,
        "overdueJobs": 2,
        "oldestOverdueSeconds": 0.004,
        "completedJobs": 340,
        "failedJobs": 0,
        "cancelledJobs": 3,
        "expiredJobs": 0,
        "averageExecutionTimeMs": 6.1,
        "latenessMs": {"p50": 5.6, "p99": 13.2, "max": 21.7},
        "lastClaimAt": "2030-03-07T17:00:03.000Z",
        "clockSkewMs": 0.4,
        "processes": [
            {
                "kind": "consumer",
                "pid": 4711,
                "host": "autopilot-1",
                "restarts": 0,
                "startedAt": "2030-03-01T08:00:00.000Z",
                "seenAt": "2030-03-07T17:00:00.000Z",
            }
        ],
    },
    "kafka": {
        "consumer": {
            "processes": 1,
            "handled": 90210,
            "isPaused": False,
            "pausedSince": None,
            "pauseReason": None,
        },
        "consumerLag": {"autopilot.command[0]": 0},
    },
    "deadLetters": {"new": 1, "replayed": 4, "discarded": 2},
    "outgoingRecords": {"unsent": 0, "oldestUnsentSeconds": 0.0},
}
