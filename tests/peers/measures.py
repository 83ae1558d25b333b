"""What is measured. Each function is given a stand in which nothing runs yet.

All instants are the harness's clock: lateness is the record's arrival at a consumer beside
the peer minus the due instant, the same way for everybody.
"""

import time

from autopilot_site.benchmarks.machine import spread
from tests.peers.watcher import FAR

SMOKE_JOBS = 50
SMOKE_MS = 3_000
LATENESS_JOBS = 1_000
LATENESS_MS = 20_000
BURST_JOBS = 5_000
# A peer that needs longer is judged by what it has done by then.
MOST_SECONDS = 60
AFTERWARDS_SECONDS = 1
CALLS = 1_000
BULK_JOBS = 10_000
PENDING = 10_000
IDLE_SETTLE_SECONDS = 12
IDLE_SECONDS = 40
DAY_MS = 24 * 3_600_000
KILL_JOBS = 200
KILL_MS = 20_000
KILL_BURST_JOBS = 1_000
RESTART_AFTER_SECONDS = 1
# BullMQ hands out again what a dead worker held after up to 60 s, django-q2 after 30 s.
WATCH_SECONDS = 75
# As long as records still come, nothing is lost yet.
STILL_COMING_SECONDS = 20
MOST_WATCH_SECONDS = 150


def measure_smoke(stand, watcher):
    """See that a peer works at all."""
    return _fire(stand, watcher, SMOKE_JOBS, span_ms=SMOKE_MS)


def measure_lateness(stand, watcher):
    """Let jobs come due one after the other, evenly over a while."""
    return _fire(stand, watcher, LATENESS_JOBS, span_ms=LATENESS_MS)


def measure_burst(stand, watcher):
    """Let many come due at one instant."""
    return _fire(stand, watcher, BURST_JOBS, bulk=stand.peer.has_bulk)


