"""Hypothesis strategies for records: valid ones, spoilt ones, and any bytes at all."""

import json
import uuid
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from scheduling.domain.phases import format_instant
from scheduling.topics import (
    CHALLENGE_UPDATE,
    COMMAND,
    CONSUMED_TOPICS,
    PHASE_TRANSITION,
)

# JSON that Python's own writer does not write, or that no column can hold.
RAW = (
    "NaN",
    "-Infinity",
    "1e400",
    "-1e400",
    "1" + "0" * 400,
    "-" + "9" * 5_000,
    "1e-400",
    "-0.0",
    "9007199254740993",
    "12345678901234567890",
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"a\\u0000b"',
    '"\\u2028\\u202e\\n\\u001b[31m"',
    '{"a": 1, "a": 2}',
    '{"\\u0000": 1}',
    '{"\\ud800": 1, "\\ud800": 2}',
    "[" * 60 + "]" * 60,
    "[" * 70 + "]" * 70,
    "[" * 20_000,
    '{"a":' * 3_000 + "1" + "}" * 3_000,
    '"2026-06-31T00:00:00Z"',
    '"2026-06-30T00:00:00"',
    '"9999-12-31T23:59:59-23:59"',
    '"0001-01-01T00:00:00+23:59"',
    '"\u0662\u0660\u0662\u0666-06-30T00:00:00Z"',
    '"' + "x" * 256 + '"',
    '" "',
    "01",
    "1 2",
    "tru",
    "",
)
_MARK = '"@raw@"'
_ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=30)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | _ANY_TEXT
    | st.sampled_from(["START", "END", "ACTIVE", "admin", str(uuid.UUID(int=7))])
)
any_json = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_ANY_TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)


def _ahead(hours):
    return format_instant(datetime.now(UTC) + timedelta(hours=hours))


def _ids(draw):
    """A few ids only, so that records meet one another's rows."""
    return draw(st.integers(1, 4)) + 8_000_000_000


def _payload(draw, topic):
    project = _ids(draw)
    status = draw(
        st.sampled_from(["ACTIVE", "ACTIVE", "DRAFT", "COMPLETED", "CANCELLED_X"])
    )
    hours = draw(st.integers(-100, 100))
    transition = {
        "projectId": project,
        "phaseId": draw(st.integers(1, 3)),
        "phaseTypeName": "Registration",
        "state": draw(st.sampled_from(["START", "END"])),
        "operator": draw(st.sampled_from(["admin", "system-x", "nobody"])),
        "projectStatus": "ACTIVE",
        "date": _ahead(hours),
    }
    if topic == PHASE_TRANSITION:
        return transition
    if topic == COMMAND:
        return {
            **transition,
            "command": draw(
                st.sampled_from(
                    [
                        "schedule_phase_transition",
                        "reschedule_phase",
                        "Cancel_Schedule",
                        "list_scheduled_transitions",
                        "recover",
                        "drop",
                    ]
                )
            ),
            "endTime": transition["date"],
            "challengeId": project,
            "correlationId": "c-1",
        }
    if topic == CHALLENGE_UPDATE:
        phases = [
            {
                "phaseId": number,
                "phaseTypeName": "Review",
                "endTime": _ahead(hours + number),
            }
            for number in draw(st.lists(st.integers(1, 3), max_size=3))
        ]
        return {
            "projectId": project,
            "challengeId": project,
            "status": status,
            "operator": "admin",
            "phases": phases,
        }
    phases = [
        {
            "id": number,
            "phaseId": str(uuid.UUID(int=number)),
            "name": "Review",
            "scheduledStartDate": _ahead(hours),
            "scheduledEndDate": _ahead(hours + number),
            "predecessor": str(uuid.UUID(int=number % 3 + 1)),
        }
        for number in draw(st.lists(st.integers(1, 3), max_size=3))
    ]
    return {"id": project, "projectId": project, "status": status, "phases": phases}


def _places(value, path=()):
    """Yield the path of every member and item."""
    members = []
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, inner in members:
        yield (*path, name)
        yield from _places(inner, (*path, name))


@st.composite
def spoilt(draw, topic):
    """A valid record's bytes, with up to three places deleted or replaced by anything."""
    value = {
        "topic": topic,
        "originator": "tests",
        "timestamp": _ahead(draw(st.integers(-2, 2))),
        "mimeType": "application/json",
        "payload": _payload(draw, topic),
    }
    raw = None
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(value))
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        owner = value
        for name in path:
            owner = owner[name]
        how = draw(st.sampled_from(["delete", "replace", "raw", "add"]))
        if how == "delete":
            del owner[last]
        elif how == "replace":
            owner[last] = draw(any_json)
        elif how == "raw":
            owner[last] = "@raw@"
            raw = draw(st.sampled_from(RAW))
        elif isinstance(owner, dict):
            owner[draw(_ANY_TEXT)] = draw(any_json)
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    data = text.replace(_MARK, raw or "null").encode("utf-8", "surrogatepass")
    cut = draw(st.sampled_from([None, None, None, -1, -2, 10]))
    return data[:cut]


def _values(topic):
    return st.one_of(
        spoilt(topic),
        spoilt(topic),
        spoilt(topic),
        any_json.map(lambda value: json.dumps(value).encode()),
        st.sampled_from(RAW).map(str.encode),
        st.binary(max_size=60),
        st.text(max_size=20).map(lambda text: text.encode()[:-1]),
        st.none(),
    )


@st.composite
def any_record(draw, topics=CONSUMED_TOPICS):
    """A `(topic, value, key, headers)` of any kind."""
    topic = draw(st.sampled_from(topics))
    names = st.sampled_from(["event-id", "correlation-id", "job-id", "x"])
    contents = (
        st.none() | st.binary(max_size=40) | st.sampled_from([b"e-1", b"e-2", b"\xff"])
    )
    headers = draw(st.lists(st.tuples(names, contents), max_size=3))
    return topic, draw(_values(topic)), draw(st.none() | st.binary(max_size=20)), headers
