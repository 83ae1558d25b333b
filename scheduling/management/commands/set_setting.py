"""`manage.py set_setting`: changes a setting of the running system."""

import json
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from typing_extensions import override

from scheduling.management.base import OverrideCommand, actor_of, add_reason
from scheduling.queries.settings import show_settings
from scheduling.services.change_settings import change_settings


class Command(OverrideCommand):
    """Wires the options to the service and prints the setting."""

    help = """\
Change a setting of the running system. Every process acts on it within five seconds, and
it outlives restarts; --default takes back what was set. `list_settings` names them all.

examples:
  manage.py set_setting SCHEDULER_MAX_RETRIES 5 --reason "the broker is unsteady"
  manage.py set_setting SCHEDULER_MAX_RETRIES --default --reason "it is steady again\""""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name", metavar="NAME", help="such as SCHEDULER_MAX_RETRIES")
        parser.add_argument(
            "value", metavar="VALUE", nargs="?", help="a whole number, true or false"
        )
        parser.add_argument(
            "--default", action="store_true", help="what the environment gives"
        )
        add_reason(parser)

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        name, value = options["name"].upper(), options["value"]
        if (value is None) is not options["default"]:
            raise CommandError("give either a VALUE or --default", returncode=2)
        change_settings(
            {name: None if value is None else _plain(value)},
            actor=actor_of(options),
            reason=options["reason"],
            now=timezone.now(),
        )
        return {"name": name, **show_settings()[name]}

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(f"{answer['name']} is {answer['value']} ({answer['source']})")


def _plain(text: str) -> object:
    """Return a number or a switch; any other text is left to the product to refuse."""
    try:
        return json.loads(text.lower())
    except ValueError:
        return text
