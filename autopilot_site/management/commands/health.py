"""`manage.py health`: is all well, and if not, why not?"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone
from typing_extensions import override

from autopilot_site.health import read_health
from scheduling.management.base import ProductCommand


class Command(ProductCommand):
    """Prints what `/health` answers."""

    help = """\
Tell how the product is: the database, firing, recovery, Kafka, the clocks and this
host's disk, each "up", "degraded" or "down", and why. --json prints what GET /health
answers.

Exit code 1 where the whole is an "error": the database can't be used. A part that is
degraded or down beside it is told, with exit code 0, as /health answers 200."""

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Read the health; an error is told in full before it ends the command.

        Raises:
            CommandError: The health is an error.
        """
        health = read_health(now=timezone.now())
        answer = health.show()
        if health.is_failed:
            if options["json"]:
                self._write_json(answer)
            else:
                self.show(answer)
            raise CommandError("; ".join(health.causes))
        return answer

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        """Print one line for each check."""
        self.stdout.write(f"{answer['status']} at {answer['timestamp']}")
        width = max(len(name) for name in answer["checks"])
        for name, check in answer["checks"].items():
            self.stdout.write(f"  {name:<{width}}  {check['status']:<8}  {check['detail']}")
