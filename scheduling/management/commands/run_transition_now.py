"""`manage.py run_transition_now`: fires a job before its instant, or after all."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from scheduling.management.commands._job_override import JobOverrideCommand
from scheduling.services.run_now import run_transition_now


class Command(JobOverrideCommand):
    """Wires the options to the service and prints the job."""

    help = """\
Fire a scheduled job now, before its instant, or one that expired. It waits for no other
job of its challenge. The event's date is the instant of this request.

example:
  manage.py run_transition_now job-1772880000000-12345-67890 --reason "all are in\""""

    service = staticmethod(run_transition_now)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['jobId']} fires now")
