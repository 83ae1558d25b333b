"""Pages that show rows and change none."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from typing_extensions import override
from unfold.admin import ModelAdmin

from scheduling.domain.actors import Operation
from scheduling.pages.acting import may
from scheduling.pages.texts import NOTHING

if TYPE_CHECKING:
    # unfold tells no types; it is Django's, with other templates and widgets.
    Base = admin.ModelAdmin[Any]
else:
    Base = ModelAdmin


class ReadOnlyAdmin(Base):
    """Shows rows to whoever may view; adding, changing, deleting is nobody's here.

    Rows change through the services alone, which check, and which write the audit.
    """

    actions = None
    list_per_page = 100
    # Counting all rows beside those that match would read the whole table twice.
    show_full_result_count = False
    # Lists are as wide as the window: they have many columns.
    list_fullwidth = True
    # An empty value reads the same on every page.
    empty_value_display = NOTHING

    @override
    def has_module_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user may view."""
        return self.has_view_permission(request)

    @override
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether the user's role may view."""
        return may(request, Operation.VIEW)

    @override
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False
