"""System checks of what a wrong setting would break quietly."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from recovery.strategies import decider
from scheduling.conf import CHECKS_AT_START, recovery_settings_at_start


@register(CHECKS_AT_START)
def check_strategies(
    app_configs: Sequence[Any] | None, **kwargs: object
) -> list[CheckMessage]:
    """Refuse strategies that can't be imported, before something is overdue."""
    try:
        decider(recovery_settings_at_start())
    except ImproperlyConfigured as error:
        return [Error(str(error), id="recovery.E001")]
    return []
