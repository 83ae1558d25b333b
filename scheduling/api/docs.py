"""The API's document, and the page at /api/docs/ that shows it."""

from typing import TYPE_CHECKING, Any, ClassVar

from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override

from scheduling.api.base import check_query
from scheduling.domain.errors import InvalidRequestError

if TYPE_CHECKING:
    # For the type checker alone: at run time it is mixed into drf-spectacular's views.
    from rest_framework.views import APIView as Base
else:
    Base = object


class _Public(Base):
    """Is there for everybody, to be read, and refuses as the API does.

    query_parameters: those that it knows.
    """

    # OPTIONS would describe the view in a shape of its own.
    http_method_names = ["get", "head"]
    query_parameters: ClassVar[tuple[str, ...]] = ()

    @override
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse what is not known.

        Raises:
            InvalidRequestError: Names every unknown or repeated parameter.
        """
        super().initial(request, *args, **kwargs)
        known = self.query_parameters
        check_query(request.query_params, known=known, repeatable=frozenset())

    @override
    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Return the response; a problem is JSON, whatever this view writes otherwise."""
        final = super().finalize_response(request, response, *args, **kwargs)
        if final.exception:
            final.accepted_renderer = JSONRenderer()
        return final


class Document(_Public, SpectacularAPIView):
    """The OpenAPI document: YAML, or JSON by `Accept` or by `?format=json`."""

    query_parameters = ("format",)

    @override
    def perform_content_negotiation(self, request: Request, force: Any = False) -> Any:
        """Let `format` decide where it is given, whatever the client accepts.

        Raises:
            InvalidRequestError: There is no such format.
        """
        chosen = request.query_params.get("format")
        if chosen is None:
            return super().perform_content_negotiation(request, force=force)
        renderers = {one.format: one for one in reversed(self.renderer_classes)}
        if chosen in renderers:
            return renderers[chosen](), renderers[chosen].media_type
        if force:
            # Of the refusal.
            return JSONRenderer(), JSONRenderer.media_type
        raise InvalidRequestError([("format", f"must be one of {', '.join(renderers)}")])


class Docs(_Public, SpectacularSwaggerSplitView):
    """Swagger UI whose script is a file of its own (`?script`), as our policy demands."""

    template_name = "api/docs.html"
    url_name = "schema"
    query_parameters = ("script",)
