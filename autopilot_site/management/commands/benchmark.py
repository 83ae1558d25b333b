"""`manage.py benchmark`: the product's figures on this machine."""

import argparse
import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text
from typing_extensions import override

from autopilot_site.benchmarks.interrupts import stop_is_an_interrupt
from autopilot_site.benchmarks.jobs import Tick
from autopilot_site.benchmarks.run import MEASUREMENTS, Sizes, run_benchmark
from scheduling.domain.actors import cli_actor

# Of a table that goes to a file.
_WIDTH = 120


class Command(BaseCommand):
    """Wires the arguments to `run_benchmark` and prints its document."""

    help = """\
Measure this installation: how late transitions are published, how many a second in a
burst, on many keys and on one, how fast they are scheduled, how many records a second a
consumer handles (valid ones, then garbage) and in what memory, how soon the REST API
answers meanwhile, what the cluster costs while it waits, and how soon it is at work again
after a restart.

It uses the database and the Kafka cluster that the environment names (without
KAFKA_BOOTSTRAP_SERVERS an embedded broker of its own, without DATABASE_URL the SQLite
file), starts a `qcluster` of its own and ends it. It refuses a database with live jobs or
with other sessions unless --force is given: those jobs and these processes would be part
of what is measured. No other cluster may run on the same database.

Its jobs have project ids from 9007199000000000 on and the operator "benchmark".
At the end, also after Ctrl-C, what is pending is cancelled and all its rows are archived
and deleted, as clean-up does it. The audit is append-only and keeps its entries for ever:
about five for each job, so rather use a database that can be dropped. The records on the
topics stay too: a consumer that reads them later makes jobs of what `consume` sent.

Each figure has a control beside it: how late a bare 20 ms timer of this process was over
the same time, and how much CPU the hypervisor stole. Exit code 1: it was refused or
interrupted, or a job was lost, early or out of order.
"""

    @override
    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        return super().create_parser(prog_name, subcommand, **kwargs)

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        usual = Sizes()
        parser.add_argument(
            "--only",
            type=_measurements,
            default=MEASUREMENTS,
            metavar="NAME,…",
            help=f"what to measure, of {', '.join(MEASUREMENTS)} (default: all)",
        )
        parser.add_argument(
            "--jobs",
            type=_count,
            metavar="N",
            help="jobs of each measurement, instead of 1,000 (lateness, restart), 2,000 "
            "(schedule one by one) and 10,000 (burst, burst-one-key, schedule in bulk, "
            "records of consume; waiting beside api)",
        )
        parser.add_argument(
            "--window",
            type=_count,
            default=int(usual.window_seconds),
            metavar="SECONDS",
            help="over which the jobs of lateness come due (default: %(default)s)",
        )
        parser.add_argument(
            "--pending",
            type=_counts,
            default=usual.pending,
            metavar="N,…",
            help="jobs that wait far ahead in idle and memory (default: 10000,100000)",
        )
        parser.add_argument(
            "--idle-seconds",
            type=_count,
            default=int(usual.idle_seconds),
            metavar="SECONDS",
            help="over which idle CPU is measured (default: %(default)s)",
        )
        parser.add_argument(
            "--actor",
            default=None,
            metavar="NAME",
            help="who is audited as cli:NAME (default: the shell's user)",
        )
        parser.add_argument(
            "--force",
            action="store_true",
            help="measure in spite of live jobs and other sessions, and remove what an "
            "earlier benchmark left",
        )
        parser.add_argument(
            "--json", action="store_true", help="print the figures as one JSON document"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        sizes = Sizes(
            jobs=options["jobs"],
            window_seconds=options["window"],
            idle_seconds=options["idle_seconds"],
            pending=options["pending"],
        )
        console = Console(file=cast("TextIO", self.stderr._out), stderr=True)  # noqa: SLF001
        with stop_is_an_interrupt():
            try:
                document = run_benchmark(
                    only=options["only"],
                    sizes=sizes,
                    force=options["force"],
                    actor=cli_actor(options["actor"] or getpass.getuser()),
                    stage=lambda title, total: _stage(console, title, total),
                )
            except KeyboardInterrupt:
                raise CommandError("interrupted; its jobs are removed") from None
        if options["json"]:
            self.stdout.write(json.dumps(document))
        else:
            self._print(document)
        if document["problems"]:
            raise CommandError("; ".join(document["problems"]))

    def _print(self, document: dict[str, Any]) -> None:
        """Print one table of all figures, and below it what they were measured on."""
        console = Console(file=cast("TextIO", self.stdout), soft_wrap=True)
        if not console.is_terminal:
            console.width = _WIDTH
        console.print(_table(document["results"]))
        for name, value in document["environment"].items():
            shown = (
                ", ".join(f"{key} {number}" for key, number in value.items())
                if isinstance(value, dict)
                else value
            )
            console.print(Text(f"{_words(name)}: {shown}"))


@contextmanager
def _stage(console: Console, title: str, total: float) -> Iterator[Tick]:
    """Show the progress of one stage where somebody looks on."""
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=max(total, 1))
        yield lambda steps: progress.advance(task, steps)


def _measurements(text: str) -> tuple[str, ...]:
    """Read the value of --only."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in MEASUREMENTS:
            raise argparse.ArgumentTypeError(
                f"{name!r} is none of {', '.join(MEASUREMENTS)}"
            )
    return names


def _count(text: str) -> int:
    """Read a whole number above 0."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    """Read the value of --pending."""
    return tuple(_count(part.strip()) for part in text.split(","))


def _table(results: dict[str, Any]) -> Table:
    """Return one line for each figure."""
    table = Table(
        Column("measurement", no_wrap=True),
        Column("figure", no_wrap=True),
        Column("value", justify="right", no_wrap=True),
    )
    for name, figures in results.items():
        for part in figures if isinstance(figures, list) else [figures]:
            title = name
            for figure, value in _flat(part):
                table.add_row(title, figure, _shown(value))
                title = ""
            table.add_section()
    return table


def _flat(figures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield figures with readable names; a spread is one line."""
    for name, value in figures.items():
        if isinstance(value, dict) and "p50" in value:
            spread = [_shown(value[key]) for key in ("p50", "p99", "max")]
            yield f"{_words(name)}, p50 / p99 / max", " / ".join(spread)
        elif isinstance(value, dict):
            for inner, number in _flat(value):
                yield f"{_words(name)}: {inner}", number
        else:
            yield _words(name), value


def _words(name: str) -> str:
    """Return a camel-case name as words."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)


def _shown(value: object) -> str:
    """Return a figure for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
