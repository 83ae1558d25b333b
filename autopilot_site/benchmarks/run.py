"""One benchmark from start to end: refuse, start what is needed, measure, clear away."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection

from autopilot_site.benchmarks import measures
from autopilot_site.benchmarks.api import measure_api
from autopilot_site.benchmarks.consume import measure_consume, problems_of
from autopilot_site.benchmarks.interrupts import closing_interrupts
from autopilot_site.benchmarks.jobs import Tick, Workload, of_benchmarks
from autopilot_site.benchmarks.machine import describe
from autopilot_site.benchmarks.measures import Bench
from autopilot_site.benchmarks.processes import Process, has_other_sessions
from autopilot_site.benchmarks.recover import measure_recover
from autopilot_site.benchmarks.recover import problems_of as problems_of_recover
from scheduling.adapters.clock import database_now
from scheduling.domain.actors import Actor
from scheduling.domain.errors import SchedulingError
from scheduling.models import ScheduledTransition

MEASUREMENTS = (
    "schedule",
    "consume",
    "lateness",
    "burst",
    "burst-one-key",
    "api",
    "idle",
    "memory",
    "restart",
    "recover",
)
BROKER_START_SECONDS = 20.0
Stage = Callable[[str, float], AbstractContextManager[Tick]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured; `jobs` replaces each measurement's own number."""

    jobs: int | None = None
    window_seconds: float = 20.0
    idle_seconds: float = 60.0
    pending: Sequence[int] = (10_000, 100_000)

    def of(self, usual: int) -> int:
        """Return the number of jobs of a measurement that usually has so many."""
        return usual if self.jobs is None else self.jobs


def run_benchmark(
    *, only: Sequence[str], sizes: Sizes, force: bool, actor: Actor, stage: Stage
) -> dict[str, Any]:
    """Measure what is asked for and return the whole document.

    Raises:
        CommandError: The database has live jobs, the settings refuse such jobs, or a
            process that was started fails.
    """
    _check_database_is_free(force=force)
    now = database_now()
    workload = Workload(run=now.strftime("%Y%m%dT%H%M%S"), actor=actor)
    try:
        # Whatever ends the body, it ends in peace what the stack holds.
        with ExitStack() as stack, closing_interrupts():
            environment, broker = _broker(stack)
            stack.callback(_remove, workload, stage)
            cluster = stack.enter_context(Process(["qcluster"], environment=environment))
            bench = Bench(
                workload=workload,
                cluster=cluster,
                client={**settings.KAFKA_CLIENT, **_client(environment)},
                actor=actor,
                stage=stage,
            )
            results = _measure(bench, only=only, sizes=sizes)
    except SchedulingError as error:
        raise CommandError(str(error)) from error
    return {
        "run": workload.run,
        "at": now.isoformat(),
        "environment": describe(broker=broker),
        "results": results,
        "problems": list(_problems(results)),
    }


def _check_database_is_free(*, force: bool) -> None:
    """Refuse a database in which somebody else's jobs would be measured, or ours taken.

    Raises:
        CommandError: It has live jobs or other sessions, and nobody insists.
    """
    if force:
        return
    left = of_benchmarks().count()
    live = ScheduledTransition.objects.live().count()
    if live or left:
        raise CommandError(
            f"the database has {live:,} live jobs and {left:,} rows of an earlier "
            "benchmark: use another database, or --force, which measures beside the live "
            "jobs and removes the rows"
        )
    if has_other_sessions():
        raise CommandError(
            "other processes are connected to this database and may take the "
            "benchmark's jobs: stop them, or use --force"
        )


def _remove(workload: Workload, stage: Stage) -> None:
    """Remove what is left, also after a failure or Ctrl-C."""
    connection.close_if_unusable_or_obsolete()
    with stage("clearing away", of_benchmarks().count()) as tick:
        workload.remove(tick=tick)


