"""Tables for people: as wide as the terminal, or wide enough for a file."""

import io
import shutil
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scheduling.domain.texts import printable

# Where nobody looks at a terminal of some width, no cell is folded.
WIDTH_OF_A_FILE = 1_000


def table_text(
    titles: Iterable[str],
    rows: Iterable[Sequence[object]],
    *,
    is_terminal: bool,
    width_of_a_file: int = WIDTH_OF_A_FILE,
) -> str:
    """Return a table as lines of text; None is an empty cell.

    Args:
        is_terminal: Whether it is shown on one, whose width it then keeps to.
    """
    table = Table(*titles, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    width = shutil.get_terminal_size().columns if is_terminal else width_of_a_file
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
