"""What goes wrong, when: drawn from one seed, so that a run can be repeated."""

import contextlib
import random
import threading
import time
from collections import Counter

import psutil

PAUSE_SECONDS = 8.0
LEAST_AGE_SECONDS = 5.0


class Faults(threading.Thread):
    """Kills, pauses and restarts for so many seconds; `done` counts what it did.

    Every so many seconds a kill hits any process of the product. In turns of a minute a
    process of a cluster or a consumer is paused for longer than its lease every 15 s, the
    answers of PostgreSQL to one cluster are lost for some seconds, Kafka is killed once
    and stays away for some seconds, and PostgreSQL is restarted as after a crash.

    Args:
        tunnel: The forwarder between one cluster and PostgreSQL.
        only_kills: Whether kills are all that goes wrong.
    """

    def __init__(
        self, *, fleet, postgres, kafka, tunnel, seconds, kill_every, only_kills, seed
    ):
        super().__init__(name="faults", daemon=True)
        self._fleet = fleet
        self._postgres = postgres
        self._kafka = kafka
        self._tunnel = tunnel
        self._random = random.Random(seed)
        self._seconds = seconds
        self._kill_every = kill_every
        self._only_kills = only_kills
        # When to undo what, in monotonic seconds.
        self._undone_at = []
        self.done = Counter()
        # From when to when Kafka or PostgreSQL was away, in epoch seconds.
        self.outages = []
        self.errors = []

    def run(self):
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 -- told in the report
            self.errors.append(repr(error))
        finally:
            self._undo(all_of_them=True)

    def _run(self):
        began = time.monotonic()
        tick = 0
        while (now := time.monotonic() - began) < self._seconds:
            self._undo()
            if tick % self._kill_every == 0:
                self._kill_one()
            if not self._only_kills:
                self._break_more(tick)
            tick = max(tick + 1, int(now) + 1)
            time.sleep(max(0.0, began + tick - time.monotonic()))

    def _break_more(self, tick):
        if tick % 15 == 7:
            self._pause_one()
        if tick % 60 == 14:
            self._tunnel.lose_replies()
            self._undo_later(self._tunnel.return_replies)
            self.done[f"answers of PostgreSQL lost for {PAUSE_SECONDS:.0f} s"] += 1
        if tick % 60 == 30:
            self._kill_kafka()
        if tick % 60 == 50:
            with self._outage():
                self._postgres.restart_at_once()
            self.done["PostgreSQL restarts"] += 1

    def _kill_one(self):
        """Kill a process of one of the services that has lived for a while.

        On a machine where a start takes longer than a second, nothing would ever come up
        if those that start could be killed each second as well.
        """
        born_before = time.time() - LEAST_AGE_SECONDS
        name = self._random.choice(self._fleet.names)
        with contextlib.suppress(psutil.NoSuchProcess):
            grown = [
                one for one in self._fleet.tree(name) if one.create_time() < born_before
            ]
            if grown:
                self._random.choice(grown).kill()
                self.done["kill -9"] += 1

    def _pause_one(self):
        kinds = [one for one in self._fleet.everything() if not one[0].startswith("web")]
        if kinds:
            _, victim = self._random.choice(kinds)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.suspend()
                self._undo_later(victim.resume)
                self.done[f"pauses of {PAUSE_SECONDS:.0f} s"] += 1

    def _undo_later(self, act):
        self._undone_at.append((time.monotonic() + PAUSE_SECONDS, act))

    def _undo(self, *, all_of_them=False):
        now = time.monotonic()
        for at, act in list(self._undone_at):
            if all_of_them or now >= at:
                self._undone_at.remove((at, act))
                with contextlib.suppress(psutil.NoSuchProcess):
                    act()

    def _kill_kafka(self):
        away = self._random.uniform(2.0, 6.0)
        with self._outage():
            self._kafka.kill()
            self.done["Kafka killed"] += 1
            time.sleep(away)
            self._kafka.start()

    @contextlib.contextmanager
    def _outage(self):
        began = time.time()
        yield
        self.outages.append((began, time.time()))
