"""The demo of the first start: three users, and challenges that move within seconds.

The challenges come as records on `challenge.notification.create`, as upstream sends
them: what follows is the product at its ordinary work.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from django.contrib.auth.models import Group, User
from django.db import transaction

from scheduling.adapters.event_publisher import EventPublisher, OutgoingRecord, Verdict
from scheduling.domain.actors import Role
from scheduling.domain.phases import format_instant
from scheduling.messages import MIME_TYPE, write_envelope
from scheduling.models import ScheduledTransition
from scheduling.topics import NOTIFICATION_CREATE

# Challenges in the shape of the Challenge API v6, with every instant in seconds after
# the start.
CHALLENGES: Final = Path(__file__).with_name("demo_challenges.json")
SEND_SECONDS: Final = 10.0
_PASSWORD_BYTES: Final = 12
_INSTANT_SUFFIX: Final = "Date"


def is_database_empty() -> bool:
    """Tell whether nobody has used this database: it has no job and no user."""
    return not ScheduledTransition.objects.exists() and not User.objects.exists()


def create_users() -> list[tuple[str, str]]:
    """Create one user for each role, in its group; return names and passwords.

    The admin is also Django's superuser.
    """
    created = []
    with transaction.atomic():
        for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
            password = secrets.token_urlsafe(_PASSWORD_BYTES)
            is_admin = role is Role.ADMIN
            user = User.objects.create_user(
                role.value,
                password=password,
                is_staff=is_admin,
                is_superuser=is_admin,
            )
            user.groups.add(Group.objects.get(name=role.value))
            created.append((role.value, password))
    return created


def challenges(*, start: datetime) -> list[dict[str, Any]]:
    """Return the sample challenges with their instants counted from `start`."""
    read: list[dict[str, Any]] = json.loads(CHALLENGES.read_text(encoding="utf-8"))
    return [_dated(challenge, start=start) for challenge in read]


def _dated(value: Any, *, start: datetime) -> Any:
    """Return the value with seconds after the start turned into instants."""
    if isinstance(value, list):
        return [_dated(item, start=start) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: format_instant(start + timedelta(seconds=item))
        if name.endswith(_INSTANT_SUFFIX)
        else _dated(item, start=start)
        for name, item in value.items()
    }


def send_challenges(
    client: Mapping[str, Any],
    *,
    start: datetime,
    while_waiting: Callable[[], bool],
) -> tuple[int, str]:
    """Put the sample challenges on their topic.

    Args:
        client: librdkafka's settings.
        while_waiting: Called about 20 times a second; False gives up.

    Returns:
        How many the broker has acknowledged, and why the others were not.
    """
    records = [
        OutgoingRecord(
            topic=NOTIFICATION_CREATE,
            key=challenge["id"],
            value=write_envelope(NOTIFICATION_CREATE, challenge, at=start),
            headers={"content-type": MIME_TYPE},
            timestamp_ms=int(start.timestamp() * 1000),
        )
        for challenge in challenges(start=start)
    ]
    # This client outlives the sending; what it has to say of a broker that is stopped
    # later is of no interest.
    quiet = {**client, "log_level": 0}
    publisher = EventPublisher(quiet, message_timeout_ms=int(SEND_SECONDS * 1000))
    try:
        outcomes = publisher.publish(
            records, deadline_seconds=SEND_SECONDS, while_waiting=while_waiting
        )
    finally:
        publisher.close()
    errors = [o.error for o in outcomes if o.verdict is not Verdict.ACKNOWLEDGED]
    return len(outcomes) - len(errors), errors[0] if errors else ""
