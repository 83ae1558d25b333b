"""Change settings of the running system."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from constance import config
from constance.models import Constance
from django.db import transaction

from scheduling import live_settings
from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.errors import InvalidRequestError
from scheduling.models import Housekeeping
from scheduling.services.audit import record_act
from scheduling.services.cancel import read_reason

# The row that those who change something at the same time wait for.
_TURN: Final = "settings.change"


def change_settings(
    wanted: Mapping[str, object], *, actor: Actor, reason: object, now: datetime
) -> None:
    """Set settings, all of them or none; None takes back what was set before.

    Every process acts on them within five seconds. What changes nothing leaves no entry
    in the audit; each other one leaves one, with its old and new value.

    Raises:
        OperationNotPermittedError: The actor's role may not.
        InvalidRequestError: Names the reason, and every setting that is unknown, may
            not change while the system runs, or has a value that is not allowed.

    Source: contract, sections 4 and 10.
    """
    authorize(actor, Operation.CHANGE_SETTINGS)
    why = read_reason(reason)
    values = _read(wanted)
    Housekeeping.objects.get_or_create(name=_TURN, defaults={"last_run_at": now})
    with transaction.atomic():
        Housekeeping.objects.select_for_update().get(name=_TURN)
        known = live_settings.live_settings()
        overrides = live_settings.read_overrides()
        for name, value in values.items():
            old = overrides.get(name, known[name].default)
            new = known[name].default if value is None else value
            if value is None:
                Constance.objects.filter(key=name).delete()
            elif new != old:
                setattr(config, name, value)
            if new != old:
                changes: dict[str, Any] = {"setting": name, "old": old, "new": new}
                record_act(
                    "settings.changed", actor=actor, now=now, changes=changes, reason=why
                )
        transaction.on_commit(live_settings.look_again)


def _read(wanted: Mapping[str, object]) -> dict[str, bool | int | None]:
    """Return the values that are asked for.

    Raises:
        InvalidRequestError: Names each that can't be had, or that there are none.
    """
    known = live_settings.live_settings()
    values: dict[str, bool | int | None] = {}
    errors = []
    for name, value in wanted.items():
        if name not in known:
            errors.append((name, "is not a setting that may change while running"))
            continue
        try:
            values[name] = None if value is None else known[name].parse(value)
        except ValueError as error:
            errors.append((name, str(error)))
    if errors:
        raise InvalidRequestError(errors)
    if not values:
        raise InvalidRequestError([("", "name at least one setting beside the reason")])
    return values
