"""The table of a model's list in unfold's look, its cells written without templates.

unfold makes the headings again for each row, and lets templates write each box and each
row: for a page of fifty rows that takes longer than all the rest of it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from django.contrib.admin.views.main import ChangeList
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.templatetags.unfold_list import CHECKBOX_CLASSES, ROW_CLASSES, result_headers
from unfold.widgets import CHECKBOX_CLASSES as BOX_CLASSES

CHOICE = "action_checkbox"
# How a cell begins, and what writes it.
Column = tuple[SafeString, Callable[[Any], Any]]


def model_table(changes: ChangeList) -> dict[str, Any]:
    """Return what the template of the table shows.

    Args:
        changes: Of a model admin whose columns are its own methods.
    """
    headers = list(result_headers(changes))
    columns = list(_columns(changes, headers))
    return {
        "cl": changes,
        "result_headers": headers,
        "num_sorted_fields": sum(1 for one in headers if one.get("sorted")),
        "rows": [_cells(columns, row) for row in changes.result_list],
    }


def _columns(changes: ChangeList, headers: list[dict[str, Any]]) -> Iterator[Column]:
    """Yield the columns: their classes and labels are the same in every row."""
    for name, header in zip(changes.list_display, headers, strict=True):
        is_choice = name == CHOICE
        classes = CHECKBOX_CLASSES if is_choice else (f"field-{name}", *ROW_CLASSES)
        begins = format_html(
            '<td class="{}" data-label="{}">',
            " ".join(classes),
            "Select" if is_choice else header["text"],
        )
        yield begins, _box if is_choice else getattr(changes.model_admin, str(name))


def _cells(columns: list[Column], row: Any) -> SafeString:
    """Return a row's cells."""
    return format_html_join(
        "", "{}{}</td>", ((begins, write(row)) for begins, write in columns)
    )


_BOX_CLASSES = " ".join((*BOX_CLASSES, "action-select"))


def _box(row: Any) -> SafeString:
    """Return the box that chooses a row."""
    return format_html(
        '<input type="checkbox" name="_selected_action" value="{}" class="{}" '
        'aria-label="Select record">',
        row.pk,
        _BOX_CLASSES,
    )
