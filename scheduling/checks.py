"""System checks of what a wrong setting would break quietly."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured

from scheduling.adapters.event_publisher import publisher_class
from scheduling.conf import CHECKS_AT_START, recovery_settings_at_start
from scheduling.services.routes import routes

# What passes between the hand-over of a task and the start of its timeout.
SLACK_SECONDS = 5


@register(CHECKS_AT_START)
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


@register(CHECKS_AT_START)
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


@register(CHECKS_AT_START)
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


@register(CHECKS_AT_START)
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


@register(Tags.security, deploy=True)
def check_neighbours_are_proven(
    app_configs: Sequence[Any] | None, **kwargs: object
) -> list[CheckMessage]:
    """Warn of a broker or database elsewhere that could be anybody, or be overheard."""
    found: list[CheckMessage] = []
    brokers = str(settings.KAFKA_CLIENT["bootstrap.servers"]).split(",")
    protocol = settings.KAFKA_CLIENT.get("security.protocol", "PLAINTEXT")
    are_here = all(_is_here(broker.strip().rpartition(":")[0]) for broker in brokers)
    if protocol not in {"SSL", "SASL_SSL"} and not are_here:
        found.append(
            CheckWarning(
                f"KAFKA_SECURITY_PROTOCOL is {protocol}, and a broker is on another host.",
                hint="Set it to SSL or SASL_SSL, with KAFKA_SSL_CA_LOCATION.",
                id="scheduling.W002",
            )
        )
    database: dict[str, Any] = settings.DATABASES["default"]
    is_proven = database.get("OPTIONS", {}).get("sslmode") == "verify-full"
    is_away = database["ENGINE"].endswith("postgresql") and not _is_here(database["HOST"])
    if is_away and not is_proven:
        found.append(
            CheckWarning(
                "DATABASE_URL names another host without sslmode=verify-full.",
                hint="Add ?sslmode=verify-full&sslrootcert=PATH to it.",
                id="scheduling.W003",
            )
        )
    return found


def _is_here(host: str) -> bool:
    """Tell whether a host's name, address or socket is on this host."""
    if host in {"", "localhost"} or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
