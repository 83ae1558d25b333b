"""`manage.py run_transition_now`: fires a job before its instant, or after all."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from typing_extensions import override

from scheduling.management.base import OverrideCommand, actor_of
from scheduling.queries import show_job
from scheduling.services.run_now import run_transition_now


class Command(OverrideCommand):
    """Wires the options to the service and prints the job."""

    help = """\
Fire a scheduled job now, before its instant, or one that expired. It waits for no other
job of its challenge. The event's date is the instant of this request.

example:
  manage.py run_transition_now job-1772880000000-12345-67890 --reason "all are in\""""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("job_id", metavar="JOB_ID", help="the job's id")
        parser.add_argument(
            "--reason",
            required=True,
            metavar="TEXT",
            help="why, in your words; kept in the audit",
        )

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        job = run_transition_now(
            job_id=options["job_id"],
            actor=actor_of(options),
            reason=options["reason"],
            now=timezone.now(),
        )
        return show_job(job)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['jobId']} fires now")
