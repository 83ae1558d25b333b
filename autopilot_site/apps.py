"""The composition root as an app, and the admin on our own site."""

from django.apps import AppConfig, apps
from django.contrib import admin
from django.contrib.admin.apps import AdminConfig
from typing_extensions import override

# django-q2's pages execute code from a row (pickle) and from a form; simplejwt's show
# tokens that are still valid.
APPS_WITHOUT_PAGES = ("django_q", "token_blacklist")


class AutopilotSiteConfig(AppConfig):
    """Holds what looks at everything: `up`, `verify`, `benchmark`."""

    name = "autopilot_site"


class RoleAdminConfig(AdminConfig):
    """Django's admin, on the site that asks for roles."""

    default_site = "autopilot_site.admin_site.RoleAdminSite"

    @override
    def ready(self) -> None:
        """Find every app's pages, then take away those that nobody may have."""
        super().ready()
        for label in APPS_WITHOUT_PAGES:
            for model in apps.get_app_config(label).get_models():
                if admin.site.is_registered(model):
                    admin.site.unregister(model)
