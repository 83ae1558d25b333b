"""`manage.py retry_transition`: tries a failed job again."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from scheduling.management.commands._job_override import JobOverrideCommand
from scheduling.services.retry import retry_transition


class Command(JobOverrideCommand):
    """Wires the options to the service and prints the job."""

    help = """\
Try a failed job again: a new job with the same event fires at once, unless the event
turns out to be on the topic already. Prints the new job's id.

example:
  manage.py retry_transition job-1772880000000-12345-67890 --reason "it is writable now\""""

    service = staticmethod(retry_transition)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['jobId']} replaces {answer['replaces']}")
