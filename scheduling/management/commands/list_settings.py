"""`manage.py list_settings`: the settings that may change while the system runs."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from typing_extensions import override

from scheduling.management.base import ProductCommand
from scheduling.queries.settings import show_settings


class Command(ProductCommand):
    """Prints what GET /api/v1/settings/ answers."""

    help = """\
List the settings that may change while the system runs: what is in force, what the
environment gives, and what is allowed. All others need a restart.

example:
  manage.py list_settings --json"""

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return show_settings()

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        table = Table("setting", "value", "default", "source", "allowed")
        for name, one in answer.items():
            is_number = one["min"] is not None
            allowed = f"{one['min']} to {one['max']}" if is_number else "true, false"
            cells = (name, one["value"], one["default"], one["source"], allowed)
            table.add_row(*(str(cell) for cell in cells))
        console = Console(file=self.stdout)  # type: ignore[arg-type]  # a text file
        if not console.is_terminal:
            console.width = 140
        console.print(table)
