"""The cases in `tests/messages/`: one record or a sequence each, with what surrounds it.

A case is written for a frozen clock and for fixed ids. It is played now and beside
others: every instant is shifted by (now - clock), and every id is replaced by one of the
play's own, the same id by the same.
"""

import base64
import json
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from time import time

from scheduling.domain.phases import format_instant, parse_instant

DIRECTORY = Path(__file__).resolve().parents[1] / "messages"
CHALLENGE_UUID = "0b1e7a52-6f0c-4c1d-9a53-1f2d3c4b5a60"
PHASE_UUID = "5c1d2e3f-0a4b-4c6d-8e7f-9a0b1c2d3e4"
PROJECT = "12345"
_NUMBERS = (PROJECT, "67890", "67891", "67892", "67893", "67894", "999999")
_INSTANT = re.compile(r"(?<![\d+-])\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{3})?Z")
# A real cluster keeps what earlier runs wrote: each play has ids of its own.
_bases = count(int(time() * 1000) * 1000, 20)


def names():
    """Return the names of all files, in order."""
    return sorted(path.name for path in DIRECTORY.glob("*.json"))


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A record of a case, ready to be produced."""

    topic: str
    value: bytes | None
    headers: dict[str, str]


@dataclass(kw_only=True)
class Case:
    """One play of a case; ids and instants are the play's unless said otherwise."""

    name: str
    contract: str
    preconditions: dict
    steps: list[dict]
    shift: timedelta
    ids: dict[str, str]
    _originals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self._originals = {new: old for old, new in self.ids.items()}

    @property
    def is_by_uuid(self):
        """Whether its phases and its challenge are known by UUIDs."""
        return self.contract == "head"

    @property
    def project_id(self):
        return self.ids[PROJECT]

    @property
    def challenge_id(self):
        return self.ids[CHALLENGE_UUID if self.is_by_uuid else PROJECT]

    @property
    def key(self):
        """The Kafka key of all its records, so that they stay in their order."""
        return self.project_id.encode()

    def phase_id(self, number):
        """Return the play's id of a phase that the files know by a number or a UUID."""
        is_number = self.is_by_uuid and number in _NUMBERS
        return self.ids[PHASE_UUID + number[-1] if is_number else number]

    def instant(self, text):
        """Return the play's instant of one in this module's or the table's words."""
        return parse_instant(text) + self.shift

    def describe(self, job):
        """Return a job in the files' words: `END of 67890 at 2026-03-07T17:00:00.000Z`."""
        phase = self._originals.get(job.phase_id, job.phase_id)
        if phase.startswith(PHASE_UUID):
            phase = f"6789{phase[-1]}"
        due = format_instant(job.due_at - self.shift)
        return f"{job.state} of {phase} at {due}"

    def records(self):
        """Return the records of its steps; None for a step that is none."""
        return [_record(step) if "topic" in step else None for step in self.steps]


def load(name, *, now):
    """Return a new play of a case."""
    text = (DIRECTORY / name).read_text()
    clock = parse_instant(json.loads(text)["clock"])
    ids = _new_ids()
    text = re.sub(
        r"\b(" + "|".join(ids) + r")\b", lambda match: ids[match[0]], text, flags=re.ASCII
    )
    text = _INSTANT.sub(lambda match: _shifted(match[0], now - clock), text)
    content = json.loads(text)
    return Case(
        name=name,
        contract=content["contract"],
        preconditions=content.get("preconditions", {}),
        steps=content["deliver"],
        shift=now - clock,
        ids=ids,
    )


def _new_ids():
    base = next(_bases)
    ids = {number: str(base + place) for place, number in enumerate(_NUMBERS)}
    ids[CHALLENGE_UUID] = str(uuid.uuid4())
    return ids | {f"{PHASE_UUID}{digit}": str(uuid.uuid4()) for digit in range(5)}


def _shifted(text, shift):
    try:
        return format_instant(datetime.fromisoformat(text).astimezone(UTC) + shift)
    except (ValueError, OverflowError):
        # An impossible date is left as it is: that is what its case is about.
        return text


def _record(step):
    return Delivered(
        topic=step["topic"], value=_value(step), headers=step.get("headers", {})
    )


def _value(step):
    if step.get("tombstone"):
        return None
    if "value_base64" in step:
        return base64.b64decode(step["value_base64"])
    if "value_raw" in step:
        return step["value_raw"].encode()
    value = step["value"]
    if "pad" in step:
        *path, last = step["pad"]["field"].split(".")
        place = value
        for name in path:
            place = place[name]
        place[last] = "x" * step["pad"]["length"]
    return json.dumps(value).encode()
