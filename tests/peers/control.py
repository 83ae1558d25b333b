"""How much the machine was disturbed meanwhile."""

import os
import time

import psutil

from autopilot_site.benchmarks.machine import Control


def cpu_seconds(top):
    """Return the CPU seconds of a process tree, those of its ended children included."""
    used = 0.0
    for process in [top, *top.children(recursive=True)]:
        try:
            used += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return used


class Disturbance(Control):
    """The benchmark's control, and which share of the CPUs went to others than us.

    A timer sleeps most of the time, so that it is woken soon even where nobody gets all
    the CPU that they could use. Ours is what stands below the process that started us,
    where `.ci/with-services` has its Kafka too, and the PostgreSQL server.
    """

    def __init__(self, services):
        super().__init__()
        self._trees = [psutil.Process(os.getppid()), services.postmaster()]
        self._ours = self._began_at = 0.0

    def __enter__(self):
        self._ours = self._used()
        self._began_at = time.monotonic()
        return super().__enter__()

    def __exit__(self, *details):
        seconds = (time.monotonic() - self._began_at) * psutil.cpu_count()
        self._ours = 100 * (self._used() - self._ours) / seconds
        super().__exit__(*details)
        self._result = super().result()

    def _used(self):
        return sum(map(cpu_seconds, self._trees))

    def result(self):
        """Return the control's figures, with the share of others."""
        others = self._result["busyPercent"] - self._ours
        return {
            **self._result,
            "othersPercent": round(max(0.0, others), 1),
            "load": round(os.getloadavg()[0], 2),
        }
