"""`manage.py verify`: do the product's promises hold here and now?"""

import argparse
import json
from contextlib import suppress
from datetime import datetime
from typing import Any, TextIO, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from autopilot_site.alerts.watch import keep_outcome
from autopilot_site.verification import Invariant, Report, verify
from autopilot_site.verification.report import ONLY_ON_THE_TOPIC
from scheduling.adapters.clock import database_now
from scheduling.domain.phases import parse_instant

# Of a table that goes to a file.
_WIDTH = 120


class Command(BaseCommand):
    """Prints the report of `verification.verify`."""

    help = (
        "Check the ten invariants (no early fire, at most one fire per job, every change "
        "audited, …) against the database and, with --topic, against the records on the "
        "Kafka topic autopilot.phase.transition. It changes nothing and may run beside "
        "everything else. Exit code 0: all that was asked for was checked and holds; 1: "
        "an invariant is broken (the first 20 violations of each are listed, all are "
        "counted), or something could not be checked, and then it says what. What each "
        "invariant means is told in autopilot_site/verification."
    )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--topic",
            action="store_true",
            help="compare with the topic too: invariants 4 and 5, and more of 1 and 6",
        )
        parser.add_argument(
            "--since",
            type=_instant,
            metavar="INSTANT",
            help="look only at live jobs and what changed since then (ISO 8601 with zone)",
        )
        parser.add_argument(
            "--json", action="store_true", help="print the report as one JSON document"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        report = verify(now=_now(), with_topic=options["topic"], since=options["since"])
        if options["json"]:
            self.stdout.write(json.dumps(report.as_json()))
        else:
            self._print(report)
        if options["since"] is None:
            _keep_outcome(report)
        if not report.holds:
            raise CommandError(_summary(report))

    def _print(self, report: Report) -> None:
        """Print a table of all invariants, and below it what breaks them."""
        # OutputWrapper is a text file in all but its type.
        console = Console(file=cast("TextIO", self.stdout), soft_wrap=True)
        if not console.is_terminal:
            console.width = _WIDTH
        console.print(_table(report))
        for invariant in report.invariants.values():
            for why in invariant.unchecked:
                console.print(Text(f"{invariant.id:>2} could not be checked: {why}"))
            for violation in invariant.violations:
                name = violation.job_id or "-"
                console.print(Text(f"{invariant.id:>2} {name}: {violation.detail}"))
            rest = invariant.violation_count - len(invariant.violations)
            if rest:
                console.print(Text(f"{invariant.id:>2} … and {rest:,} more"))


def _keep_outcome(report: Report) -> None:
    """Keep what a whole verification found, for the alerts."""
    violations = sum(one.violation_count for one in report.invariants.values())
    if not violations and any(one.unchecked for one in report.invariants.values()):
        # It found nothing because it could not look: what was found before stands.
        return
    # Without a database the report says so itself.
    with suppress(DatabaseError):
        keep_outcome(violations=violations, now=_now())


def _now() -> datetime:
    """Return the database's instant; this host's where the database is out of reach."""
    try:
        return database_now()
    except DatabaseError:
        # `verify` finds the same and reports it.
        return datetime.now().astimezone()


def _instant(text: str) -> datetime:
    """Read the value of --since."""
    try:
        return parse_instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _table(report: Report) -> Table:
    """Return one row for each invariant."""
    table = Table("", "invariant", "result")
    for name in ("checked", "skipped", "violations"):
        table.add_column(name, justify="right")
    for invariant in report.invariants.values():
        table.add_row(
            str(invariant.id),
            invariant.name,
            _result(invariant, with_topic=report.with_topic),
            f"{invariant.checked:,}",
            f"{invariant.skipped:,}" if invariant.skipped else "",
            f"{invariant.violation_count:,}" if invariant.violation_count else "",
        )
    return table


def _result(invariant: Invariant, *, with_topic: bool) -> Text:
    """Return the verdict on one invariant."""
    if invariant.violation_count:
        return Text("BROKEN", style="bold red")
    if invariant.unchecked:
        return Text("NOT CHECKED", style="bold yellow")
    if invariant.id in ONLY_ON_THE_TOPIC and not with_topic:
        return Text("needs --topic", style="dim")
    return Text("holds", style="green")


def _summary(report: Report) -> str:
    """Return what is wrong, in one line."""
    broken = [str(i.id) for i in report.invariants.values() if i.violation_count]
    unchecked = [str(i.id) for i in report.invariants.values() if i.unchecked]
    parts = []
    if broken:
        parts.append(f"broken: invariant {', '.join(broken)}")
    if unchecked:
        parts.append(f"could not be checked: invariant {', '.join(unchecked)}")
    return "; ".join(parts)
