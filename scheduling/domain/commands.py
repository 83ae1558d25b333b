"""Commands that come in as records: their names, and one of them understood."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any


class CommandName(StrEnum):
    """What can be commanded (contract, section 8)."""

    SCHEDULE = "schedule_phase_transition"
    RESCHEDULE = "reschedule_phase"
    CANCEL = "cancel_schedule"
    LIST = "list_scheduled_transitions"
    RECOVER = "recover"


_ALIASES = {
    "update_scheduled_transition": CommandName.RESCHEDULE,
    "cancel_scheduled_transition": CommandName.CANCEL,
}
NAMES: Mapping[str, CommandName] = {name.value: name for name in CommandName} | _ALIASES


def find_command(name: str) -> CommandName | None:
    """Return the command of that name, in any case; None where there is none."""
    return NAMES.get(name.lower())


@dataclass(frozen=True, kw_only=True)
class Command:
    """A well-formed command; whether it may and can be done is not decided yet.

    given_name: as it was written, for the answer.
    operator: who commands; None where nobody is named.
    correlation_id: joins command and answer; empty where none was given.
    project_id, challenge_id, phase_id: canonical ids.
    arguments: the payload's known fields by wire name; texts as given.
    """

    name: CommandName
    given_name: str
    operator: str | None = None
    correlation_id: str = ""
    project_id: str | None = None
    challenge_id: str | None = None
    phase_id: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the answer's record: what the command is about."""
        return self.challenge_id or self.project_id or self.correlation_id


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The answer to a command (contract, section 8).

    command: as it was written; empty where it could not be read.
    code: an error's code; empty for a success.
    """

    command: str
    correlation_id: str
    message: str
    code: str = ""
    job_ids: Sequence[str] = ()

    @property
    def is_success(self) -> bool:
        """Whether the command was carried out."""
        return not self.code


def is_allowed_operator(operator: str, patterns: Sequence[str]) -> bool:
    """Tell whether one of the patterns names the operator exactly.

    `*` stands for any text, and every other character for itself.
    """
    # What else is special in such a pattern would let in whom nobody named.
    plain = (re.sub(r"([?[])", r"[\1]", pattern) for pattern in patterns)
    return any(fnmatchcase(operator, pattern) for pattern in plain)
