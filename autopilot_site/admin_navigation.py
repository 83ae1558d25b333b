"""The admin's sidebar: every page's place, in the order in which one looks for it."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from scheduling.domain.actors import Role
from scheduling.pages.acting import role_on


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line of the sidebar.

    url_name: of the page; a page that this site does not have is left out.
    icon: a name of Material Symbols.
    roles: who sees it.
    """

    title: str
    url_name: str
    icon: str
    roles: frozenset[Role] = frozenset(Role)


_ADMIN = frozenset({Role.ADMIN})
NAVIGATION: tuple[tuple[str, tuple[Item, ...]], ...] = (
    (
        "",
        (
            Item(title="Home", url_name="index", icon="home"),
            Item(
                title="Transitions",
                url_name="scheduling_scheduledtransition_changelist",
                icon="schedule",
            ),
            Item(
                title="Challenges",
                url_name="scheduling_challenge_changelist",
                icon="view_timeline",
            ),
            Item(
                title="Schedule adjustment",
                url_name="schedule_adjustment",
                icon="edit_calendar",
                roles=frozenset({Role.OPERATOR, Role.ADMIN}),
            ),
        ),
    ),
    (
        "Watch",
        (
            Item(
                title="Recovery", url_name="recovery_recoveryrun_changelist", icon="healing"
            ),
            Item(
                title="Dead letters",
                url_name="scheduling_deadletter_changelist",
                icon="unsubscribe",
            ),
            Item(
                title="Circuit breakers", url_name="circuit_breakers", icon="electric_bolt"
            ),
            Item(title="Cluster", url_name="cluster", icon="lan"),
            Item(title="Verification", url_name="verification", icon="verified"),
            Item(
                title="Audit", url_name="scheduling_auditentry_changelist", icon="history"
            ),
        ),
    ),
    (
        "Administration",
        (
            Item(title="Settings", url_name="settings", icon="settings"),
            Item(
                title="Users",
                url_name="auth_user_changelist",
                icon="person",
                roles=_ADMIN,
            ),
            Item(
                title="Groups",
                url_name="auth_group_changelist",
                icon="group",
                roles=_ADMIN,
            ),
        ),
    ),
)


def navigation(request: HttpRequest, *, site_name: str) -> list[dict[str, Any]]:
    """Return the sidebar's groups as unfold's template reads them."""
    role = role_on(request)
    groups = []
    for title, items in NAVIGATION:
        shown = [
            line
            for item in items
            if role in item.roles
            and (line := _line(item, request, site_name=site_name)) is not None
        ]
        groups.append({"title": title, "items": shown, "separator": bool(title)})
    return groups


def _line(item: Item, request: HttpRequest, *, site_name: str) -> dict[str, Any] | None:
    """Return one line; None where the site has no such page."""
    try:
        link = reverse(f"{site_name}:{item.url_name}")
    except NoReverseMatch:
        return None
    is_home = item.url_name == "index"
    active = request.path == link if is_home else request.path.startswith(link)
    return {
        "title": item.title,
        "link": link,
        "icon": item.icon,
        "active": active,
        "has_permission": True,
    }
