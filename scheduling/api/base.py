"""What every view of the API does first: it names the query parameters it knows."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

from django.http import QueryDict
from rest_framework.request import Request
from rest_framework.views import APIView
from typing_extensions import override

from scheduling.domain.errors import InvalidRequestError


class ApiView(APIView):
    """A view that refuses unknown query parameters.

    query_parameters: what GET knows; other methods know none.
    repeatable: those of them that may be given several times.
    """

    query_parameters: ClassVar[tuple[str, ...]] = ()
    repeatable: ClassVar[AbstractSet[str]] = frozenset()
    # OPTIONS would describe the view in a shape of its own; /api/schema/ does that.
    http_method_names = [name for name in APIView.http_method_names if name != "options"]

    @override
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let the user in, then look at the query.

        Raises:
            InvalidRequestError: Names every unknown or repeated parameter.
        """
        super().initial(request, *args, **kwargs)
        is_read = request.method in {"GET", "HEAD"}
        known = self.query_parameters if is_read else ()
        check_query(request.query_params, known=known, repeatable=self.repeatable)


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
