"""How the harness asks a program to schedule: a JSON line in, a JSON line out."""

import json
import sys
import time

# Whatever else a library prints is told apart by it.
MARK = "peers "
CHUNK = 1_000


def serve(one, many=None):
    """Answer until stdin is closed.

    Args:
        one: Schedules one job, given its number and its due instant in epoch milliseconds.
        many: Schedules up to a thousand such pairs; None where a peer has no such call.
    """
    _answer({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        count = asked["count"]
        jobs = [
            (asked["first"] + at, asked["dueMs"] + asked["spanMs"] * at // count)
            for at in range(count)
        ]
        began_at = time.perf_counter()
        if asked["bulk"]:
            for start in range(0, count, CHUNK):
                many(jobs[start : start + CHUNK])
        else:
            for number, due_ms in jobs:
                one(number, due_ms)
        _answer({"seconds": time.perf_counter() - began_at})


def _answer(content):
    print(MARK + json.dumps(content), flush=True)
