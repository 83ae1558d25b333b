"""`manage.py constance` of django-constance, which knows no rules and no audit."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override


class Command(BaseCommand):
    """Stands in the place of django-constance's own command, and refuses."""

    help = "Not available: settings are read by list_settings and changed by set_setting."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("arguments", nargs="*")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        raise CommandError(
            "use `manage.py list_settings` and `manage.py set_setting`: they keep to what "
            "is allowed, and are audited"
        )
