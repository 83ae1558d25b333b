"""What every view of the API does before its own part, and after it."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

from django.http import QueryDict
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from typing_extensions import override

from scheduling.api.authentication import actor_of
from scheduling.api.idempotency import AnsweredBefore, begin, finish
from scheduling.domain.actors import Operation, authorize
from scheduling.domain.errors import InvalidRequestError
from scheduling.services.idempotency import Ticket, made_before, was_done

# Methods that change something each time, and so honour an Idempotency-Key.
_REPEATABLE_METHODS = frozenset({"POST", "PATCH"})


class ApiView(APIView):
    """A view that asks for the role, refuses unknown query parameters, and answers once.

    operations: what a method asks of the product, beside reading; refused before
        anything of the request is looked at.
    query_parameters: what GET knows; other methods know none.
    repeatable: those of them that may be given several times.
    """

    operations: ClassVar[Mapping[str, Operation]] = {}
    query_parameters: ClassVar[tuple[str, ...]] = ()
    repeatable: ClassVar[AbstractSet[str]] = frozenset()
    _ticket: Ticket | None = None
    # OPTIONS would describe the view in a shape of its own; /api/schema/ does that.
    http_method_names = [name for name in APIView.http_method_names if name != "options"]

    @override
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let the user in, look at the query, and at what was answered before.

        Raises:
            OperationNotPermittedError: The user's role may not do this.
            InvalidRequestError: Names every unknown or repeated parameter.
            AnsweredBefore: The request was made before, under the same key.
            ConflictError: Another one was, or it is still being handled.
        """
        super().initial(request, *args, **kwargs)
        method = request.method or ""
        if operation := self.operations.get(method):
            authorize(actor_of(request), operation)
        is_read = method in {"GET", "HEAD"}
        known = self.query_parameters if is_read else ()
        check_query(request.query_params, known=known, repeatable=self.repeatable)
        if method in _REPEATABLE_METHODS and hasattr(self, method.lower()):
            self._ticket = begin(request)

    def was_done(self, action: str, **about: object) -> bool:
        """Tell whether an earlier try of this request had that effect, but no answer.

        Args:
            action: What the effect is called in the audit.
            about: Conditions for its audit entry, as a query has them.
        """
        return was_done(self._ticket, action, actor=actor_of(self.request), **about)

    def made_before(self, items: Sequence[Mapping[str, object]]) -> dict[int, str]:
        """Return the job ids that an earlier try made, by the index of their items."""
        return made_before(self._ticket, items, actor=actor_of(self.request))

    @property
    def request_name(self) -> str | None:
        """What all tries of this request have in common; None where it has no key."""
        return self._ticket.name if self._ticket else None

    @override
    def handle_exception(self, exc: Exception) -> Any:
        """Return the problem that an exception is, or the answer that was given before."""
        if isinstance(exc, AnsweredBefore):
            return exc.response
        return super().handle_exception(exc)

    @override
    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Return the response, taken down for whoever repeats the request.

        It is one user's, as it stands now: whoever keeps it asks again before using it.
        """
        final = super().finalize_response(request, response, *args, **kwargs)
        final.headers.setdefault("Cache-Control", "private, no-cache")
        if self._ticket is not None:
            finish(self._ticket, final)
        if isinstance(final, Response):
            final.add_post_render_callback(self._let_go)
        return final

    def _let_go(self, response: Response) -> None:
        """Hold nothing of a rendered response: it is freed when it is sent.

        View, request and response hold each other, so that thirty megabytes of a large
        page would wait for the collector, and a dozen pages for as long.
        """
        self.response = None  # type: ignore[assignment]
        response.data = None
        response.renderer_context = None  # type: ignore[attr-defined]


def check_query(
    query: QueryDict, *, known: Iterable[str], repeatable: AbstractSet[str]
) -> None:
    """Refuse parameters that are unknown, or given twice and not repeatable.

    Raises:
        InvalidRequestError: Names each.
    """
    known = tuple(known)
    names = ", ".join(known) or "none"
    errors = [
        (name, f"is not a known query parameter; known are: {names}")
        for name in query
        if name not in known
    ]
    errors += [
        (name, "may be given once")
        for name, values in query.lists()
        if name in known and name not in repeatable and len(values) > 1
    ]
    if errors:
        raise InvalidRequestError(errors)


def check_fields(data: dict[str, Any], *, known: AbstractSet[str]) -> None:
    """Refuse members of a body that are not known.

    Raises:
        InvalidRequestError: Names each.
    """
    errors = [(name, "is not a known field") for name in data if name not in known]
    if errors:
        raise InvalidRequestError(errors)
