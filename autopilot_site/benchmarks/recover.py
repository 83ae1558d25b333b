"""Recovery: how fast it makes what is missing, and compares what is there.

Each run is a `manage.py recover` against a Challenge service over HTTP, both in processes
of their own: a run's time is its own `executionTime`, its memory its peak.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError
from django.db import transaction
from django.db.models import Max
from typing_extensions import override

from autopilot_site.benchmarks.challenge_pages import OPERATOR
from autopilot_site.benchmarks.jobs import FIRST_PROJECT
from autopilot_site.benchmarks.machine import Control
from autopilot_site.benchmarks.measures import Bench, Figures, measure_lateness
from autopilot_site.benchmarks.processes import Process
from recovery.results import COUNTERS
from scheduling.adapters.attendance import NICENESS
from scheduling.adapters.clock import database_now
from scheduling.models import AuditEntry, Challenge, ScheduledTransition

FIRST_RUN_PHASES: Final = 1_000
PHASES_PER_CHALLENGE: Final = 4
# Every how-manieth challenge is another one the second time.
MOVED: Final = 100
OVER: Final = 500
LEAD: Final = timedelta(days=10)
FIRING_PER_SECOND: Final = 20
# Far enough from the projects of the other measurements.
_FIRST_PROJECT: Final = FIRST_PROJECT + 100_000_000
PATIENCE_SECONDS: Final = 900.0
MIB: Final = 2**20
# Rows are made for this; they need no pauses, and batches as large as there may be.
_AT_ONCE: Final = {"RECOVERY_BATCH_DELAY": "0", "RECOVERY_MAX_BATCH_SIZE": "1000"}


class ChallengePages(Process):
    """The Challenge service of `challenge_pages`."""

    def __init__(self, *, challenges: int, phases: int, moved: int, over: int) -> None:
        super().__init__([], environment={})
        start = int((database_now() + LEAD).timestamp()) // 86_400 * 86_400
        numbers = (challenges, phases, _FIRST_PROJECT, start, moved, over)
        self._command = [
            *(sys.executable, "-m", "autopilot_site.benchmarks.challenge_pages"),
            *map(str, numbers),
        ]

    def wait_for_url(self) -> str:
        """Return its address once it serves.

        Raises:
            CommandError: It ended, or does not serve in time.
        """
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            self.check()
            for line in self.output().splitlines():
                if line.startswith("port "):
                    return f"http://127.0.0.1:{line.removeprefix('port ')}"
            time.sleep(0.05)
        raise CommandError(f"the Challenge service does not start:\n{self.tail()}")


class RecoverProcess(Process):
    """One `manage.py recover --json`, whose memory is watched."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(["recover", "--json"], environment=environment)
        # As the process beside a cluster runs it.
        self._command = ["nice", "-n", str(NICENESS), *self._command]
        self._peak: float | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="peak")

    @override
    def start(self) -> None:
        """Start it, and watch it."""
        super().start()
        self._watcher.start()

    def wait(self) -> tuple[dict[str, Any], float | None]:
        """Return the run's result and its peak memory in MiB, once it has ended.

        Raises:
            CommandError: It failed, or takes too long.
        """
        process = self._process
        assert process is not None  # noqa: S101 -- for the type checker
        self._watcher.join(PATIENCE_SECONDS)
        if process.poll() is None:
            raise CommandError(f"a run of recovery takes too long:\n{self.tail()}")
        if process.returncode:
            raise CommandError(f"a run of recovery failed:\n{self.tail()}")
        text = self.output()
        return json.loads(text[text.index("{\n") : text.rindex("}") + 1]), self._peak

    def _watch(self) -> None:
        """Read its peak memory until it ends."""
        process = self._process
        while process is not None and process.poll() is None:
            self._peak = _peak_mib(process.pid) or self._peak
            time.sleep(0.05)