def _broker(stack: ExitStack) -> tuple[dict[str, str], str]:
    """Return the variable that names the broker, and what kind it is.

    Raises:
        CommandError: The embedded broker does not start.
    """
    if not settings.KAFKA_IS_EMBEDDED:
        servers = str(settings.KAFKA_CLIENT["bootstrap.servers"])
        return {"KAFKA_BOOTSTRAP_SERVERS": servers}, f"Kafka at {servers}"
    process = stack.enter_context(
        Process(["embedded_kafka", "--port", "0", "--exit-with-parent"], environment={})
    )
    process.start()
    give_up_at = time.monotonic() + BROKER_START_SECONDS
    while time.monotonic() < give_up_at:
        process.check()
        for line in process.output().splitlines():
            if line.startswith("bootstrap "):
                servers = line.removeprefix("bootstrap ").strip()
                return {"KAFKA_BOOTSTRAP_SERVERS": servers}, "embedded (librdkafka's mock)"
        time.sleep(0.05)
    raise CommandError(f"the embedded broker does not start:\n{process.tail()}")


def _client(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the librdkafka setting for the same broker."""
    return {"bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"]}


def _measure(bench: Bench, *, only: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    """Run the measurements that were asked for, in their order."""
    results: dict[str, Any] = {}
    wanted = {
        name: measure for name, measure in _MEASURES.items() if {*name.split("+")} & {*only}
    }
    for name, measure in wanted.items():
        if name not in _WITHOUT_CLUSTER and not bench.cluster.is_running:
            bench.start_cluster()
        results["pending" if "+" in name else name] = measure(bench, only, sizes)
    return results


def _pending(bench: Bench, only: Sequence[str], sizes: Sizes) -> list[dict[str, Any]]:
    """Measure what waiting jobs cost, and take them away."""
    results = measures.measure_pending(
        bench,
        pending=sizes.pending,
        seconds=sizes.idle_seconds,
        idle="idle" in only,
        memory="memory" in only,
    )
    # A cluster would look at the rows while they go.
    bench.cluster.stop()
    bench.clear()
    return results


# These come before the cluster is started.
_WITHOUT_CLUSTER = frozenset({"schedule", "consume"})
# Two names joined are measured together; the last stops the cluster.
_MEASURES: dict[str, Callable[[Bench, Sequence[str], Sizes], Any]] = {
    "schedule": lambda bench, _, sizes: measures.measure_schedule(
        bench, calls=sizes.of(2_000), jobs=sizes.of(10_000)
    ),
    "consume": lambda bench, _, sizes: measure_consume(bench, records=sizes.of(10_000)),
    "lateness": lambda bench, _, sizes: measures.measure_lateness(
        bench, jobs=sizes.of(1_000), window_seconds=sizes.window_seconds
    ),
    "burst": lambda bench, _, sizes: measures.measure_burst(bench, jobs=sizes.of(10_000)),
    "burst-one-key": lambda bench, _, sizes: measures.measure_burst_on_one_key(
        bench, jobs=sizes.of(10_000)
    ),
    "api": lambda bench, _, sizes: measure_api(
        bench, rows=sizes.of(10_000), seconds=sizes.window_seconds
    ),
    "restart": lambda bench, _, sizes: measures.measure_restart(
        bench, jobs=sizes.of(1_000)
    ),
    "recover": lambda bench, _, sizes: measure_recover(
        bench, challenges=sizes.of(50_000), seconds=sizes.window_seconds
    ),
    "idle+memory": _pending,
}


def _problems(results: Mapping[str, Any]) -> Iterator[str]:
    """Name what a benchmark must never see, whatever the figures."""
    for name, figures in results.items():
        if name == "consume":
            yield from (f"{name}: {finding}" for finding in problems_of(figures))
        if name == "recover":
            yield from (f"{name}: {finding}" for finding in problems_of_recover(figures))
        if name in {"schedule", "consume", "pending", "recover"}:
            continue
        done = figures["completed"]
        findings = {
            f"{figures['jobs'] - done} jobs were not published in time": (
                done < figures["jobs"]
            ),
            f"{figures['audited']} of {done} completions are in the audit": (
                figures["audited"] != done
            ),
            f"{figures['early']} jobs were published early": figures["early"],
            f"{figures.get('orderViolations')} records are out of order": (
                figures.get("orderViolations")
            ),
            f"{figures.get('onTheTopic')} of {done} jobs are on the topic": (
                figures.get("onTheTopic", done) < done
            ),
            "scheduling took longer than its lead, so its lateness means nothing": (
                not figures.get("wereScheduledInTime", True)
            ),
        }
        yield from (f"{name}: {finding}" for finding, holds in findings.items() if holds)
