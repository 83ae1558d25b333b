"""The settings that may change while the processes run, and what is in force of them.

The environment gives each its value; what a person has set since then stands in
django-constance's table and goes before it. A process reads that table once in a while,
when it asks for a setting, so that a change is in force everywhere within seconds and
costs the firing path one small query now and then.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast

from constance.codecs import loads
from django.apps import apps
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error as DatabaseError
from django.db import connection, transaction
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

logger = logging.getLogger("autopilot.settings")


class LiveGroup(BaseSettings):
    """A group of variables, some of which may change while the processes run.

    restart_only: fields that may not: what was made from them stands until a restart.
    """

    restart_only: ClassVar[frozenset[str]] = frozenset()


Group = TypeVar("Group", bound=BaseSettings)
# Names and encoded values.
Rows = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Live:
    """One setting that may change.

    group: what Django's settings have it in.
    """

    name: str
    group: LiveGroup
    field_name: str

    @property
    def info(self) -> FieldInfo:
        """What is known of its values."""
        return type(self.group).model_fields[self.field_name]

    @property
    def default(self) -> bool | int:
        """The value that the environment gives it."""
        return cast("bool | int", getattr(self.group, self.field_name))

    @property
    def source(self) -> str:
        """Where that value comes from."""
        is_given = self.field_name in self.group.model_fields_set
        return "environment" if is_given else "default"

    def bound(self, kind: str) -> int | None:
        """Return the least (`ge`) or greatest (`le`) value; None for what is no number."""
        found = [getattr(one, kind) for one in self.info.metadata if hasattr(one, kind)]
        return found[0] if found else None

    def parse(self, value: object) -> bool | int:
        """Return a value that is allowed, by the rules of the environment's.

        Raises:
            ValueError: It is not; says what is.
        """
        wanted = type(self.default)
        if type(value) is not wanted:
            raise ValueError(
                "must be true or false" if wanted is bool else "must be a whole number"
            )
        try:
            changed = type(self.group)(
                **{**self.group.model_dump(), self.field_name: value}
            )
        except ValidationError as error:
            told = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            raise ValueError(told) from None
        return cast("bool | int", getattr(changed, self.field_name))


def live_groups() -> list[LiveGroup]:
    """Return the groups as the environment has them."""
    return [settings.SCHEDULER, settings.RECOVERY, *settings.BREAKERS.values()]


def live_settings() -> dict[str, Live]:
    """Return every setting that may change, by the name of its variable."""
    found = {}
    for group in live_groups():
        for field_name in type(group).model_fields:
            if field_name not in type(group).restart_only:
                name = _name(group, field_name)
                found[name] = Live(name=name, group=group, field_name=field_name)
    return found


def constance_config(groups: list[LiveGroup]) -> dict[str, tuple[Any, str, type]]:
    """Return django-constance's own list of the settings: default, meaning, type."""
    config = {}
    for group in groups:
        for field_name, info in type(group).model_fields.items():
            if field_name not in type(group).restart_only:
                value = getattr(group, field_name)
                config[_name(group, field_name)] = (
                    value,
                    info.description or "",
                    type(value),
                )
    return config


def _name(group: BaseSettings, field_name: str) -> str:
    """Return the name of a field's variable."""
    return f"{type(group).model_config.get('env_prefix', '')}{field_name}".upper()


def read_overrides() -> dict[str, bool | int]:
    """Return what was set by hand, by name; what is allowed no more is left out.

    Raises:
        DatabaseError: The database is out of reach.
    """
    return _parse(_read_rows())


def _read_rows() -> Rows:
    """Return names and texts as they stand in the table."""
    # Each process asks every few seconds: the ORM takes several times as long.
    table = apps.get_model("constance", "Constance")._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT key, value FROM {connection.ops.quote_name(table)}")  # noqa: S608
        rows: Rows = cursor.fetchall()
    return rows


def _parse(rows: Rows) -> dict[str, bool | int]:
    """Return what the rows say; what is allowed no more is left out."""
    known = live_settings()
    found = {}
    for name, text in rows:
        if name not in known:
            continue
        try:
            found[name] = known[name].parse(loads(text))
        except ValueError as error:
            logger.warning("%s: the value set by hand is not in force: %s", name, error)
    return found


@dataclass
class _Snapshot:
    """What this process last read, and the groups as they are with it.

    stale_at: monotonic seconds.
    rows: what the table holds; None before it was read.
    values: what the rows say.
    merged: by kind of group, what it was made of and what came of it.
    """

    stale_at: float = 0.0
    rows: Rows | None = None
    values: Mapping[str, bool | int] = field(default_factory=dict)
    merged: dict[type, tuple[BaseSettings, BaseSettings]] = field(default_factory=dict)


_snapshot = _Snapshot()
_listeners: list[Callable[[], None]] = []


def in_force(group: Group) -> Group:
    """Return a group as it is in force now.

    Args:
        group: As the environment has it.
    """
    every: float | None = settings.LIVE_SETTINGS_SECONDS
    is_stale = time.monotonic() >= _snapshot.stale_at
    if is_stale and (every or _snapshot.stale_at < 0) and apps.ready:
        _refresh(every or float("inf"))
    if not _snapshot.values:
        return group
    kept = _snapshot.merged.get(type(group))
    if kept is None or kept[0] is not group:
        kept = _snapshot.merged[type(group)] = (group, _merge(group))
    return cast("Group", kept[1])


def _merge(group: BaseSettings) -> BaseSettings:
    """Return a group with what was set by hand; each value was checked when it was read."""
    changes = {
        field_name: _snapshot.values[name]
        for field_name in type(group).model_fields
        if (name := _name(group, field_name)) in _snapshot.values
    }
    return group.model_copy(update=changes) if changes else group


def _refresh(every: float) -> None:
    """Read the table again; where it can't be read, what is known stays in force."""
    # First, so that nothing that is asked for meanwhile comes here again.
    _snapshot.stale_at = time.monotonic() + every
    if connection.in_atomic_block and connection.needs_rollback:
        return
    try:
        if connection.in_atomic_block:
            # A failure must not break the transaction that it happens in.
            with transaction.atomic():
                rows = _read_rows()
        else:
            rows = _read_rows()
    except (DatabaseError, SynchronousOnlyOperation) as error:
        logger.debug("the settings are as they were: %s", error)
        return
    if rows == _snapshot.rows:
        return
    _snapshot.rows, values = rows, _parse(rows)
    if values != _snapshot.values:
        _snapshot.values = values
        _snapshot.merged = {}
        for listen in _listeners:
            listen()


def on_change(listen: Callable[[], None]) -> None:
    """Call a function whenever this process sees another value."""
    _listeners.append(listen)


def look_again() -> None:
    """Let this process read the table before it answers the next time."""
    _snapshot.stale_at = -1.0


def forget() -> None:
    """Forget what was read; the environment alone is in force."""
    _snapshot.stale_at, _snapshot.rows = 0.0, None
    _snapshot.values, _snapshot.merged = {}, {}
