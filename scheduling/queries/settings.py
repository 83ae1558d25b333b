"""The settings that may change while the system runs, as they are in force."""

from typing import Any, Final

from scheduling.live_settings import live_settings, read_overrides
from scheduling.models import AuditEntry

# Of changes of settings, so many newest are looked at for the last one of each.
_LOOKED_AT: Final = 500


def show_settings() -> dict[str, dict[str, Any]]:
    """Return each by its name, as the outside sees it (contract, section 4).

    default: what the environment gives. source: `runtime` where a person has set it,
    else `environment` or `default`. min, max: null where it is no number.
    """
    overrides = read_overrides()
    return {
        name: {
            "value": overrides.get(name, one.default),
            "default": one.default,
            "source": "runtime" if name in overrides else one.source,
            "min": one.bound("ge"),
            "max": one.bound("le"),
        }
        for name, one in live_settings().items()
    }


def last_changes() -> dict[str, AuditEntry]:
    """Return the audit's newest entry about each setting that was changed, by name."""
    entries = AuditEntry.objects.filter(action="settings.changed")
    found: dict[str, AuditEntry] = {}
    for entry in entries.order_by("-at", "-id")[:_LOOKED_AT]:
        found.setdefault(str(entry.changes.get("setting")), entry)
    return found
