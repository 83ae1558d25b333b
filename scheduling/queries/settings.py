"""The settings that may change while the system runs, as they are in force."""

from typing import Any

from scheduling.live_settings import live_settings, read_overrides


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
