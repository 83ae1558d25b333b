"""Tables for people: as wide as the terminal, or wide enough for a file."""

import io
import shutil
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scheduling.management.base import printable

WIDTH_OF_A_FILE = 200


def table_text(
    titles: Sequence[str], rows: Iterable[Sequence[object]], *, is_terminal: bool
) -> str:
    """Return a table as lines of text; None is an empty cell."""
    table = Table(*titles, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(cell)) for cell in row))
    width = shutil.get_terminal_size().columns if is_terminal else WIDTH_OF_A_FILE
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
