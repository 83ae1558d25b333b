"""Autopilot beside its peers: `.ci/with-services python -m tests.peers …`.

    --prepare                    install the peers into --home (once)
    --peer A,B --measure X,Y     measure; each result is a line of --results
    --table                      print the tables of --results, and measure nothing

Runs are interleaved: all of it for each peer, then all of it again, so that what else the
machine does falls on all alike. Killing counts and does not time, and is done to all side
by side.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.peers.catalogue import PEERS, USUAL
from tests.peers.measures import MEASURES, SIDE_BY_SIDE, USUAL_MEASURES
from tests.peers.stand import PROGRAMS, Services, Stand, prepare
from tests.peers.summary import faults, read, tables
from tests.peers.watcher import Watcher
from tests.support.servers import ROOT

HERE = Path(__file__).parent
POM = ROOT / ".ci" / "kafka" / "pom.xml"
KAFKA_VERSION = re.compile(r"<kafka\.version>(.*)</kafka\.version>")
OURS = ("django", "django-q2", "confluent-kafka", "psycopg")


def main():
    """Do what the command line says, and return the exit code."""
    options = _options()
    if options.prepare:
        prepare(options.home)
    elif options.table:
        _show(read(options.results))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        _measure(options)
        _show(read(options.results))
    return 0


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m tests.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument(
        "--home", type=Path, default=ROOT / "var" / "peers", help="where the peers are"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--peer", type=_names(PEERS), default=list(USUAL))
    parser.add_argument("--measure", type=_names(MEASURES), default=USUAL_MEASURES)
    return parser.parse_args()


def _names(known):
    def names(text):
        found = text.split(",")
        wrong = [name for name in found if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(
                f"{', '.join(wrong)}: none of {', '.join(known)}"
            )
        return found

    return names


# --- Measuring ------------------------------------------------------------------------
def _measure(options):
    """Measure all that was asked for, one line for each result as soon as it is there."""
    home = options.home.resolve()
    # Node looks for modules beside the program.
    shutil.copy(PROGRAMS / "bullmq_peer.mjs", home)
    with (
        tempfile.TemporaryDirectory(prefix="peers-") as scratch,
        contextlib.ExitStack() as end,
    ):
        services = Services(
            database_url=os.environ["DATABASE_URL"],
            bootstrap=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            home=home,
            directory=Path(scratch),
        )
        end.callback(services.close)
        watcher = Watcher(services.bootstrap)
        watcher.start()
        end.callback(watcher.stop)
        _write(options.results, {"machine": _machine(services)})
        blocks = itertools.count(1)
        # As they stand in MEASURES, whatever their order on the command line.
        measures = [name for name in MEASURES if name in options.measure]
        before = max((row.get("run", 0) for row in read(options.results)), default=0)
        runs = range(before + 1, before + options.runs + 1)
        for run, measure in itertools.product(runs, measures):
            work = [
                _Work(measure, run, name, next(blocks), options.results)
                for name in options.peer
            ]
            _do_all(work, services, watcher)


def _do_all(work, services, watcher):
    """Measure one after the other, or side by side where nothing is timed."""
    if work[0].measure not in SIDE_BY_SIDE:
        for one in work:
            one(services, watcher)
        return
    threads = [
        threading.Thread(target=one, args=(services, watcher), daemon=True) for one in work
    ]
    for thread in threads:
        thread.start()
        # They don't all start their processes at once.
        time.sleep(3)
    for thread in threads:
        thread.join()


class _Work:
    """One measurement of one peer."""

    def __init__(self, measure, run, name, block, results):
        self.measure = measure
        self._about = {"measure": measure, "peer": name, "run": run}
        self._block = block
        self._results = results

    def __call__(self, services, watcher):
        began_at = time.monotonic()
        figures = {}
        try:
            with Stand(self._about["peer"], services, block=self._block) as stand:
                figures = MEASURES[self.measure](stand, watcher) or {}
        except Exception as error:  # noqa: BLE001 -- a result as well
            # What was measured stays so, whatever goes wrong with clearing away.
            when = "afterwards" if figures else "error"
            figures |= {when: f"{type(error).__name__}: {error}"}
        if not figures:
            return
        about = {
            **self._about,
            "at": time.strftime("%H:%M:%S", time.gmtime()),
            "tookSeconds": round(time.monotonic() - began_at, 1),
        }
        _write(self._results, about | figures)


_writing = threading.Lock()


def _write(path, row):
    line = json.dumps(row, ensure_ascii=False)
    with _writing, path.open("a", encoding="utf-8") as results:
        print(line, flush=True)
        results.write(line + "\n")


def _machine(services):
    """Return what the figures were measured on, and with which versions."""
    ((postgres,),) = services.execute("SELECT current_setting('server_version')")
    ((commit,),) = services.execute("SELECT current_setting('synchronous_commit')")
    return {
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": psutil.cpu_count(),
        "memoryMb": psutil.virtual_memory().total // 2**20,
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgres": f"{postgres}, synchronous_commit={commit}",
        "redis": _said("redis-server", "--version"),
        "kafka": KAFKA_VERSION.search(POM.read_text(encoding="utf-8"))[1],
        "node": _said("node", "--version"),
        "autopilot": {name: importlib.metadata.version(name) for name in OURS},
        "peers": _said(
            services.home / "venv/bin/pip", "list", "--format", "freeze"
        ).split(),
        "modules": {
            name: _version(services.home, name)
            for name in json.loads((HERE / "package.json").read_text())["dependencies"]
        },
    }


def _said(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(home, name):
    path = home / "node_modules" / name / "package.json"
    return json.loads(path.read_text(encoding="utf-8"))["version"]


def _show(rows):
    figures, control = tables(rows)
    print(f"\n{figures}\n\nOthers' CPU, timer's lateness p99 and steal, of each run:\n")
    print(f"{control}\n")
    for fault in faults(rows):
        print(f"not counted: {fault}")


if __name__ == "__main__":
    sys.exit(main())
