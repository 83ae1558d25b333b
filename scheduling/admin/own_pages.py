"""A model's place in the admin, with pages of ours for its list and for one row."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from typing_extensions import override

from scheduling.admin.read_only import ReadOnlyAdmin
from scheduling.pages.base import AdminPage


class OwnPagesAdmin(ReadOnlyAdmin):
    """Answers the model's addresses with pages of ours.

    list_page, row_page: of the list, and of one row, whose key they find in `kwargs`.
    more_pages: at `path` below the model's own address.
    """

    list_page: ClassVar[type[AdminPage]]
    row_page: ClassVar[type[AdminPage]]
    more_pages: ClassVar[Sequence[type[AdminPage]]] = ()

    @override
    def get_urls(self) -> list[URLPattern]:
        """Return the addresses of the further pages, and the model's own."""
        further = [
            path(
                page.path,
                self.admin_site.admin_view(page.as_view(admin_site=self.admin_site)),
                name=page.name,
            )
            for page in self.more_pages
        ]
        return [*further, *super().get_urls()]

    @override
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> Any:
        """Show the list."""
        return self.list_page.as_view(admin_site=self.admin_site)(request)

    @override
    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show one row.

        Raises:
            PermissionDenied: Somebody posts to it: nothing is changed there.
        """
        return self._show_row(request, object_id)

    @override
    def history_view(
        self,
        request: HttpRequest,
        object_id: str,
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show the row: what was done with it stands there, and in the audit."""
        return self._show_row(request, object_id)

    def _show_row(self, request: HttpRequest, key: str) -> HttpResponseBase:
        """Show one row to whoever only reads.

        Raises:
            PermissionDenied: Somebody posts to it.
        """
        if request.method not in {"GET", "HEAD"}:
            raise PermissionDenied("rows are changed on pages of their own")
        return self.row_page.as_view(admin_site=self.admin_site)(request, key=key)
