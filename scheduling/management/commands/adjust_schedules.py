"""`manage.py adjust_schedules`: moves many transitions as one batch."""

import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from typing_extensions import override

from scheduling import strict_json
from scheduling.api.adjustment_views import refusal_of
from scheduling.api.errors import plain
from scheduling.api.parsers import LARGEST_BULK_BODY
from scheduling.domain.adjustment_request import read_adjustment
from scheduling.domain.changes import OnConflict
from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.texts import printable
from scheduling.management.base import OverrideCommand, RefusedError, actor_of
from scheduling.management.tables import table_text
from scheduling.services.adjust import adjust_schedules

WIDTH_OF_A_FILE = 200
TITLES = ("phase", "from", "to", "old job", "new job")


class Command(OverrideCommand):
    """Wires the file and the options to the service and prints what became of it."""

    help = """\
Move many transitions as one batch. FILE is a JSON object as POST schedule-adjustments/
takes it; - reads it from stdin. With --dry-run the plan is printed and nothing changes.

Prints each job that is replaced or made, each conflict and each error. Exit code 1 where
the batch is refused; then nothing was changed. --json prints the API's answer.

example:
  echo '{"changes": [{"projectId": 12345, "phaseId": 67890,
                      "newEndTime": "'$(date -u -d '+1 day' +%FT%TZ)'"}],
         "updateReason": "another day"}' |
    manage.py adjust_schedules - --on-conflict shift --dry-run"""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("file", metavar="FILE", help="the request as JSON; - for stdin")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="tell what would become of it, and change nothing",
        )
        parser.add_argument(
            "--on-conflict",
            choices=[way.value for way in OnConflict],
            help="what becomes of conflicts, whatever FILE says (default: FILE's, else "
            "reject)",
        )

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        body = _read_body(options["file"])
        if options["dry_run"]:
            body["dryRun"] = True
        if options["on_conflict"]:
            body["onConflict"] = options["on_conflict"]
        answer = adjust_schedules(
            read_adjustment(body), actor=actor_of(options), now=timezone.now()
        )
        if not answer["success"]:
            if not options["json"]:
                self.show(answer)
            raise RefusedError(refusal_of(answer))
        return answer

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        rows = [
            [
                job["phaseId"],
                job.get("oldEndTime", "(no job)"),
                job["newEndTime"],
                job.get("oldJobId"),
                job["newJobId"],
            ]
            for jobs in (answer["details"]["rescheduled"], answer["details"]["created"])
            for job in jobs
        ]
        lines = []
        if rows:
            is_terminal = self.stdout.isatty()
            lines.append(
                table_text(
                    TITLES, rows, is_terminal=is_terminal, width_of_a_file=WIDTH_OF_A_FILE
                )
            )
        lines += [
            printable(f"conflict {conflict['type']}: {conflict['detail']}")
            for conflict in answer["conflicts"]
        ]
        lines += [
            printable(f"change {error['index']} {error['code']}: {error['message']}")
            for error in answer["errors"]
        ]
        counts = ", ".join(
            f"{answer[f'{name}Count']} {name}"
            for name in ("rescheduled", "created", "unchanged")
        )
        is_real = not answer["dryRun"]
        lines.append(counts if is_real else f"{counts} (a dry run: nothing was changed)")
        self.stdout.write("\n".join(lines))


def _read_body(name: str) -> dict[str, Any]:
    """Return the JSON object that a file or stdin holds.

    Raises:
        CommandError: The file can't be read.
        RefusedError: It is larger than the API would take.
        InvalidRequestError: It is no strict JSON, or no object.
    """
    try:
        content = _read_bytes(name)
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}", returncode=2) from None
    if len(content) > LARGEST_BULK_BODY:
        raise RefusedError(
            plain(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{name} holds more than {LARGEST_BULK_BODY:,} bytes",
            )
        )
    try:
        body = strict_json.loads(content)
    except ValueError as error:
        raise InvalidRequestError([("FILE", str(error))]) from None
    if not isinstance(body, dict):
        raise InvalidRequestError([("FILE", "must be a JSON object")])
    return body


def _read_bytes(name: str) -> bytes:
    """Return up to one byte more than may be there."""
    if name == "-":
        return sys.stdin.buffer.read(LARGEST_BULK_BODY + 1)
    with Path(name).open("rb") as file:
        return file.read(LARGEST_BULK_BODY + 1)
