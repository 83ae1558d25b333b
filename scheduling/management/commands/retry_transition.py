"""`manage.py retry_transition`: tries a failed job again."""

from collections.abc import Mapping
from typing import Any

from django.utils import timezone
from typing_extensions import override

from scheduling.management.base import JobOverrideCommand, actor_of
from scheduling.queries import show_job
from scheduling.services.retry import retry_transition


class Command(JobOverrideCommand):
    """Wires the options to the service and prints the job."""

    help = """\
Try a failed job again: a new job with the same event fires at once, unless the event
turns out to be on the topic already. Prints the new job's id.

example:
  manage.py retry_transition job-1772880000000-12345-67890 --reason "it is writable now\""""

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        job = retry_transition(
            job_id=options["job_id"],
            actor=actor_of(options),
            reason=options["reason"],
            now=timezone.now(),
        )
        return show_job(job)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['jobId']} replaces {answer['replaces']}")
