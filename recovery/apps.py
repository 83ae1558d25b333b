"""Recovery as a Django app."""

from django.apps import AppConfig
from typing_extensions import override


class RecoveryConfig(AppConfig):
    """The caretaker: knows scheduling, and is unknown to it."""

    name = "recovery"

    @override
    def ready(self) -> None:
        """Carry out the command that scheduling only knows by name."""
        # Models are loaded now.
        from recovery import checks  # noqa: F401, PLC0415 -- registers itself
        from recovery.services import recover  # noqa: PLC0415
        from scheduling.domain.commands import CommandName  # noqa: PLC0415
        from scheduling.services.commands import register_command  # noqa: PLC0415

        register_command(CommandName.RECOVER, recover)
