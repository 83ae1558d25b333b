"""The open pages of health (contract, section 7)."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from autopilot_site.health.judgement import SUBJECTS
from autopilot_site.health.reading import shared_reader

_UNAVAILABLE = 503
_OK = 200


def livez(request: HttpRequest) -> HttpResponse:
    """Answer that the process lives, without touching a neighbour."""
    return HttpResponse("ok", content_type="text/plain")


@require_safe
def health(request: HttpRequest, subject: str = "") -> JsonResponse:
    """Tell how all of it is, or one subject of it.

    Args:
        subject: `scheduler`, `recovery`, `kafka`; empty: everything.
    """
    found = shared_reader.read(now=timezone.now())
    if subject:
        assert subject in SUBJECTS  # noqa: S101 -- the routes name no other
        found = found.about(subject)
    status = _UNAVAILABLE if found.is_failed else _OK
    return JsonResponse(found.show(), status=status, headers={"Cache-Control": "no-store"})
