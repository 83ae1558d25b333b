"""The README's table of environment variables, written from the settings' own models.

`python -m autopilot_site.env_table` puts it into README.md; a test compares the two.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from autopilot_site.env import SECRETS, SiteSettings, allowed
from scheduling.conf import (
    BREAKER_SETTINGS,
    MessageSettings,
    RecoverySettings,
    SchedulerSettings,
)
from scheduling.live_settings import LiveGroup

README: Final = Path(__file__).resolve().parent.parent / "README.md"
BEGIN: Final = "<!-- environment: written by `make readme` -->"
END: Final = "<!-- environment: end -->"
GROUPS: Final[tuple[type[BaseSettings], ...]] = (
    SchedulerSettings,
    RecoverySettings,
    *BREAKER_SETTINGS.values(),
    MessageSettings,
    SiteSettings,
)
_LIVE: Final = " Changes while running."


def environment_table() -> str:
    """Return the table in Markdown: a row for each variable."""
    rows = [
        "| variable | default | allowed | meaning |",
        "| --- | --- | --- | --- |",
        *(row for group in GROUPS for row in _rows(group)),
    ]
    return "\n".join(rows)


def with_table(text: str) -> str:
    """Return a document with the present table between its two marks.

    Raises:
        ValueError: The document has no such marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{environment_table()}\n{END}{after}"


def _rows(group: type[BaseSettings]) -> Iterator[str]:
    """Return one row for each variable of a group."""
    prefix = str(group.model_config.get("env_prefix", ""))
    for field_name, field in group.model_fields.items():
        name = (prefix + field_name).upper()
        shown = f"`{name}`" + (f", `{name}_FILE`" if name in SECRETS else "")
        cells = (
            shown,
            _default(field),
            allowed(field),
            (field.description or "") + (_LIVE if _is_live(group, field_name) else ""),
        )
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _is_live(group: type[BaseSettings], field_name: str) -> bool:
    """Tell whether a person may change a variable's value while the processes run."""
    if not issubclass(group, LiveGroup) or group is MessageSettings:
        return False
    return field_name not in group.restart_only


def _cell(text: str) -> str:
    """Return a text that does not end its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def _default(field: FieldInfo) -> str:
    """Return the default as it would be written in the environment."""
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, tuple):
        value = ",".join(value)
    if field.default_factory is not None:
        value = ""
    return f"`{value}`" if value not in {"", None} else "empty"


if __name__ == "__main__":
    README.write_text(
        with_table(README.read_text(encoding="utf-8")), encoding="utf-8", newline="\n"
    )
