"""`python -m tests.mutants [NAME …] [--jobs N]`.

Puts one bug after the other into a copy of the repository and runs the tests that should
find it there. Exit code 0 where each is found, and, unless only some are named, nothing
fails without a bug.
"""

import argparse
import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.mutants.catalogue import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
NONE = "none at all"
# A test that takes too long has found nothing.
TIMED_OUT = "from pytest-timeout"
FAILED = 1  # pytest's exit codes: 0 passed, 1 failed, others could not run them


@dataclass
class Verdict:
    """What the tests said of a bug: the one that found it, or why none did."""

    name: str
    is_right: bool
    said: str
    seconds: float


def main():
    """Run it, and return the exit code."""
    options = _options()
    chosen = [one for one in MUTANTS if not options.names or one.name in options.names]
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies = queue.SimpleQueue()
        for number in range(options.jobs):
            copies.put(_copy(Path(scratch) / str(number)))
        with ThreadPoolExecutor(options.jobs) as pool:
            waiting = [
                pool.submit(_with_copy, copies, _run, one, options.seconds)
                for one in chosen
            ]
            if not options.names:
                # All tests without a bug take longest.
                work = (_with_copy, copies, _run_without, chosen, options.seconds * 2)
                waiting.insert(0, pool.submit(*work))
            verdicts = [one.result() for one in waiting]
    _show(verdicts)
    return 0 if all(one.is_right for one in verdicts) else 1


def _options():
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these bugs; else all")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument(
        "--seconds", type=int, default=300, help="how long the tests of a bug may take"
    )
    options = parser.parse_args()
    unknown = set(options.names) - {one.name for one in MUTANTS}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    return options


def _copy(target):
    """Copy what git knows, and what is not ignored; return where it is."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def _with_copy(copies, work, subject, seconds):
    copy = copies.get()
    try:
        verdict = work(copy, subject, seconds)
    finally:
        copies.put(copy)
    print(f"{verdict.seconds:4.0f} s  {verdict.name}: {verdict.said}", flush=True)
    return verdict


def _run_without(copy, mutants, seconds):
    """Run all the tests without a bug: they must pass."""
    tests = sorted({name for one in mutants for name in one.tests})
    began = time.monotonic()
    code, said = _pytest(copy, tests, seconds=seconds)
    return Verdict(
        name=NONE,
        is_right=code == 0,
        said="nothing fails" if code == 0 else said,
        seconds=time.monotonic() - began,
    )


def _run(copy, mutant, seconds):
    """Put a bug in, run its tests, and take it out."""
    path = copy / mutant.file
    original = path.read_text(encoding="utf-8")
    began = time.monotonic()
    if original.count(mutant.before) != 1:
        return Verdict(mutant.name, is_right=False, said="its text is gone", seconds=0)
    path.write_text(original.replace(mutant.before, mutant.after), encoding="utf-8")
    try:
        code, said = _pytest(copy, mutant.tests, seconds=seconds)
    finally:
        path.write_text(original, encoding="utf-8")
    return Verdict(
        name=mutant.name,
        is_right=code == FAILED,
        said=said if code else "SURVIVED",
        seconds=time.monotonic() - began,
    )


def _pytest(copy, tests, *, seconds):
    """Return pytest's exit code, and the first test that failed or what else it said."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"}
    }
    # No bytecode: a file that changes twice within a second would look the same to it.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly"]
    with subprocess.Popen(
        [*command, "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            output, _ = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(running.pid)
            return None, f"no end within {seconds} s"
    if TIMED_OUT in output:
        return None, "a test took too long, on a machine that is too busy?"
    found = re.search(r"^FAILED (\S+)", output, re.MULTILINE)
    if found:
        return running.returncode, found[1].rpartition("/")[2]
    return running.returncode, f"pytest ended with {running.returncode}: {output[-500:]}"


def _end(pid):
    """End a process with all that it started."""
    process = psutil.Process(pid)
    for one in [*process.children(recursive=True), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _show(verdicts):
    """Print a table of all, and how many were found."""
    table = Table(title="mutants")
    table.add_column("bug", max_width=44)
    table.add_column("found by")
    table.add_column("s", justify="right")
    for one in verdicts:
        mark = "" if one.is_right else "NOT FOUND: "
        table.add_row(one.name, Text(mark + one.said), f"{one.seconds:.0f}")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    bugs = [one for one in verdicts if one.name != NONE]
    console.print(f"{sum(one.is_right for one in bugs)} of {len(bugs)} found")


if __name__ == "__main__":
    sys.exit(main())
