"""Pages that show rows and change none."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from typing_extensions import override

from scheduling.domain.actors import Operation, is_permitted
from scheduling.services.roles import role_of

if TYPE_CHECKING:
    # Generic in the stubs alone.
    Base = admin.ModelAdmin[Any]
else:
    Base = admin.ModelAdmin


class ReadOnlyAdmin(Base):
    """Shows rows to whoever may view; adding, changing, deleting is nobody's here.

    Rows change through the services alone, which check, and which write the audit.
    """

    actions = None
    list_per_page = 100
    # Counting all rows beside those that match would read the whole table twice.
    show_full_result_count = False

    @override
    def has_module_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user may view."""
        return self.has_view_permission(request)

    @override
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether the user's role may view."""
        role = role_of(request.user)
        return role is not None and is_permitted(role, Operation.VIEW)

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
