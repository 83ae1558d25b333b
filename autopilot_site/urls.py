"""Every path the site answers."""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from autopilot_site.apps import discover_pages
from autopilot_site.health.judgement import SUBJECTS
from autopilot_site.health.views import health, livez
from autopilot_site.metrics.views import metrics
from scheduling.api.docs import Docs, Document
from scheduling.api.views import NothingHere

discover_pages()

urlpatterns = [
    # Who comes by hand is a person; programs know their paths.
    path("", RedirectView.as_view(url="/admin/")),
    path("livez", livez, name="livez"),
    path("health", health, name="health"),
    *(path(f"health/{one}", health, {"subject": one}) for one in SUBJECTS),
    path("metrics", metrics, name="metrics"),
    path("api/v1/", include("scheduling.api.urls")),
    path("api/v1/", include("recovery.api")),
    path("api/schema/", Document.as_view(), name="schema"),
    path("api/docs/", Docs.as_view(), name="docs"),
    # Last of /api/: with DEBUG on too, an unknown path is a problem and no page.
    re_path(r"^api/", NothingHere.as_view()),
    path("admin/", admin.site.urls),
]
