"""What the processes of one cluster show of their work, in memory shared by fork.

The due-broker and the lanes write a number each time they do something, which costs
nothing; the heartbeat beside the cluster reads them and writes them to the table. It
outlives the restarts of the cluster, unlike the board of the lanes.
"""

import multiprocessing
import time

_FORK = multiprocessing.get_context("fork")


class Vitals:
    """Signs of life of one `qcluster` command; instants are monotonic seconds, 0: never.

    restarts: how often the cluster was started afresh.
    step_seconds: by how much the clock was stepped, while nothing fires for it; else 0.
    """

    def __init__(self) -> None:
        self._looked_at = _FORK.RawValue("d", 0.0)
        self._claimed_at = _FORK.RawValue("d", 0.0)
        self._restarts = _FORK.RawValue("i", 0)
        self._step_seconds = _FORK.RawValue("d", 0.0)

    def note_look(self) -> None:
        """Note that the due-broker has seen the tables."""
        self._looked_at.value = time.monotonic()

    def note_claim(self) -> None:
        """Note that a lane has claimed something."""
        self._claimed_at.value = time.monotonic()

    def note_restart(self) -> None:
        """Note that the cluster is started afresh."""
        self._restarts.value += 1

    def note_clock(self, *, step_seconds: float) -> None:
        """Note by how much the clock was stepped; 0 once it can be trusted."""
        self._step_seconds.value = step_seconds

    @property
    def restarts(self) -> int:
        """How often the cluster was started afresh."""
        return int(self._restarts.value)

    @property
    def step_seconds(self) -> float:
        """The step for which nothing fires; 0 where there is none."""
        return float(self._step_seconds.value)

    @property
    def seconds_since_look(self) -> float | None:
        """How long ago the due-broker saw the tables; None: not yet."""
        return _seconds_since(self._looked_at.value)

    @property
    def seconds_since_claim(self) -> float | None:
        """How long ago a lane claimed something; None: not yet."""
        return _seconds_since(self._claimed_at.value)


def _seconds_since(instant: float) -> float | None:
    """Return the seconds that have passed since a monotonic instant; None for 0."""
    return time.monotonic() - instant if instant else None


# Made at import, which is before the command forks anything.
process_vitals = Vitals()
