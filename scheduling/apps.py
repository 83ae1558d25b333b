"""Scheduling as a Django app."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from typing_extensions import override


class SchedulingConfig(AppConfig):
    """The product: rows, services, engine and doors."""

    name = "scheduling"

    @override
    def ready(self) -> None:
        """Register the system checks, and fill the role groups after each migrate."""
        from scheduling import checks  # noqa: F401, PLC0415 -- registers on import
        from scheduling.adapters.challenge_service import (  # noqa: PLC0415
            warn_about_mock_mode,
        )
        from scheduling.services.roles import fill_role_groups  # noqa: PLC0415

        post_migrate.connect(fill_role_groups, sender=self)
        warn_about_mock_mode()
