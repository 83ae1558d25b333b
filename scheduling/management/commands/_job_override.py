"""What the overrides of one job share; the underscore keeps it from being a command."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from django.core.management.base import CommandParser
from django.utils import timezone
from typing_extensions import override

from scheduling.management.base import OverrideCommand, actor_of, add_reason
from scheduling.models import ScheduledTransition
from scheduling.queries import show_job


class JobOverrideCommand(OverrideCommand):
    """An override of one job, with the reason for it.

    service: called with job id, actor, reason and instant; returns the job.
    """

    service: ClassVar[Callable[..., ScheduledTransition]]
    is_reason_required = True

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("job_id", metavar="JOB_ID", help="the job's id")
        add_reason(parser, is_required=self.is_reason_required)

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        job = type(self).service(
            job_id=options["job_id"],
            actor=actor_of(options),
            reason=options["reason"],
            now=timezone.now(),
            **self.arguments(options),
        )
        return show_job(job)

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the service is told beside that."""
        return {}
