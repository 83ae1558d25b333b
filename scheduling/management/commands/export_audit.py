"""`manage.py export_audit`: the audit as a file."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from typing_extensions import override

from scheduling.api.errors import Problem
from scheduling.domain.errors import Category
from scheduling.management.base import ProductCommand, RefusedError
from scheduling.models import AuditEntry
from scheduling.queries.audit import AUDIT_FILTERS, list_audit, read_whole
from scheduling.queries.audit_export import write_csv, write_json, write_ndjson

WRITERS = {"csv": write_csv, "ndjson": write_ndjson, "json": write_json}


class Command(ProductCommand):
    """Wires the options to the API's query and writes what it finds, piece by piece."""

    help = """\
Write audit records, the oldest first: to stdout, or to a file that appears only once it
is whole. All filters must hold. The columns are those of GET /api/v1/audit/.

In CSV, "changes" is JSON, null is empty, and a cell that begins with = + - @ a tab or a
line break gets an apostrophe before it, so that no spreadsheet takes it for a formula.
NDJSON (a record a line) and JSON (one array) have every value as it is.

--json is for scripts: without --output it is --format json; with it, what was written is
told as {"output", "format", "count"}.

examples:
  manage.py export_audit --format csv --output audit.csv
  manage.py export_audit --format ndjson --after 2030-01-01T00:00:00Z | gzip > audit.gz
  manage.py export_audit --json --actor user:olivia --action transition.cancelled"""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--format", choices=list(WRITERS), help="default: csv, with --json: json"
        )
        parser.add_argument(
            "--output", metavar="FILE", type=Path, help="write to FILE instead of stdout"
        )
        parser.add_argument("--actor", metavar="NAME", help="such as user:olivia")
        parser.add_argument("--action", metavar="NAME", help="such as transition.cancelled")
        parser.add_argument("--job-id", metavar="ID", help="records of this job")
        parser.add_argument("--project-id", metavar="ID", help="records of this project")
        parser.add_argument(
            "--after", metavar="INSTANT", help="written then or later (ISO 8601, with zone)"
        )
        parser.add_argument(
            "--before", metavar="INSTANT", help="written before then (ISO 8601, with zone)"
        )

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        chosen = options["format"] or ("json" if options["json"] else "csv")
        output: Path | None = options["output"]
        if options["json"] and output is None and chosen != "json":
            raise CommandError(
                f"--json prints JSON: give --format {chosen} an --output, or leave --json",
                returncode=2,
            )
        entries = list_audit(
            {name: options[name] for name in AUDIT_FILTERS if options[name] is not None}
        )
        if output is None:
            with _quiet_when_nobody_reads():
                self._write(entries, chosen, self._print)
            return {}
        try:
            with _whole_file(output) as file:
                count = self._write(entries, chosen, file.write)
        except OSError as error:
            raise RefusedError(
                Problem(
                    status=400,
                    code="invalid_request",
                    category=Category.SYSTEM,
                    detail=f"{output} can't be written: {error.strerror or error}",
                )
            ) from None
        return {"output": str(output), "format": chosen, "count": count}

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['count']:,} records written to {answer['output']}")

    def _print(self, piece: bytes) -> None:
        """Print a piece, which ends its lines itself."""
        self.stdout.write(piece.decode(), ending="")

    def _write(
        self, entries: QuerySet[AuditEntry], chosen: str, write: Callable[[bytes], Any]
    ) -> int:
        """Write the entries, with a bar for whoever waits; return how many they were."""
        progress = Progress(
            TextColumn("exporting"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            # Records on the same terminal would run through the bar.
            disable=not sys.stderr.isatty() or write == self._print,
        )
        total = 0 if progress.disable else entries.count()
        with progress:
            task = progress.add_task("", total=total)
            rows = _counted(read_whole(entries), lambda: progress.advance(task))
            for piece in WRITERS[chosen](rows):
                write(piece)
        return int(progress.tasks[0].completed)


def _counted(rows: Iterable[AuditEntry], count: Callable[[], None]) -> Iterator[AuditEntry]:
    """Yield the rows, counting each."""
    for row in rows:
        count()
        yield row


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that stands under its name once it is whole, and not before.

    Raises:
        OSError: It can't be written; what stood there is as it was.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        # A device or a pipe, which has a name of its own and must keep it.
        with path.open("wb") as file:
            yield file
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """End without a traceback where the reader is gone (`… | head`).

    Raises:
        SystemExit: It is; not everything was written.
    """
    try:
        yield
    except BrokenPipeError:
        # Python would try to flush once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
