"""`manage.py list_transitions`: the API's list of jobs, on the terminal."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.core.management.base import CommandParser
from django.utils import timezone
from typing_extensions import override

from scheduling.api.errors import Problem
from scheduling.api.paging import DEFAULT_SIZE, LARGEST_SIZE
from scheduling.domain.errors import Category, InvalidRequestError
from scheduling.domain.lifecycle import TransitionKind, TransitionStatus
from scheduling.management.base import ProductCommand, RefusedError
from scheduling.management.tables import table_text
from scheduling.queries import FILTERS, ORDERINGS, camel_case, list_jobs, show_job

API_PATH = "/api/v1/transitions/"
COLUMNS = {
    "jobId": "job",
    "state": "state",
    "phaseTypeName": "phase",
    "endTime": "due",
    "status": "status",
    "latenessMs": "late by (ms)",
}


class Command(ProductCommand):
    """Wires the options to the API's query and prints a page."""

    help = """\
List jobs, of every status unless filtered, in the order of their due instants. All
filters must hold. --json prints what GET /api/v1/transitions/ answers: "count", "next",
"previous" and "results".

examples:
  manage.py list_transitions --status scheduled --due-before 2030-01-01T00:00:00Z
  manage.py list_transitions --overdue
  manage.py list_transitions --status failed --status expired --json"""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        for name in ("project", "challenge", "phase"):
            parser.add_argument(f"--{name}-id", metavar="ID", help=f"jobs of this {name}")
        parser.add_argument(
            "--state", choices=[kind.value for kind in TransitionKind], help="one end only"
        )
        parser.add_argument(
            "--status",
            action="append",
            choices=[status.value for status in TransitionStatus],
            help="jobs of this status; may be given several times",
        )
        parser.add_argument(
            "--due-after", metavar="INSTANT", help="due then or later (ISO 8601, with zone)"
        )
        parser.add_argument(
            "--due-before", metavar="INSTANT", help="due before then (ISO 8601, with zone)"
        )
        parser.add_argument(
            "--overdue",
            nargs="?",
            const="true",
            choices=["true", "false"],
            help="live jobs whose instant has passed; false: all others",
        )
        parser.add_argument(
            "--search", metavar="TEXT", help="part of the job id, an id or the phase's name"
        )
        parser.add_argument(
            "--ordering",
            metavar="NAME",
            help=f"one of {', '.join(ORDERINGS)}; --ordering=-NAME reverses it "
            "(default: endTime)",
        )
        parser.add_argument(
            "--page", type=int, default=1, metavar="N", help="default: %(default)s"
        )
        parser.add_argument(
            "--page-size",
            type=int,
            default=DEFAULT_SIZE,
            metavar="N",
            help=f"1 to {LARGEST_SIZE} (default: %(default)s)",
        )

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        number, size = options["page"], options["page_size"]
        _check_page(number, size)
        filters = {
            name: options[name]
            for name in (*FILTERS, "ordering")
            if options[name] is not None
        }
        jobs = list_jobs(filters, now=timezone.now(), live_by_default=False)
        count = jobs.count()
        last = max(1, -(-count // size))
        if number > last:
            raise RefusedError(
                Problem(
                    status=404,
                    code="not_found",
                    category=Category.SCHEDULING,
                    detail=f"page {number} lies beyond the last, {last}",
                )
            )
        start = (number - 1) * size

        def address(page: int) -> str:
            query = {camel_case(name): value for name, value in filters.items()}
            pages = {"page": page, "pageSize": size}
            return f"{API_PATH}?{urlencode(query | pages, doseq=True)}"

        return {
            "count": count,
            "next": address(number + 1) if number < last else None,
            "previous": address(number - 1) if number > 1 else None,
            "results": [show_job(job) for job in jobs[start : start + size]],
        }

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        rows = [[job[name] for name in COLUMNS] for job in answer["results"]]
        table = table_text(COLUMNS.values(), rows, is_terminal=self.stdout.isatty())
        shown = len(answer["results"])
        self.stdout.write(f"{table}\n{shown} of {answer['count']} jobs")
        if answer["next"]:
            self.stdout.write("There are more: --page and --page-size show them.")


def _check_page(number: int, size: int) -> None:
    """Refuse a page or a page size out of its range.

    Raises:
        InvalidRequestError: Names each.
    """
    errors = []
    if number < 1:
        errors.append(("page", "must be a whole number from 1"))
    if not 1 <= size <= LARGEST_SIZE:
        errors.append(("pageSize", f"must be a whole number from 1 to {LARGEST_SIZE}"))
    if errors:
        raise InvalidRequestError(errors)
