"""`manage.py reschedule_transition`: moves a job to another instant."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from typing_extensions import override

from scheduling.management.base import JobOverrideCommand, actor_of
from scheduling.queries import show_job
from scheduling.services.update import read_update, update_transition


class Command(JobOverrideCommand):
    """Wires the options to the service and prints the job."""

    help = """\
Move a scheduled job to another instant. The job is cancelled and replaced by a new one,
whose id is printed; where the instant is the same nothing changes.

example:
  manage.py reschedule_transition job-1772880000000-12345-67890 \\
      --end-time 2026-03-07T18:00:00Z --reason "an hour more\""""

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
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        job = update_transition(
            job_id=options["job_id"],
            update=read_update({"endTime": options["end_time"]}),
            actor=actor_of(options),
            reason=options["reason"],
            now=timezone.now(),
        )
        return show_job(job)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['jobId']} is due at {answer['endTime']}")
