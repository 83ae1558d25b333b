"""What must not grow while the product goes on: memory, descriptors, sessions, lateness."""

import threading
import time
from collections import Counter

import psutil
import psycopg

EVERY_SECONDS = 60.0
# What is new is still loading, and what was just started again is small.
SETTLED_SECONDS = 300.0


class Growth(threading.Thread):
    """Notes each minute what the processes of a fleet hold.

    samples: by minute, `at` in epoch seconds; by service its processes, memory (PSS) in
        MiB, descriptors and threads; PostgreSQL's sessions.
    """

    def __init__(self, fleet, database_url):
        super().__init__(name="growth", daemon=True)
        self._fleet = fleet
        self._url = database_url
        self._is_over = threading.Event()
        self.samples = []

    def run(self):
        while not self._is_over.wait(EVERY_SECONDS):
            try:
                sample = {"at": time.time(), "sessions": self._sessions()}
            except psycopg.Error:
                # It is being restarted.
                continue
            sample["services"] = {name: self._held_by(name) for name in self._fleet.names}
            self.samples.append(sample)

    def stop(self):
        """Let it end."""
        self._is_over.set()
        self.join(EVERY_SECONDS)

    def _sessions(self):
        with psycopg.connect(self._url, connect_timeout=5) as session:
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = %(kind)s"
            return session.execute(query, {"kind": "client backend"}).fetchone()[0]

    def _held_by(self, name):
        held = Counter()
        for process in self._fleet.tree(name):
            try:
                with process.oneshot():
                    one = {
                        "processes": 1,
                        "MiB": process.memory_full_info().pss / 2**20,
                        "descriptors": process.num_fds(),
                        "threads": process.num_threads(),
                    }
            except psutil.Error:
                continue
            held.update(one)
        return dict(held)


def with_lateness(samples, events):
    """Add to each sample the lateness of what came due in the minute before it.

    Args:
        events: Of each event its due instant and its arrival, in epoch seconds.
    """
    for sample in samples:
        since = sample["at"] - EVERY_SECONDS
        late = sorted(
            (seen_at - due) * 1000 for due, seen_at in events if since <= due < sample["at"]
        )
        if late:
            sample["lateness p50 ms"] = round(late[len(late) // 2], 1)
            sample["lateness p99 ms"] = round(late[int(len(late) * 0.99)], 1)
    return samples


def summary(samples):
    """Return what stood at the beginning and at the end, by figure: medians of a sixth.

    Empty where there are too few samples to tell.
    """
    settled = [one for one in samples if one["at"] - samples[0]["at"] >= SETTLED_SECONDS]
    share = len(settled) // 6
    if not share:
        return {}
    first, last = settled[:share], settled[-share:]
    names = settled[0]["services"]
    figures = {
        f"{name}: {what}": lambda one, name=name, what=what: one["services"][name].get(what)
        for name in names
        for what in ("MiB", "descriptors", "threads")
    }
    figures |= {
        what: lambda one, what=what: one.get(what)
        for what in ("sessions", "lateness p50 ms", "lateness p99 ms")
    }
    return {
        name: (_median(map(read, first)), _median(map(read, last)))
        for name, read in figures.items()
    }


def _median(values):
    known = sorted(value for value in values if value is not None)
    return round(known[len(known) // 2], 1) if known else None
