"""The audit, by page or as a file (contract, section 4)."""

from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override

from scheduling.api.audit_schema import AUDIT_ANSWERS, AUDIT_PARAMETERS
from scheduling.api.base import ApiView
from scheduling.api.paging import PAGE_PARAMETERS, show_page
from scheduling.domain.errors import InvalidRequestError
from scheduling.queries.audit import (
    AUDIT_FILTERS,
    list_audit,
    read_whole,
    show_audit_entry,
)
from scheduling.queries.audit_export import STREAMED, StreamedResponse
from scheduling.queries.filters import camel_case

_FILTER_NAMES = {camel_case(name): name for name in AUDIT_FILTERS}
_FORMATS = ("json", *STREAMED)
# A client may ask for a file by Accept too. What these render are problems.
_RENDERERS = [
    type(
        f"{name.title()}Renderer",
        (JSONRenderer,),
        {"media_type": kind.partition(";")[0], "format": name},
    )
    for name, (kind, _) in STREAMED.items()
]


class AuditList(ApiView):
    """Who changed what, over all jobs."""

    query_parameters = (*_FILTER_NAMES, "format", *PAGE_PARAMETERS)
    renderer_classes = [JSONRenderer, *_RENDERERS]

    @override
    def perform_content_negotiation(self, request: Request, force: Any = False) -> Any:
        """Let `format` decide where it is given, whatever the client accepts."""
        if "format" in request.query_params:
            # Of a page and of problems; a file is not rendered.
            return JSONRenderer(), JSONRenderer.media_type
        return super().perform_content_negotiation(request, force=force)

    @extend_schema(
        operation_id="listAudit",
        summary="Show what was done, by whom and why",
        description="The newest first, by page. With `format=csv` or `format=ndjson`, or "
        "an `Accept` of their media types, everything that matches is sent as a file, the "
        "oldest first, while it is read. "
        "All filters must hold.\n\n"
        "In CSV, `changes` is JSON and null is empty. A cell that begins with `=`, `+`, "
        "`-`, `@`, a tab or a line break gets an apostrophe before it, so that no "
        "spreadsheet takes it for a formula; NDJSON has every value as it is.",
        parameters=AUDIT_PARAMETERS,
        responses=AUDIT_ANSWERS,
        tags=["audit"],
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Return a page of audit records, or all of them as a file."""
        query = request.query_params
        entries = list_audit(
            {_FILTER_NAMES[name]: query[name] for name in query if name in _FILTER_NAMES}
        )
        chosen = _read_format(request)
        if chosen not in STREAMED:
            return Response(show_page(entries, request, show=show_audit_entry))
        media_type, write = STREAMED[chosen]
        name = f"audit-{timezone.now():%Y%m%dT%H%M%SZ}.{chosen}"
        headers = {
            "Content-Type": media_type,
            "Content-Disposition": f'attachment; filename="{name}"',
            # Nobody keeps it, and no proxy holds it back until it is whole.
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
        if request.method == "HEAD":
            return HttpResponse(headers=headers)
        return StreamedResponse(write(read_whole(entries)), headers=headers)


def _read_format(request: Request) -> str:
    """Return the format asked for.

    Raises:
        InvalidRequestError: There is no such format, or a file is asked for by page.
    """
    query = request.query_params
    chosen = query.get("format", request.accepted_renderer.format)
    if chosen not in _FORMATS:
        raise InvalidRequestError([("format", f"must be one of {', '.join(_FORMATS)}")])
    if chosen in STREAMED:
        errors = [
            (name, f"can't be combined with {chosen}, which sends everything")
            for name in PAGE_PARAMETERS
            if name in query
        ]
        if errors:
            raise InvalidRequestError(errors)
    return chosen
