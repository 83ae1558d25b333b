"""An audit entry as one line of prose: who did what, to which job, and why.

Plain text; whoever shows it escapes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from scheduling.domain.phases import parse_instant
from scheduling.domain.texts import printable
from scheduling.models import AuditEntry

# What is told of a change whose values may be whole documents.
LONGEST_VALUE: Final = 80
_SYSTEM: Final = {
    "system:scheduler": "the scheduler",
    "system:recovery": "recovery",
    "system:consumer": "the consumer",
}
_DOORS: Final = {"cli": "on the command line", "kafka": "by Kafka"}


@dataclass(frozen=True)
class _Told:
    """An entry, and what may be said of it."""

    entry: AuditEntry
    phase_name: str

    @property
    def who(self) -> str:
        """The actor, in words."""
        return name_actor(self.entry.actor)

    @property
    def what(self) -> str:
        """The transition: which end of which phase, with its job."""
        entry = self.entry
        phase = self.phase_name or (entry.phase_id and f"phase {entry.phase_id}")
        transition = " of ".join(one for one in (entry.state, phase) if one)
        job = entry.job_id
        if not transition:
            return job or "a job"
        return f"{transition} ({job})" if job else transition

    def of(self, name: str) -> str:
        """Return what the entry's changes say under a name; empty where nothing."""
        value = _changes(self.entry).get(name)
        return "" if value is None else _shown(value)


Tell = Callable[[_Told], str]


def tell_audit_entry(entry: AuditEntry, *, phase_name: str = "") -> str:
    """Return the entry as a line such as `olivia cancelled END of Review (job-…): why`.

    Args:
        phase_name: Of the entry's phase, where it is known; else its id is told.
    """
    told = _Told(entry, phase_name)
    tell = TELLINGS.get(entry.action, _any)
    line = tell(told)
    reason = entry.reason.strip()
    line = f"{line}: {reason}" if reason else line
    return printable(line[:1].upper() + line[1:] if told.who in _SYSTEM.values() else line)


def name_actor(actor: str) -> str:
    """Return an actor in words: `user:olivia` is olivia, `system:…` a part of ours."""
    if actor in _SYSTEM:
        return _SYSTEM[actor]
    kind, _, name = actor.partition(":")
    if kind == "user" and name:
        return name
    if kind in _DOORS:
        return f"{name or 'somebody'} {_DOORS[kind]}"
    return actor or "somebody"


def tell_instant(instant: datetime) -> str:
    """Return an instant of ours (UTC) in words: `Mon 23 Nov 14:05:00.250 UTC`."""
    ms = instant.microsecond // 1000
    part = f".{ms:03d}" if ms else ""
    return f"{instant:%a} {instant.day} {instant:%b %H:%M:%S}{part} UTC"


def tell_ms(value: object) -> str:
    """Return milliseconds in words; seconds from one second on."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if abs(value) < 1000:  # noqa: PLR2004 -- a second
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s"


def _changes(entry: AuditEntry) -> Mapping[str, Any]:
    """Return the entry's changes; an entry of an older version may have others."""
    return entry.changes if isinstance(entry.changes, dict) else {}


def _shown(value: object) -> str:
    """Return a value of `changes` in words: instants as such, long texts cut."""
    if isinstance(value, str):
        try:
            return tell_instant(parse_instant(value))
        except ValueError:
            return value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}…"
    if isinstance(value, dict | list):
        return "…"
    return str(value)


# --- One for each action --------------------------------------------------------------
def _scheduled(told: _Told) -> str:
    """A job was made."""
    line = f"{told.who} scheduled {told.what}"
    if at := told.of("endTime"):
        line += f" for {at}"
    if replaced := told.of("replaces"):
        line += f" in place of {replaced}"
    return line


def _updated(told: _Told) -> str:
    """A job was replaced by another one."""
    pairs = {
        name: (_shown(value[0]), _shown(value[1]))
        for name, value in _changes(told.entry).items()
        if isinstance(value, list) and len(value) == 2  # noqa: PLR2004 -- old and new
    }
    moved = pairs.pop("endTime", None)
    parts = []
    if moved:
        parts.append(f"moved {told.what} from {moved[0]} to {moved[1]}")
    if pairs:
        changed = ", ".join(f"{name} from {a} to {b}" for name, (a, b) in pairs.items())
        parts.append(f"changed {changed}" if moved else f"changed {told.what}: {changed}")
    return f"{told.who} {' and '.join(parts) or f'updated {told.what}'}"


def _claimed(told: _Told) -> str:
    """A worker took the job."""
    return f"{told.who} claimed {told.what}{_attempt(told)}"


def _given_back(told: _Told) -> str:
    """A job went back without an attempt used up."""
    return f"{told.who} put {told.what} back, no attempt used up{_error(told)}"


def _rescued(told: _Told) -> str:
    """A job was taken from a worker that died."""
    return f"{told.who} freed {told.what} from its worker{_error(told)}"


