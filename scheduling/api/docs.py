"""The page at /api/docs/: Swagger UI from local files, without an inline script."""

from drf_spectacular.views import SpectacularSwaggerSplitView


class Docs(SpectacularSwaggerSplitView):
    """Swagger UI whose script is a file of its own (`?script`), as our policy demands."""

    template_name = "api/docs.html"
    url_name = "schema"
