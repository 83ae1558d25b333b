"""Those who are told: apprise's addresses, and functions of one's own."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a target is told.

    key: names the condition; the message that it is over has the same.
    """

    key: str
    rule: str
    title: str
    body: str
    is_resolved: bool


Notifier = Callable[[Message], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One of them; `digest` names it without its address, which may hold a secret."""

    digest: str
    notify: Notifier


def configured() -> list[Target]:
    """Return everybody whom the settings name.

    Raises:
        ImproperlyConfigured: One can't be used.
    """
    return [
        *(_by_apprise(address) for address in settings.ALERTS["urls"]),
        *(_by_path(path) for path in settings.ALERTS["notifiers"]),
    ]


def _by_path(path: str) -> Target:
    """Return a function of one's own.

    Raises:
        ImproperlyConfigured: It can't be imported, or called.
    """
    try:
        notify: Any = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"AUTOPILOT_ALERT_NOTIFIERS={path!r}: can't be imported: {error}"
        ) from error
    if not callable(notify):
        raise ImproperlyConfigured(f"AUTOPILOT_ALERT_NOTIFIERS={path!r}: is no function")
    return Target(digest=_digest(path), notify=notify)


def _by_apprise(address: str) -> Target:
    """Return an address that apprise understands.

    Raises:
        ImproperlyConfigured: It does not.
    """
    # It brings a hundred services along, which only who uses them should wait for.
    import apprise  # noqa: PLC0415

    service: Any = apprise.Apprise.instantiate(address)
    if service is None:
        scheme = address.partition("://")[0]
        raise ImproperlyConfigured(
            f"AUTOPILOT_ALERT_URLS={scheme}://…: is no address that apprise knows"
        )

    def notify(message: Message) -> None:
        kind = (
            apprise.NotifyType.SUCCESS
            if message.is_resolved
            else apprise.NotifyType.WARNING
        )
        if not service.notify(title=message.title, body=message.body, notify_type=kind):
            raise NotTakenError

    return Target(digest=_digest(address), notify=notify)


class NotTakenError(Exception):
    """The target did not take the message."""


def _digest(text: str) -> str:
    """Return what names a target in the database."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
