"""`manage.py cancel_transition`: sees to it that a job never fires."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from scheduling.management.commands._job_override import JobOverrideCommand
from scheduling.services.cancel import cancel_transition


class Command(JobOverrideCommand):
    """Wires the options to the service and prints the job."""

    help = """\
Cancel a job that is scheduled, or deal with one that is failed or expired. A cancelled
job never fires. One that is running, completed or cancelled can't be cancelled.

example:
  manage.py cancel_transition job-1772880000000-12345-67890 --reason "wrong phase\""""

    service = staticmethod(cancel_transition)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['jobId']} is cancelled")