def _attempt_failed(told: _Told) -> str:
    """An attempt was used up; another one follows."""
    line = f"{told.who} failed to publish {told.what}{_attempt(told)}"
    if at := told.of("nextAttemptAt"):
        line += f", next try {at}"
    return f"{line}{_error(told)}"


def _failed(told: _Told) -> str:
    """The last attempt failed."""
    return f"{told.who} gave up on {told.what}{_attempt(told)}{_error(told)}"


def _completed(told: _Told) -> str:
    """The broker has acknowledged the event."""
    line = f"{told.who} published {told.what}"
    late = _changes(told.entry).get("latenessMs")
    if isinstance(late, int | float) and (shown := tell_ms(abs(late))):
        line += f", {shown} {'early' if late < 0 else 'late'}"
    if told.of("offset"):
        line += f", to partition {told.of('partition')} offset {told.of('offset')}"
    return line


def _retried(told: _Told) -> str:
    """A failed job was made again."""
    line = f"{told.who} retried {told.what}"
    new = told.of("replacedBy")
    return f"{line} as {new}" if new else line


def _refused(told: _Told) -> str:
    """A signed-in user was refused."""
    asked = " ".join(one for one in (told.of("method"), told.of("path")) if one)
    return f"{told.who} was refused {asked or 'a request'}"


def _from(told: _Told) -> str:
    """Return through which door, and from which address."""
    door, address = told.of("door"), told.of("address")
    return f"{f' at the {door}' if door else ''}{f' from {address}' if address else ''}"


def _command(told: _Told, became: str) -> str:
    """A command came in by record."""
    return f"{told.who} commanded {told.of('command') or 'something'}, which was {became}"


def _dead_letter(told: _Told, verb: str) -> str:
    """Somebody dealt with a dead letter."""
    code = told.of("code")
    record = told.of("record") or told.of("deadLetterId")
    return f"{told.who} {verb} the dead letter {record}{f' ({code})' if code else ''}"


def _recovery(told: _Told, verb: str) -> str:
    """A run of recovery began or ended."""
    entry = told.entry
    kind = "a dry run" if _changes(entry).get("dryRun") is True else "a run"
    where = f" for project {entry.project_id}" if entry.project_id else ""
    line = f"{told.who} {verb} {kind} of recovery{where}"
    counts = _changes(entry).get("counts")
    if told.of("status"):
        line += f", {told.of('status')}"
    if isinstance(counts, dict) and counts:
        line += f" ({', '.join(f'{name} {_shown(n)}' for name, n in counts.items())})"
    return line


def _any(told: _Told) -> str:
    """Something that has no words of its own here."""
    entry = told.entry
    about = f" {told.what}" if entry.job_id or entry.phase_id else ""
    pairs = [
        f"{name} from {_shown(value[0])} to {_shown(value[1])}"
        if isinstance(value, list) and len(value) == 2  # noqa: PLR2004 -- old and new
        else f"{name} {_shown(value)}"
        for name, value in _changes(entry).items()
    ]
    line = f"{told.who} did {entry.action}{about}"
    return f"{line} ({', '.join(pairs)})" if pairs else line


def _attempt(told: _Told) -> str:
    """Return which attempt it was."""
    number = told.of("attempt")
    return f" (attempt {number})" if number else ""


def _error(told: _Told) -> str:
    """Return what went wrong."""
    error = told.of("error")
    return f": {error}" if error else ""


TELLINGS: Final[Mapping[str, Tell]] = {
    "transition.scheduled": _scheduled,
    "transition.updated": _updated,
    "transition.claimed": _claimed,
    "transition.given_back": _given_back,
    "transition.rescued": _rescued,
    "transition.attempt_failed": _attempt_failed,
    "transition.completed": _completed,
    "transition.failed": _failed,
    "transition.cancelled": lambda told: f"{told.who} cancelled {told.what}",
    "transition.expired": lambda told: f"{told.who} let {told.what} expire",
    "transition.run_now": lambda told: f"{told.who} ran {told.what} now",
    "transition.retried": _retried,
    "transition.overtaken": lambda told: f"{told.who} overtook {told.what}",
    "transition.archived": lambda told: (
        f"{told.who} moved {told.what} from the live table into the audit"
    ),
    "access.refused": _refused,
    "access.logged_in": lambda told: f"{told.who} logged in{_from(told)}",
    "access.login_failed": lambda told: f"{told.who} failed to log in{_from(told)}",
    "access.token_reused": lambda told: f"{told.who} sent a spent token{_from(told)}",
    "command.done": lambda told: _command(told, "done"),
    "command.refused": lambda told: _command(told, "refused"),
    "dead_letter.replayed": lambda told: _dead_letter(told, "replayed"),
    "dead_letter.discarded": lambda told: _dead_letter(told, "discarded"),
    "recovery.started": lambda told: _recovery(told, "started"),
    "recovery.finished": lambda told: _recovery(told, "finished"),
}
