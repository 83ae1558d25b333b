"""A page that asks once more before something is done: what, why, and a button for it.

class ResetBreaker(ConfirmPage):
path, name, title = …
operation = Operation.RESET
button = "Reset this breaker"
template_name = "admin/reset_breaker.html"   # extends "admin/confirm.html"

def carry_out(self, reason):
reset_breaker(…, reason=reason)
return "The breaker is closed.", reverse("admin:circuit_breakers")
"""

from http import HTTPStatus
from typing import Any, ClassVar

from django.contrib import messages
from django.http import HttpRequest
from django.http.response import HttpResponseBase, HttpResponseRedirect
from typing_extensions import override

from scheduling.domain.errors import Category, SchedulingError, ServiceUnavailableError
from scheduling.domain.phases import LONGEST_REASON
from scheduling.pages.base import AdminPage


def status_of(error: SchedulingError) -> HTTPStatus:
    """Return the status of a page that tells of an error."""
    if isinstance(error, ServiceUnavailableError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if error.category is Category.VALIDATION:
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.CONFLICT


class ConfirmPage(AdminPage):
    """Does one thing, by POST alone; the role is asked for again then.

    button: the verb and what it is done to.
    is_danger: whether it can't be taken back.
    """

    button: ClassVar[str]
    is_danger: ClassVar[bool] = False
    needs_reason: ClassVar[bool] = True

    def carry_out(self, reason: str) -> tuple[str, str]:
        """Do it; return what was done in words, and where to go then.

        Raises:
            SchedulingError: It can't be done; the page says why.
        """
        raise NotImplementedError

    def post(
        self, request: HttpRequest, *args: object, **kwargs: object
    ) -> HttpResponseBase:
        """Do it, or show again what stands in the way."""
        try:
            told, url = self.carry_out(request.POST.get("reason", ""))
        except SchedulingError as error:
            found = self.get_context_data(problem=error.detail)
            return self.render_to_response(found, status=status_of(error))
        messages.success(request, told)
        return HttpResponseRedirect(url)

    @override
    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Return what the form says, and what is given."""
        return {
            **super().get_context_data(**kwargs),
            "button": self.button,
            "is_danger": self.is_danger,
            "needs_reason": self.needs_reason,
            "reason": self.request.POST.get("reason", "")[: LONGEST_REASON + 1],
            "longest_reason": LONGEST_REASON,
        }
