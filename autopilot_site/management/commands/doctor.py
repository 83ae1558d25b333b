"""`manage.py doctor`: what is missing or misconfigured on this host?"""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone
from typing_extensions import override

from autopilot_site.doctor import Verdict, examine
from autopilot_site.health import read_health
from scheduling.management.base import ProductCommand


class Command(ProductCommand):
    """Prints each finding and the line that fixes it."""

    help = """\
Examine this host: Python, keys, files, the database and its migrations, Kafka and its
topics, the processes, the clocks, the disk, who is told of trouble, and Django's checks.
Each finding is "ok", a "warning" or a "problem"; what is not well comes with the line that
fixes it. Nothing is changed. --json: {"ok", "checks": [{"name", "status", "detail",
"fix"}]}.

Exit code 1 where there is a problem; warnings alone are 0. A setting that can't be read at
all stops every command, with its name and what is allowed."""

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Examine; problems are told in full before they end the command.

        Raises:
            CommandError: There is a problem.
        """
        findings = examine(read_health(now=timezone.now()))
        problems = [one.name for one in findings if one.verdict is Verdict.PROBLEM]
        answer = {"ok": not problems, "checks": [one.show() for one in findings]}
        if problems:
            if options["json"]:
                self._write_json(answer)
            else:
                self.show(answer)
            raise CommandError(f"not well: {', '.join(problems)}")
        return answer

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        """Print a line for each finding, and below it the line that fixes it."""
        width = max(len(check["name"]) for check in answer["checks"])
        for check in answer["checks"]:
            name, status = check["name"], check["status"]
            self.stdout.write(f"{status:<8} {name:<{width}}  {check['detail']}")
            if check["fix"]:
                self.stdout.write(f"{'':<8} {'':<{width}}  fix: {check['fix']}")
