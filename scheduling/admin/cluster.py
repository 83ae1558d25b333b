"""The processes of all hosts and what they hold, the brokers, the consumers' lag."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from typing_extensions import override

from scheduling.adapters.broker_probe import process_probe
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import ProcessState, ScheduledTransition
from scheduling.pages.base import AdminPage, admin_page
from scheduling.queries.statistics import (
    SILENCE,
    list_processes,
    sum_up_consumers,
)

# Lag of more partitions than that nobody reads.
MOST_PARTITIONS: Final = 200
# More are never running at once, all hosts together (SCHEDULER_MAX_CONCURRENT_JOBS).
_MOST_RUNNING: Final = 10_000
# A host, and a process there.
Place = tuple[str, int]


@dataclass(frozen=True)
class ShownProcess:
    """A process as the page shows it.

    holds: what it is at, in words.
    """

    row: ProcessState
    is_alive: bool
    restarts: Any
    holds: str


@admin_page
class Cluster(AdminPage):
    """Who is there and what they do; there is nothing to click that could harm."""

    path = "cluster/"
    name = "cluster"
    title = "Cluster"
    template_name = "admin/cluster.html"
    http_method_names = ["get", "head"]

    @override
    def context(self) -> dict[str, Any]:
        processes = sorted(
            list_processes(now=self.now), key=lambda one: (one.host, one.kind, one.pid)
        )
        consumers = sum_up_consumers(processes, now=self.now)
        held = _held_jobs()
        known = {(one.host, one.pid) for one in processes}
        lag = sorted(consumers.lag.items(), key=lambda one: (-one[1], one[0]))
        return {
            "hosts": [
                (host, [_shown(one, held, now=self.now) for one in rows])
                for host, rows in groupby(processes, key=lambda one: one.host)
            ],
            # Workers write no row of their own; what they hold tells of them.
            "workers": [
                (host, pid, count)
                for (host, pid), count in sorted(held.items())
                if (host, pid) not in known
            ],
            "brokers": process_probe().ask().brokers,
            "consumers": consumers,
            "lag": lag[:MOST_PARTITIONS],
            "more_partitions": max(0, len(lag) - MOST_PARTITIONS),
        }


def _held_jobs() -> Mapping[Place, int]:
    """Return how many jobs each process holds now."""
    running = ScheduledTransition.objects.filter(status=TransitionStatus.RUNNING)
    owners = running.order_by().values_list("claimed_by", flat=True)[:_MOST_RUNNING]
    return Counter(place for owner in owners if (place := _place(owner)) is not None)


def _place(owner: str) -> Place | None:
    """Return the host and process that a claim names; None where it has another form."""
    host, _, rest = owner.partition("|")
    pid = rest.partition("@")[0]
    is_pid = pid.isascii() and pid.isdigit()
    return (host.partition("/")[0], int(pid)) if is_pid else None


def _shown(row: ProcessState, held: Mapping[Place, int], *, now: datetime) -> ShownProcess:
    """Return a process as the page shows it."""
    figures = row.figures if isinstance(row.figures, dict) else {}
    return ShownProcess(
        row=row,
        is_alive=now - row.seen_at <= SILENCE,
        restarts=figures.get("restarts"),
        holds=", ".join(_holds(row, figures, held)),
    )


def _holds(
    row: ProcessState, figures: Mapping[str, Any], held: Mapping[Place, int]
) -> Sequence[str]:
    """Return what a process is at, in words."""
    told = []
    if count := held.get((row.host, row.pid)):
        told.append(f"{count} running transition{'' if count == 1 else 's'}")
    lag = figures.get("lag")
    if isinstance(lag, dict) and lag:
        told.append(f"{len(lag)} partition{'' if len(lag) == 1 else 's'}")
    if figures.get("isPaused"):
        told.append(f"paused: {figures.get('pauseReason') or 'no reason known'}")
    return told
