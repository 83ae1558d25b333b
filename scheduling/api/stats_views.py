"""The key metrics as JSON (contract, sections 4 and 7)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from scheduling.adapters.clock import clock_skew_ms, database_now
from scheduling.api.base import ApiView
from scheduling.api.read_schema import answers
from scheduling.api.stats_schema import STATS_EXAMPLE, StatsSerializer
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import ProcessState
from scheduling.queries.filters import show_instant
from scheduling.queries.statistics import (
    CONSUMER,
    count_dead_letters,
    count_jobs,
    list_processes,
    measure_firing,
    measure_outgoing,
    sum_up_consumers,
)


class Stats(ApiView):
    """How the product is doing."""

    @extend_schema(
        operation_id="getStats",
        summary="Show the key metrics",
        description="Jobs that clean-up has archived are not counted. Lateness and "
        "execution time are those of the newest 10,000 completed jobs; lateness leaves "
        "out what a person ran or retried.",
        responses=answers(shape=StatsSerializer, example=STATS_EXAMPLE),
        tags=["stats"],
    )
    def get(self, request: Request) -> Response:
        """Return the key metrics."""
        now = database_now()
        processes = list_processes(now=now)
        outgoing = measure_outgoing(now=now)
        return Response(
            {
                "timestamp": format_instant(now),
                "scheduler": _show_scheduler(processes, now=now),
                "kafka": _show_kafka(processes, now=now),
                "deadLetters": count_dead_letters(),
                "outgoingRecords": {
                    "unsent": outgoing.unsent,
                    "oldestUnsentSeconds": outgoing.oldest_unsent_seconds,
                },
            }
        )


def _show_scheduler(processes: Sequence[ProcessState], *, now: datetime) -> dict[str, Any]:
    """Return the figures of firing."""
    jobs, firing = count_jobs(now=now), measure_firing()
    return {
        "activeJobs": jobs.active,
        "runningJobs": jobs.running,
        "overdueJobs": jobs.overdue,
        "oldestOverdueSeconds": jobs.oldest_overdue_seconds,
        "completedJobs": jobs.by_status[TransitionStatus.COMPLETED],
        "failedJobs": jobs.by_status[TransitionStatus.FAILED],
        "cancelledJobs": jobs.by_status[TransitionStatus.CANCELLED],
        "expiredJobs": jobs.by_status[TransitionStatus.EXPIRED],
        "averageExecutionTimeMs": firing.average_execution_time_ms,
        "latenessMs": {
            "p50": firing.lateness_p50_ms,
            "p99": firing.lateness_p99_ms,
            "max": firing.lateness_max_ms,
        },
        "lastClaimAt": show_instant(firing.last_claim_at),
        "clockSkewMs": clock_skew_ms(),
        "processes": [
            {
                "kind": process.kind,
                "pid": process.pid,
                "host": process.host,
                "restarts": process.figures.get("restarts"),
                "startedAt": format_instant(process.started_at),
                "seenAt": format_instant(process.seen_at),
            }
            for process in processes
        ],
    }


def _show_kafka(processes: Sequence[ProcessState], *, now: datetime) -> dict[str, Any]:
    """Return the figures of the consumers."""
    consumers = sum_up_consumers(processes, now=now)
    return {
        CONSUMER: {
            "processes": consumers.processes,
            "handled": consumers.handled,
            "isPaused": consumers.is_paused,
            "pausedSince": consumers.paused_since,
            "pauseReason": consumers.pause_reason,
        },
        "consumerLag": consumers.lag,
    }
