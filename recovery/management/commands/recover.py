"""`manage.py recover`: one run of recovery, here and now."""

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from typing_extensions import override

from recovery.results import COUNTERS, OPEN, RunStatus, Trigger
from recovery.services import read_project_id
from recovery.services.conduct import carry_out_run
from recovery.services.observing import PlannedChange
from recovery.services.runs import Request
from scheduling.conf import recovery_settings
from scheduling.domain.errors import ConflictError
from scheduling.domain.phases import format_instant, wire_id
from scheduling.domain.texts import printable
from scheduling.management.base import (
    OverrideCommand,
    actor_of,
    outside_id,
)
from scheduling.management.tables import table_text

# More lines than that nobody reads; the counters count all.
MOST_SHOWN: Final = 10_000
_PLAN_COLUMNS: Final = {
    "change": "what",
    "projectId": "project",
    "phaseId": "phase",
    "phaseTypeName": "name",
    "state": "state",
    "from": "from",
    "to": "to",
}


class Command(OverrideCommand):
    """Wires the options to a run, and prints its result."""

    help = """\
Compare what should exist with what does, and bring it there: ask the Challenge service
for the ACTIVE challenges, schedule what is missing, move what changed, fire what is
overdue, expire what is too old, free what dead workers hold, and cancel what was read to
be over. What a person cancelled or moved stays so until upstream shows another instant.

One run at a time, over all hosts: where another one is in progress it is waited for. A
run of the clusters at their start, and every RECOVERY_SYNC_INTERVAL, does the same.
--dry-run prints what would be done and changes nothing.

Exit code 1 where the run could not do all (any status but COMPLETED). --json prints what
GET /api/v1/recovery/runs/RUN_ID/ answers; with --dry-run also "plan"."""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="show what would be done, and stop"
        )
        parser.add_argument(
            "--project-id", metavar="ID", help="only the challenges of this project"
        )

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        text = options["project_id"]
        request = Request(
            trigger=Trigger.MANUAL,
            actor=actor_of(options),
            dry_run=options["dry_run"],
            project_id=read_project_id(None if text is None else outside_id(text)),
        )
        with self._watching(options) as observer, _stopping() as is_stopping:
            run = carry_out_run(
                request,
                observer=observer,
                is_stopping=is_stopping,
                waits_for=recovery_settings().period("startup_timeout"),
            )
        if run.current_status in OPEN:
            raise ConflictError(f"run {run.run_id} is still in progress elsewhere")
        answer = run.show()
        if request.dry_run:
            answer["plan"] = observer.plan
        if run.current_status is not RunStatus.COMPLETED:
            self._tell(answer, options)
            reasons = [error["reason"] for error in run.errors[-1:]]
            raise CommandError(
                "; ".join(reasons) or "recovery is disabled by RECOVERY_ENABLED"
            )
        return answer

    def _tell(self, answer: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Print a run that did not do all."""
        if options["json"]:
            self._write_json(answer)
        else:
            self.show(answer)

    @contextmanager
    def _watching(self, options: Mapping[str, Any]) -> Iterator["_Watcher"]:
        """Show how far the run is, where somebody looks at a terminal."""
        is_shown = sys.stderr.isatty() and not options["json"]
        with Progress(
            TextColumn("reading challenges"),
            BarColumn(),
            MofNCompleteColumn(),
            console=Console(stderr=True),
            disable=not is_shown,
            transient=True,
        ) as bar:
            yield _Watcher(bar)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        if answer["dryRun"]:
            self._show_plan(answer["plan"])
        lines = [f"run {answer['runId']}: {answer['status']}"]
        names = ["totalPhasesProcessed", *COUNTERS.values(), "rescuedJobs"]
        lines += [f"  {name:<24} {answer[name]}" for name in names]
        lines += [
            f"  error: phase {error['phaseId'] or '-'}: {printable(error['reason'])}"
            for error in answer["errors"]
        ]
        self.stdout.write("\n".join(lines))

    def _show_plan(self, plan: Sequence[Mapping[str, Any]]) -> None:
        """Print what would be done as a table."""
        if not plan:
            self.stdout.write("Nothing would be changed.")
            return
        rows = [[change[name] for name in _PLAN_COLUMNS] for change in plan]
        is_terminal = self.stdout.isatty()
        self.stdout.write(table_text(_PLAN_COLUMNS.values(), rows, is_terminal=is_terminal))
        if len(plan) == MOST_SHOWN:
            self.stdout.write(f"There is more: these are the first {MOST_SHOWN:,}.")


class _Watcher:
    """Moves the bar, and keeps the plan of a dry run."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)
        self.plan: list[dict[str, Any]] = []

    def looked_at(self, challenges: int, *, of: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=challenges, total=of)

    def would_change(self, change: PlannedChange) -> None:
        """Keep one line of the plan."""
        if len(self.plan) < MOST_SHOWN:
            self.plan.append(_shown(change))


def _shown(change: PlannedChange) -> dict[str, Any]:
    """Return one line of the plan in the API's words."""
    return {
        "change": change.finding.value,
        "projectId": wire_id(change.project_id),
        "phaseId": wire_id(change.phase_id),
        "phaseTypeName": change.phase_name,
        "state": change.kind.value,
        "from": format_instant(change.old_due_at) if change.old_due_at else None,
        "to": format_instant(change.new_due_at) if change.new_due_at else None,
    }


@contextmanager
def _stopping() -> Iterator[Any]:
    """Take Ctrl-C and SIGTERM as a word to end the run in order."""
    told = []

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    before = {one: signal.signal(one, note) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(told)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
