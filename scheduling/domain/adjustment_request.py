"""What a caller may ask of an adjustment, understood (contract, section 5)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduling.domain.changes import OnConflict, ScheduleChange
from scheduling.domain.errors import InvalidRequestError, InvalidScheduleTimeError
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import (
    parse_id,
    parse_instant,
    parse_reason,
    parse_state,
    parse_text,
    wire_id,
)

MOST_CHANGES = 1_000
_INSTANT_FIELD = "newEndTime"


@dataclass(frozen=True, kw_only=True)
class AdjustmentRequest:
    """Changes of a schedule, and how they shall be made.

    operator: written into the new jobs; None: a replaced job's stays, a new one has the
        actor's name.
    batch_id: by which a repeated request is known; None where it has none.
    """

    changes: tuple[ScheduleChange, ...]
    reason: str
    operator: str | None = None
    batch_id: str | None = None
    is_dry_run: bool = False
    on_conflict: OnConflict = OnConflict.REJECT
    is_atomic: bool = True


def _parse_flag(value: object) -> bool:
    """Return true or false."""
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def _parse_on_conflict(value: object) -> OnConflict:
    """Return what becomes of conflicts."""
    if isinstance(value, str) and value in set(OnConflict):
        return OnConflict(value)
    raise ValueError(f"must be one of {', '.join(OnConflict)}")


# Wire name, attribute, parser, whether it must be there.
_Fields = tuple[tuple[str, str, Callable[[Any], object], bool], ...]
_CHANGE_FIELDS: _Fields = (
    ("projectId", "project_id", parse_id, True),
    ("phaseId", "phase_id", parse_id, True),
    ("state", "kind", parse_state, False),
    ("phaseTypeName", "phase_type_name", parse_text, False),
    (_INSTANT_FIELD, "new_due_at", parse_instant, True),
    ("changeReason", "reason", parse_reason, False),
)
_REQUEST_FIELDS: _Fields = (
    ("operator", "operator", parse_text, False),
    ("updateReason", "reason", parse_reason, True),
    ("batchId", "batch_id", parse_text, False),
    ("dryRun", "is_dry_run", _parse_flag, False),
    ("onConflict", "on_conflict", _parse_on_conflict, False),
    ("atomic", "is_atomic", _parse_flag, False),
)
Errors = list[tuple[str, str]]


def read_adjustment(body: Mapping[str, object]) -> AdjustmentRequest:
    """Return the request from its camelCase names; an optional field may be null.

    Raises:
        InvalidScheduleTimeError: Only instants are wrong, none of them missing.
        InvalidRequestError: Other fields are missing, unknown or wrong; names all.
    """
    errors: Errors = []
    changes = _read_changes(body.get("changes"), errors)
    rest = {name: value for name, value in body.items() if name != "changes"}
    values = _read(rest, _REQUEST_FIELDS, errors, prefix="")
    _raise(errors)
    return AdjustmentRequest(changes=tuple(changes), **values)


def _read_changes(given: object, errors: Errors) -> list[ScheduleChange]:
    """Return the changes; what is wrong with them is added to the errors."""
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        is_missing = given is None
        errors.append(("changes", "is required" if is_missing else "must be a list"))
        return []
    if len(given) > MOST_CHANGES:
        most = f"must hold at most {MOST_CHANGES:,} changes, not {len(given):,}"
        errors.append(("changes", most))
        return []
    changes = []
    for index, change in enumerate(given):
        place = f"changes[{index}]"
        if isinstance(change, ScheduleChange):
            fields = _as_mapping(change)
        elif isinstance(change, Mapping):
            fields = change
        else:
            errors.append((place, "must be an object"))
            continue
        wrong: Errors = []
        values = _read(fields, _CHANGE_FIELDS, wrong, prefix=f"{place}.")
        errors += wrong
        if not wrong:
            changes.append(ScheduleChange(**{"kind": TransitionKind.END, **values}))
    return changes


def _as_mapping(change: ScheduleChange) -> Mapping[str, object]:
    """Return the camelCase view of a change that a program has made."""
    values: dict[str, Any] = {
        name: getattr(change, attribute) for name, attribute, *_ in _CHANGE_FIELDS
    }
    for name in ("projectId", "phaseId"):
        if isinstance(values[name], str):
            values[name] = wire_id(values[name])
    return values


def _read(
    given: Mapping[Any, object], fields: _Fields, errors: Errors, *, prefix: str
) -> dict[str, Any]:
    """Return the values by attribute; what is wrong is added to the errors."""
    known = {name for name, *_ in fields}
    errors += [
        (f"{prefix}{name}", "is not a known field") for name in given if name not in known
    ]
    values = {}
    for name, attribute, parse, is_required in fields:
        value = given.get(name)
        if value is None:
            if is_required:
                errors.append((f"{prefix}{name}", "is required"))
            continue
        try:
            values[attribute] = parse(value)
        except ValueError as error:
            errors.append((f"{prefix}{name}", str(error)))
    return values


def _raise(errors: Errors) -> None:
    """Refuse the request if anything is wrong with it."""
    if not errors:
        return
    if all(
        field.endswith(f".{_INSTANT_FIELD}") and cause != "is required"
        for field, cause in errors
    ):
        named = "; ".join(f"{field}: {cause}" for field, cause in errors)
        raise InvalidScheduleTimeError(named, errors=errors)
    raise InvalidRequestError(errors)