def _fire(stand, watcher, count, *, span_ms=0, bulk=False):
    stand.start(watcher)
    due_ms = _now_ms() + _lead_ms(stand, count, bulk=bulk)
    stand.schedule(0, count, due_ms=due_ms, span_ms=span_ms, bulk=bulk)
    is_in_time = _now_ms() < due_ms
    _sleep_until(due_ms - 50)
    before = stand.used_cpu()
    with stand.control() as control:
        seconds = (due_ms + span_ms - _now_ms()) / 1000 + MOST_SECONDS
        watcher.wait(stand.block, count, seconds=seconds, check=stand.check)
    # What is put in order after the record counts as well.
    time.sleep(AFTERWARDS_SECONDS)
    fires, store = (now - then for then, now in zip(before, stand.used_cpu(), strict=True))
    came = watcher.arrivals(stand.block, count)
    first = [times[0] for times in came if times]
    late = [
        times[0] * 1000 - (due_ms + span_ms * at // count)
        for at, times in enumerate(came)
        if times
    ]
    took = max(first) - min(first) if first else 0.0
    return {
        "jobs": count,
        "came": len(first),
        "twice": sum(len(times) > 1 for times in came),
        "early": sum(value < 0 for value in late),
        "latenessMs": spread(late),
        "perSecond": round((len(first) - 1) / took, 1) if took else None,
        "secondsFromDue": round(max(first) - due_ms / 1000, 3) if first else None,
        "firingCpuMsPerRecord": round(1000 * fires / max(1, len(first)), 3),
        "storeCpuMsPerRecord": round(1000 * store / max(1, len(first)), 3),
        "wereScheduledInTime": is_in_time,
        "control": control.result(),
    }


def _lead_ms(stand, count, *, bulk):
    """Return how far ahead they must be due; what goes in bulk is there in no time."""
    return 8_000 if bulk else stand.lead_ms(count)


def measure_schedule(stand, _):
    """Schedule one job after the other, each by its own call."""
    stand.start_scheduler()
    return _schedule(stand, CALLS, bulk=False)


def measure_bulk(stand, _):
    """Schedule many by calls of a thousand; nothing where a peer has no such call."""
    if not stand.peer.has_bulk:
        return None
    stand.start_scheduler()
    return _schedule(stand, BULK_JOBS, bulk=True)


def _schedule(stand, count, *, bulk):
    # The first call opens connections and prepares statements.
    stand.schedule(FAR, 1, due_ms=_now_ms() + DAY_MS, bulk=bulk)
    with stand.control() as control:
        seconds = stand.schedule(0, count, due_ms=_now_ms() + DAY_MS, bulk=bulk)
    return {
        "jobs": count,
        "perSecond": round(count / seconds, 1),
        "control": control.result(),
    }


def measure_idle(stand, watcher):
    """Let many wait for tomorrow, and see what waiting costs."""
    stand.start(watcher)
    stand.schedule(0, PENDING, due_ms=_now_ms() + DAY_MS, bulk=stand.peer.has_bulk)
    stand.stop_scheduling()
    stand.quieten_store()
    time.sleep(IDLE_SETTLE_SECONDS)
    with stand.control() as control:
        before = stand.used_cpu()
        began_at = time.monotonic()
        time.sleep(IDLE_SECONDS)
        minutes = (time.monotonic() - began_at) / 60
        fires, store = (
            round((now - then) / minutes, 3)
            for then, now in zip(before, stand.used_cpu(), strict=True)
        )
    stand.check()
    return {
        "pending": PENDING,
        "firingCpuSecondsPerMinute": fires,
        "storeCpuSecondsPerMinute": store,
        "cpuSecondsPerMinute": round(fires + store, 3),
        "early": watcher.seen(stand.block),
        "control": control.result(),
    }


def measure_kill(stand, watcher):
    """Kill all that fires halfway through jobs due one after the other."""
    stand.start(watcher)
    due_ms = _now_ms() + stand.lead_ms(KILL_JOBS)
    stand.schedule(0, KILL_JOBS, due_ms=due_ms, span_ms=KILL_MS)
    is_in_time = _now_ms() < due_ms
    _sleep_until(due_ms + KILL_MS / 2)
    return {
        "wereScheduledInTime": is_in_time,
        **_kill(stand, watcher, KILL_JOBS, due_ms=due_ms, span_ms=KILL_MS),
    }


def measure_kill_burst(stand, watcher):
    """Kill all that fires when a third of many jobs due at one instant have come."""
    stand.start(watcher)
    count, has_bulk = KILL_BURST_JOBS, stand.peer.has_bulk
    due_ms = _now_ms() + _lead_ms(stand, count, bulk=has_bulk)
    stand.schedule(0, count, due_ms=due_ms, bulk=has_bulk)
    is_in_time = _now_ms() < due_ms
    give_up_at = time.monotonic() + (due_ms - _now_ms()) / 1000 + MOST_SECONDS
    while watcher.seen(stand.block) < count / 3 and time.monotonic() < give_up_at:
        time.sleep(0.001)
    return {
        "wereScheduledInTime": is_in_time,
        **_kill(stand, watcher, count, due_ms=due_ms, span_ms=0),
    }


def _kill(stand, watcher, count, *, due_ms, span_ms):
    """Kill it, start it again a second later, and count what is on the topic at the end."""
    killed_at = time.time()
    stand.kill()
    before = watcher.seen(stand.block)
    time.sleep(RESTART_AFTER_SECONDS)
    started_at = time.time()
    stand.start_worker()
    with stand.control() as control:
        _watch(watcher, stand.block, started_at)
    came = watcher.arrivals(stand.block, count)
    dues = [due_ms + span_ms * at // count for at in range(count)]
    after = [times[0] for times in came if times and times[0] > started_at]
    return {
        "jobs": count,
        "beforeTheKill": before,
        "lost": sum(not times for times in came),
        # Due while nothing ran, or later: those had never been begun.
        "lostDueAfterTheKill": sum(
            not times and due / 1000 > killed_at
            for times, due in zip(came, dues, strict=True)
        ),
        "twice": sum(len(times) > 1 for times in came),
        "early": sum(
            bool(times) and times[0] * 1000 < due
            for times, due in zip(came, dues, strict=True)
        ),
        "secondsToTheFirst": round(min(after) - started_at, 3) if after else None,
        "secondsToTheLast": round(max(after) - started_at, 3) if after else None,
        "watchedSeconds": round(time.time() - started_at, 1),
        "control": control.result(),
    }


def _watch(watcher, block, started_at):
    """Wait so long that all comes that ever will."""
    seen, changed_at = watcher.seen(block), time.time()
    while True:
        now = time.time()
        if watcher.seen(block) != seen:
            seen, changed_at = watcher.seen(block), now
        is_over = now > started_at + WATCH_SECONDS
        if is_over and now > changed_at + STILL_COMING_SECONDS:
            return
        if now > started_at + MOST_WATCH_SECONDS:
            return
        time.sleep(0.25)


def _sleep_until(epoch_ms):
    time.sleep(max(0.0, epoch_ms / 1000 - time.time()))


def _now_ms():
    return int(time.time() * 1000)


# In the order in which they are run.
MEASURES = {
    "smoke": measure_smoke,
    "schedule": measure_schedule,
    "bulk": measure_bulk,
    "lateness": measure_lateness,
    "burst": measure_burst,
    "idle": measure_idle,
    "kill": measure_kill,
    "kill-burst": measure_kill_burst,
}
USUAL_MEASURES = [name for name in MEASURES if name != "smoke"]
# They count and do not time: all peers are killed side by side.
SIDE_BY_SIDE = {"kill", "kill-burst"}