def _peak_mib(pid: int) -> float | None:
    """Return the most memory that a process has occupied (proc(5), VmHWM)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / MIB, 1)
    return None


def measure_recover(bench: Bench, *, challenges: int, seconds: float) -> Figures:
    """Measure a first run, a large one that finds little to do, and one that finds nothing.

    Firing is measured at FIRING_PER_SECOND without and beside the large one.
    """
    try:
        with bench.stage("recover: 1,000 phases that have no job", 1), Control() as control:
            first = _run(
                challenges=FIRST_RUN_PHASES // PHASES_PER_CHALLENGE,
                phases=PHASES_PER_CHALLENGE,
            )
        first["control"] = control.result()
        _remove(bench)
        with bench.stage(f"recover: making {2 * challenges:,} jobs", 1):
            _run(challenges=challenges, environment=_AT_ONCE)
        rows = _ours().filter(status="scheduled").count()
        jobs = max(1, round(FIRING_PER_SECOND * seconds))
        idle = measure_lateness(bench, jobs=jobs, window_seconds=seconds)
        with bench.stage("recover: what was moved or is over", 1):
            changed, busy = _run_beside_firing(
                bench, challenges=challenges, jobs=jobs, seconds=seconds
            )
        before = _marks()
        with bench.stage("recover: nothing new", 1):
            unchanged = _run(challenges=challenges, moved=MOVED, over=OVER)
        return {
            "firstRun": first,
            "rows": rows,
            "challenges": challenges,
            "changed": changed,
            "unchanged": unchanged,
            "unchangedWroteNothing": before == _marks(),
            **busy,
            "idleLatenessMs": idle["latenessMs"],
            "idleControl": idle["control"],
        }
    finally:
        _remove(bench)


def _run_beside_firing(
    bench: Bench, *, challenges: int, jobs: int, seconds: float
) -> tuple[Figures, Figures]:
    """Return the figures of a run in which a few differ, and of what fires meanwhile."""
    with (
        _service(challenges=challenges, moved=MOVED, over=OVER) as url,
        RecoverProcess({"CHALLENGE_SERVICE_URL": url}) as process,
    ):
        process.start()
        busy = measure_lateness(bench, jobs=jobs, window_seconds=seconds)
        result, peak = process.wait()
    return _figures(result, peak), busy


def _run(
    *,
    challenges: int,
    phases: int = 1,
    moved: int = 0,
    over: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Figures:
    """Run recovery against so many challenges, and return its figures."""
    with (
        _service(challenges=challenges, phases=phases, moved=moved, over=over) as url,
        RecoverProcess({"CHALLENGE_SERVICE_URL": url, **(environment or {})}) as process,
    ):
        process.start()
        result, peak = process.wait()
    return _figures(result, peak)


@contextmanager
def _service(
    *, challenges: int, phases: int = 1, moved: int = 0, over: int = 0
) -> Iterator[str]:
    """Start a Challenge service; give its address."""
    with ChallengePages(
        challenges=challenges, phases=phases, moved=moved, over=over
    ) as pages:
        pages.start()
        yield pages.wait_for_url()


def _figures(result: Mapping[str, Any], peak: float | None) -> Figures:
    """Return what a run tells of itself."""
    return {
        "status": result["status"],
        "seconds": result["executionTime"] / 1000,
        "peakMb": peak,
        "transitions": result["totalPhasesProcessed"],
        **{name: result[name] for name in COUNTERS.values() if result[name]},
    }


def _ours() -> Any:
    """Return the jobs that were made for this."""
    return ScheduledTransition.objects.filter(
        project_id__gte=str(FIRST_PROJECT), operator=OPERATOR
    )


def _marks() -> tuple[object, ...]:
    """Return what changes with any write to a job, its challenge or their audit."""
    return (
        _ours().count(),
        _ours().aggregate(at=Max("updated_at"))["at"],
        Challenge.objects.aggregate(at=Max("read_at"))["at"],
        AuditEntry.objects.exclude(action__startswith="recovery.").aggregate(at=Max("id")),
    )


def _remove(bench: Bench) -> None:
    """Remove the jobs as clean-up does, and the challenges that were read."""
    with bench.stage("clearing away", _ours().count()) as tick:
        bench.workload.remove(tick=tick, rows=_ours())
    with transaction.atomic():
        Challenge.objects.filter(
            project_id__startswith=str(FIRST_PROJECT)[:7],
            project_id__gte=str(FIRST_PROJECT),
        ).delete()


def problems_of(figures: Mapping[str, Any]) -> Iterator[str]:
    """Name what a benchmark of recovery must never see, whatever the figures."""
    for name in ("firstRun", "changed", "unchanged"):
        if figures[name]["status"] != "COMPLETED":
            yield f"{name}: the run ended as {figures[name]['status']}"
    if not figures["unchangedWroteNothing"]:
        yield "a run that found nothing new has written something"
    if figures["early"]:
        yield f"{figures['early']} jobs were published early"
    if figures["completed"] < figures["jobs"]:
        yield f"{figures['jobs'] - figures['completed']} jobs were not published in time"
