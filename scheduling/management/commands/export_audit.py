"""`manage.py export_audit`: the audit as a file."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from typing_extensions import override

from scheduling.api.errors import Problem
from scheduling.domain.errors import Category
from scheduling.management.base import ProductCommand, RefusedError
from scheduling.management.resumable import NothingToResumeError, Progress, ResumableFile
from scheduling.models import AuditEntry
from scheduling.queries.audit import AUDIT_FILTERS, list_audit, newest_entry, read_whole
from scheduling.queries.audit_export import EMPTY_ARRAY, write_csv, write_json, write_ndjson
from scheduling.services.seal_proof import Proof, prove_chain, seals_of_entries

WRITERS = {"csv": write_csv, "ndjson": write_ndjson, "json": write_json}


class Command(ProductCommand):
    """Wires the options to the API's query and writes what it finds, piece by piece."""

    help = """\
Write audit records, the oldest first: to stdout, or to a file that appears only once it
is whole. All filters must hold. The columns are those of GET /api/v1/audit/. Memory
stays constant at any length.

An export that was broken off, by Ctrl-C, a full disk or a crash, is gone on with by the
same command and --resume.

At the end the chain of seals over what was written is proven: each entry hashes to what
it was when it was sealed. Where it does not, the file is written all the same, and the
exit code is 1. What is not sealed yet (the last seconds) is counted.

In CSV, "changes" is JSON, null is empty, and a cell that begins with = + - @ a tab or a
line break gets an apostrophe before it, so that no spreadsheet takes it for a formula.
NDJSON (a record a line) and JSON (one array) have every value as it is.

--json is for scripts: without --output it is --format json; with it, what was written is
told as {"output", "format", "count", "chain"}.

examples:
  manage.py export_audit --format csv --output audit.csv
  manage.py export_audit --format ndjson --since 2030-01-01T00:00:00Z | gzip > audit.gz
  manage.py export_audit --output audit.csv --resume
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
            *("--since", "--after"),
            dest="after",
            metavar="INSTANT",
            help="written then or later (ISO 8601, with zone)",
        )
        parser.add_argument(
            *("--until", "--before"),
            dest="before",
            metavar="INSTANT",
            help="written before then (ISO 8601, with zone)",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="go on with an export to FILE that was broken off",
        )
        parser.add_argument(
            "--no-proof",
            action="store_true",
            help="leave out the proof of the chain, which reads all entries between the "
            "first and the last one written",
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
        if options["resume"] and (output is None or not _may_be_replaced(output)):
            raise CommandError("--resume needs an --output FILE", returncode=2)
        filters = {
            name: options[name] for name in AUDIT_FILTERS if options[name] is not None
        }
        entries = list_audit(filters)
        progress = Progress(asked={"format": chosen, **filters}, newest=newest_entry())
        answer: dict[str, Any] = {}
        if output is None:
            with _quiet_when_nobody_reads():
                self._write(entries, chosen, progress, self._print)
        else:
            progress = self._write_file(
                output, entries, chosen, progress, resumes=options["resume"]
            )
            answer = {"output": str(output), "format": chosen, "count": progress.count}
        return answer if options["no_proof"] else self._proven(answer, progress, options)

    def _proven(
        self, answer: dict[str, Any], progress: Progress, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Prove the chain of what was written, and add it to the answer if there is one.

        Raises:
            CommandError: An entry, or a seal, is not as it was.
        """
        proof = _prove(progress)
        if answer:
            answer["chain"] = _show_proof(proof) if proof else None
        if proof is None or proof.holds:
            return answer
        if answer and options["json"]:
            self._write_json(answer)
        raise CommandError("\n".join(["the audit is not as it was sealed:", *proof.faults]))

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['count']:,} records written to {answer['output']}")
        chain = answer.get("chain")
        if chain:
            self.stdout.write(
                f"{chain['seals']:,} seals over {chain['entries']:,} entries hold; "
                f"{chain['unsealed']:,} are not sealed yet"
            )

    def _print(self, piece: bytes) -> None:
        """Print a piece, which ends its lines itself."""
        self.stdout.write(piece.decode(), ending="")

    def _write_file(
        self,
        output: Path,
        entries: QuerySet[AuditEntry],
        chosen: str,
        progress: Progress,
        *,
        resumes: bool,
    ) -> Progress:
        """Write the entries to a file; return how far that came, which is all of them.

        Raises:
            RefusedError: It can't be written, or there is nothing to go on with; what
                stood there is as it was.
        """
        path = output.resolve()
        try:
            if not _may_be_replaced(path):
                with path.open("wb") as file:
                    self._write(entries, chosen, progress, file.write)
                return progress
            target = ResumableFile(path, progress)
            if resumes:
                target.read_note()
            with target.open() as write:
                self._write(entries, chosen, target.progress, write)
        except OSError as error:
            why = f"{output} can't be written: {error.strerror or error}"
            raise _refusal(400, "invalid_request", Category.SYSTEM, why) from None
        except NothingToResumeError as error:
            raise _refusal(409, "conflict", Category.VALIDATION, str(error)) from None
        return target.progress

    def _write(
        self,
        entries: QuerySet[AuditEntry],
        chosen: str,
        progress: Progress,
        write: Callable[[bytes], Any],
    ) -> None:
        """Write the entries, behind those that were written; a bar for whoever waits."""
        bar = Bar(
            TextColumn("exporting"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            # Records on the same terminal would run through the bar.
            disable=not sys.stderr.isatty() or write == self._print,
        )
        total = 0 if bar.disable else entries.filter(id__lte=progress.newest).count()
        last = progress.last and AuditEntry.objects.get(pk=progress.last)
        with bar:
            task = bar.add_task("", total=total, completed=progress.count)

            def count(row: AuditEntry) -> None:
                progress.add(row.pk)
                bar.advance(task)

            rows = read_whole(entries, newest=progress.newest, after=last or None)
            pieces = WRITERS[chosen](_counted(rows, count))
            for piece in _following(pieces, chosen) if last else pieces:
                write(piece)


def _following(pieces: Iterator[bytes], chosen: str) -> Iterator[bytes]:
    """Yield the pieces of a file whose beginning is there already."""
    first = next(pieces)
    if chosen == "ndjson":
        yield first
    elif chosen == "json":
        # An array that goes on; without any more entries only its end is missing.
        yield b"\n]\n" if first == EMPTY_ARRAY else b"," + first[1:]
    # Of CSV it is the line of the columns' names.
    yield from pieces


def _prove(progress: Progress) -> Proof | None:
    """Prove the chain over what was written; None where there is nothing sealed of it."""
    if progress.lowest is None or progress.highest is None:
        return None
    seals = seals_of_entries(progress.lowest, progress.highest)
    if seals is None:
        return None
    return prove_chain(first=seals[0], last=seals[1])


def _show_proof(proof: Proof) -> dict[str, Any]:
    """Return a proof as `--json` tells it."""
    return {
        "ok": proof.holds,
        "seals": proof.seals,
        "entries": proof.entries,
        "unsealed": proof.unsealed,
        "newestSeal": proof.newest.number if proof.newest else None,
        "newestDigest": proof.newest.digest if proof.newest else None,
        "faults": proof.faults,
    }


def _refusal(status: int, code: str, category: Category, detail: str) -> RefusedError:
    """Return the refusal of a file."""
    return RefusedError(Problem(status=status, code=code, category=category, detail=detail))


def _counted(
    rows: Iterable[AuditEntry], count: Callable[[AuditEntry], None]
) -> Iterator[AuditEntry]:
    """Yield the rows, counting each."""
    for row in rows:
        count(row)
        yield row


def _may_be_replaced(path: Path) -> bool:
    """Tell whether it is a file; a device or a pipe must keep its name."""
    return not path.exists() or path.is_file()


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
