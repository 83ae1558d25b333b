"""Pages of the admin that are no model's: a class each, found by the site itself.

    @admin_page
    class Cluster(AdminPage):
        path = "cluster/"          # below /admin/
        name = "cluster"           # reverse("admin:cluster")
        title = "Cluster"
        template_name = "admin/cluster.html"   # extends "admin/page.html"

        def context(self) -> dict[str, Any]:
            return {...}

Who may open it is asked before anything else: `operation` for reading, `post_operation`
for a POST. A refusal is a 403, which the site writes to the audit.
"""

from datetime import datetime
from typing import Any, ClassVar

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.generic import TemplateView
from typing_extensions import override

from scheduling.domain.actors import Actor, Operation
from scheduling.pages.acting import actor_on, demand, may

PAGES: list[type["AdminPage"]] = []


def admin_page(page: type["AdminPage"]) -> type["AdminPage"]:
    """Register a page; the site gives it its address."""
    PAGES.append(page)
    return page


class AdminPage(TemplateView):
    """One page: its address, its title, who may open it, what it shows.

    now: the one instant of the request, read when it arrives.
    """

    path: ClassVar[str]
    name: ClassVar[str]
    title: str = ""
    subtitle: str = ""
    operation: ClassVar[Operation] = Operation.VIEW
    post_operation: ClassVar[Operation | None] = None
    http_method_names = ["get", "head", "post"]
    admin_site: AdminSite | None = None
    now: datetime

    @override
    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Read the clock."""
        super().setup(request, *args, **kwargs)
        self.now = timezone.now()

    @override
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer whoever may.

        Raises:
            PermissionDenied: The role may not open the page, or not post to it.
        """
        is_write = request.method == "POST"
        demand(request, (is_write and self.post_operation) or self.operation)
        return super().dispatch(request, *args, **kwargs)

    @property
    def actor(self) -> Actor:
        """The signed-in user, as the audit names them."""
        return actor_on(self.request)

    def may(self, operation: Operation) -> bool:
        """Tell whether the user's role may do an operation."""
        return may(self.request, operation)

    def context(self) -> dict[str, Any]:
        """Return what the template shows, beside title and `now`."""
        return {}

    @override
    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Return the site's context, the page's own, and what is given."""
        site = self.admin_site
        return {
            **(site.each_context(self.request) if site else {}),
            "title": self.title,
            "subtitle": self.subtitle,
            "now": self.now,
            **self.context(),
            **super().get_context_data(**kwargs),
        }
