"""`manage.py reschedule_transition`: moves a job to another instant."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser
from typing_extensions import override

from scheduling.management.commands._job_override import JobOverrideCommand
from scheduling.services.update import read_update, update_transition


class Command(JobOverrideCommand):
    """Wires the options to the service and prints the job."""

    help = """\
Move a scheduled job to another instant. The job is cancelled and replaced by a new one,
whose id is printed; where the instant is the same nothing changes.

example:
  manage.py reschedule_transition job-1772880000000-12345-67890 \\
      --end-time $(date -u -d '+2 hours' +%FT%TZ) --reason "an hour more\""""

    service = staticmethod(update_transition)
    is_reason_required = False

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--end-time",
            required=True,
            metavar="INSTANT",
            help="when it is due instead: ISO 8601 with a zone",
        )

    @override
    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"update": read_update({"endTime": options["end_time"]})}

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['jobId']} is due at {answer['endTime']}")
