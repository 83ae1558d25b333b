"""`manage.py reset_breaker`: closes a circuit breaker before its time."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from typing_extensions import override

from scheduling.conf import BREAKER_SETTINGS
from scheduling.management.base import OverrideCommand, actor_of, add_reason
from scheduling.queries.breakers import show_breaker
from scheduling.services.breakers import reset_breaker


class Command(OverrideCommand):
    """Wires the options to the service and prints the breaker."""

    help = """\
Close a circuit breaker and forget its failures. All processes act on it within a second;
if what it guards still fails, it opens again.

scheduler guards publishing on Kafka, recovery what recovery writes, challenge the
Challenge service.

example:
  manage.py reset_breaker scheduler --reason "the broker is back\""""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "name",
            metavar="NAME",
            choices=list(BREAKER_SETTINGS),
            help="the breaker's name",
        )
        add_reason(parser)

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        breaker = reset_breaker(
            options["name"],
            actor=actor_of(options),
            reason=options["reason"],
            now=timezone.now(),
        )
        return show_breaker(breaker)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"the breaker {answer['name']} is {answer['state']}")
