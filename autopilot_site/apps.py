"""The composition root as an app, and the admin on our own site."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks
from typing_extensions import override

from scheduling.conf import scheduler_settings
from scheduling.live_settings import on_change

# django-q2's pages execute code from a row (pickle) and from a form; simplejwt's show
# tokens that are still valid; constance's knows no reason and leaves no audit entry.
APPS_WITHOUT_PAGES = ("django_q", "token_blacklist", "constance")


class AutopilotSiteConfig(AppConfig):
    """Holds what looks at everything: `up`, `verify`, `benchmark`."""

    name = "autopilot_site"

    @override
    def ready(self) -> None:
        """Follow the one setting that is in force in Python's logging."""
        on_change(set_log_level)


def set_log_level() -> None:
    """Let our own loggers write debug lines, or not, as the settings in force say."""
    is_debugging = scheduler_settings().enable_debug_logging
    level = "DEBUG" if is_debugging else settings.SITE.log_level
    logging.getLogger("autopilot").setLevel(level)


class RoleAdminConfig(SimpleAdminConfig):
    """Django's admin, on the site that asks for roles.

    Its pages are found by whoever serves or checks them: a cluster or a consumer, which
    show none, start in two thirds of the time and are smaller without.
    """

    default_site = "autopilot_site.admin_site.RoleAdminSite"

    @override
    def ready(self) -> None:
        """Register Django's checks of the admin; they look at its pages too."""
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(check_pages, checks.Tags.admin)


def check_pages(
    app_configs: Sequence[Any] | None, **kwargs: object
) -> list[checks.CheckMessage]:
    """Check every page of the admin as Django does."""
    discover_pages()
    return check_admin_app(app_configs, **kwargs)


@cache
def discover_pages() -> None:
    """Find every app's pages, then take away those that nobody may have."""
    admin.autodiscover()
    # Not by the apps' models: constance's page belongs to none.
    for model in list(admin.site._registry):  # noqa: SLF001
        if model._meta.app_label in APPS_WITHOUT_PAGES:
            admin.site.unregister([model])
