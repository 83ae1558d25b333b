"""System checks of what a wrong setting would break quietly."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured

from scheduling.adapters.event_publisher import publisher_class
from scheduling.conf import recovery_settings_at_start
from scheduling.services.routes import routes

# What passes between the hand-over of a task and the start of its timeout.
SLACK_SECONDS = 5


@register
def check_task_is_not_handed_out_twice(
    app_configs: Sequence[Any] | None, **kwargs: object
) -> list[CheckMessage]:
    """Refuse a retry so short that a task could be redelivered while it still waits."""
    cluster: dict[str, Any] = settings.Q_CLUSTER
    rounds = -(-cluster["queue_limit"] // cluster["workers"])
    least = cluster["timeout"] * (rounds + 1) + SLACK_SECONDS
    if cluster["retry"] > least:
        return []
    return [
        Error(
            f"Q_CLUSTER retry is {cluster['retry']} s, and must exceed {least} s.",
            hint="A task that still waits or runs would be handed out a second time.",
            id="scheduling.E001",
        )
    ]


@register
def check_sqlite_writes_at_once(
    app_configs: Sequence[Any] | None, **kwargs: object
) -> list[CheckMessage]:
    """Refuse SQLite without IMMEDIATE: read-then-write transactions would fail."""
    database: dict[str, Any] = settings.DATABASES["default"]
    is_sqlite = database["ENGINE"].endswith("sqlite3")
    if not is_sqlite or database["OPTIONS"].get("transaction_mode") == "IMMEDIATE":
        return []
    return [
        Error(
            "SQLite needs OPTIONS['transaction_mode'] = 'IMMEDIATE'.",
            hint="Without it a transaction that reads first fails when another wrote.",
            id="scheduling.E002",
        )
    ]


@register
def check_challenges_are_real(
    app_configs: Sequence[Any] | None, **kwargs: object
) -> list[CheckMessage]:
    """Warn of mock mode in production: events of sample challenges go out."""
    if settings.DEBUG or not recovery_settings_at_start().challenge_service_mock_mode:
        return []
    return [
        CheckWarning(
            "RECOVERY_CHALLENGE_SERVICE_MOCK_MODE is on, and DEBUG is off.",
            hint="Sample challenges are scheduled and fired, and no real one is read.",
            id="scheduling.W001",
        )
    ]


@register
def check_what_is_plugged_in(
    app_configs: Sequence[Any] | None, **kwargs: object
) -> list[CheckMessage]:
    """Refuse handlers and publishers that can't be imported, before they are needed."""
    found: list[CheckMessage] = []
    for look_up in (routes, publisher_class):
        try:
            look_up()
        except ImproperlyConfigured as error:
            found.append(Error(str(error), id="scheduling.E003"))
    return found
