"""`python -m tests.chaos.ahead SECONDS COMMAND…`: manage.py on a host whose clock is ahead.

Only the time of day is wrong; waiting goes by the monotonic clock, which no host sets.
"""

import runpy
import sys
import time

import time_machine

from tests.support.servers import ROOT

if __name__ == "__main__":
    seconds = float(sys.argv[1])
    sys.argv[:2] = [str(ROOT / "manage.py")]
    time_machine.travel(time.time() + seconds, tick=True).start()
    runpy.run_path(sys.argv[0], run_name="__main__")
