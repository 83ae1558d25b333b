"""What records from upstream say, and which can't be understood."""

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.domain.challenges import Challenge, Phase, Reading, Scope
from scheduling.messages import (
    UnusableMessageError,
    read_challenge_update,
    read_notification_create,
    read_notification_update,
)
from scheduling.topics import CHALLENGE_UPDATE, NOTIFICATION_CREATE, NOTIFICATION_UPDATE

READERS = {
    CHALLENGE_UPDATE: read_challenge_update,
    NOTIFICATION_CREATE: read_notification_create,
    NOTIFICATION_UPDATE: read_notification_update,
}
UUID = "5C1D2E3F-0A4B-4C6D-8E7F-9A0B1C2D3E40"
SAID = "2026-03-02T13:00:00.5+01:00"
UPDATE = {
    "projectId": 12345,
    "challengeId": UUID,
    "status": "ACTIVE",
    "operator": "admin",
    "phases": [
        {
            "phaseId": 67890,
            "phaseTypeName": "Registration",
            "state": ["never read"],
            "endTime": "2026-03-07T17:00:00.000Z",
            "previousEndTime": None,
        }
    ],
}
NOTIFICATION = {
    "id": UUID,
    "projectId": 12345,
    "name": "A challenge",
    "status": "ACTIVE",
    "phases": [
        {
            "id": 67890,
            "phaseId": UUID,
            "name": "Registration",
            "scheduledStartDate": "2026-03-01T17:00:00Z",
            "scheduledEndDate": "2026-03-07T17:00:00Z",
            "actualStartDate": "2026-03-01T17:00:02.114Z",
            "actualEndDate": None,
            "predecessor": 67889,
        }
    ],
    "createdBy": "sample-copilot",
}


def written(topic, payload, changes=None):
    envelope = {
        "topic": topic,
        "originator": "upstream",
        "timestamp": SAID,
        "mimeType": "application/json",
        "payload": payload,
    }
    return json.dumps({**envelope, **(changes or {})}).encode()


def changed(payload, path, value):
    """Return a copy with one place changed; `...` takes it away."""
    copy = json.loads(json.dumps(payload))
    *way, last = path
    place = copy
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return copy


def fields_refused(read, value):
    with pytest.raises(UnusableMessageError) as refusal:
        read(value)
    return [field for field, _ in refusal.value.errors]


class TestReadChallengeUpdate:
    def test_returns_the_ends_of_the_phases(self):
        reading = read_challenge_update(written(CHALLENGE_UPDATE, UPDATE))

        assert reading == Reading(
            challenge=Challenge(
                challenge_id=UUID.lower(),
                project_id="12345",
                status="ACTIVE",
                operator="admin",
                phases=(
                    Phase(
                        phase_id="67890",
                        name="Registration",
                        scheduled_end_at=datetime(2026, 3, 7, 17, tzinfo=UTC),
                    ),
                ),
            ),
            source=CHALLENGE_UPDATE,
            scope=Scope.ENDS,
            said_at=datetime(2026, 3, 2, 12, 0, 0, 500_000, tzinfo=UTC),
        )

    @pytest.mark.parametrize("phases", [..., None, []])
    def test_needs_no_phases(self, phases):
        payload = changed(UPDATE, ["phases"], phases)

        reading = read_challenge_update(written(CHALLENGE_UPDATE, payload))

        assert reading.challenge.phases == ()

    def test_ignores_unknown_fields_in_envelope_and_payload(self):
        payload = {**UPDATE, "updateType": "X", "metadata": {"deep": [1, {"a": None}]}}

        reading = read_challenge_update(
            written(CHALLENGE_UPDATE, payload, {"extra": {"id": True}})
        )

        assert reading.challenge.status == "ACTIVE"

    def test_accepts_a_byte_order_mark_and_the_dashed_mime_type(self):
        record = json.loads(written(CHALLENGE_UPDATE, UPDATE))
        record["mime-type"] = record.pop("mimeType")

        reading = read_challenge_update(b"\xef\xbb\xbf" + json.dumps(record).encode())

        assert reading.challenge.operator == "admin"

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (["projectId"], ...),
            (["projectId"], None),
            (["projectId"], "12345"),
            (["projectId"], True),
            (["projectId"], 12345.0),
            (["projectId"], 2**53),
            (["projectId"], 0),
            (["challengeId"], ...),
            (["challengeId"], "not-a-uuid"),
            (["status"], ...),
            (["status"], " "),
            (["status"], 7),
            (["operator"], ...),
            (["operator"], "x" * 256),
            (["date"], "2026-03-02"),
            (["phases"], {}),
            (["phases"], "none"),
            (["phases", 0], 5),
            (["phases", 0, "phaseId"], ...),
            (["phases", 0, "phaseTypeName"], ""),
            (["phases", 0, "endTime"], ...),
            (["phases", 0, "endTime"], None),
            (["phases", 0, "endTime"], "2026-03-07T17:00:00"),
            (["phases", 0, "endTime"], "2026-06-31T17:00:00Z"),
            (["phases", 0, "previousEndTime"], 1),
        ],
    )
    def test_refuses_and_names_the_field(self, path, value):
        record = written(CHALLENGE_UPDATE, changed(UPDATE, path, value))

        fields = fields_refused(read_challenge_update, record)

        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
        assert fields == [f"payload{place}"]

    def test_names_all_that_is_wrong(self):
        payload = {"phases": [{"phaseId": 1, "phaseTypeName": "A", "endTime": "soon"}]}

        fields = fields_refused(read_challenge_update, written(CHALLENGE_UPDATE, payload))

        assert fields == [
            "payload.projectId",
            "payload.challengeId",
            "payload.status",
            "payload.operator",
            "payload.phases[0].endTime",
        ]

    def test_refuses_a_phase_that_is_listed_twice(self):
        payload = {**UPDATE, "phases": UPDATE["phases"] * 2}

        fields = fields_refused(read_challenge_update, written(CHALLENGE_UPDATE, payload))

        assert fields == ["payload.phases"]


class TestReadEnvelope:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("topic", None),
            ("topic", "challenge.notification.update"),
            ("topic", "autopilot.challenge.update\n"),
            ("timestamp", None),
            ("timestamp", "2026-03-02T12:00:00"),
            ("timestamp", 1772452800000),
            ("originator", 5),
            ("payload", None),
            ("payload", []),
            ("payload", "{}"),
        ],
    )
    def test_refuses_and_names_the_field(self, name, value):
        record = written(CHALLENGE_UPDATE, UPDATE, {name: value})

        assert fields_refused(read_challenge_update, record) == [name]

    @pytest.mark.parametrize(
        "value",
        [
            None,
            b"",
            b"null",
            b"[]",
            b"7",
            b"\xff\xfe",
            b"\x00\x00\x00\x00\x07avro",
            b'{"topic": NaN}',
            b"{} trailing",
            b'{"topic": "a", "topic": "b"}',
            b'{"topic": "\\u0000"}',
            b'{"topic": "\\ud800"}',
            b"[" * 100_000,
            b"1" * 100_000,
        ],
    )
    def test_refuses_what_is_no_json_object(self, value):
        for read in READERS.values():
            assert fields_refused(read, value) == [""]


class TestReadNotification:
    @pytest.mark.parametrize("topic", [NOTIFICATION_CREATE, NOTIFICATION_UPDATE])
    def test_returns_the_whole_challenge(self, topic):
        reading = READERS[topic](written(topic, NOTIFICATION))

        assert (reading.scope, reading.source) == (Scope.WHOLE, topic)
        assert reading.challenge == Challenge(
            challenge_id=UUID.lower(),
            project_id="12345",
            status="ACTIVE",
            operator="sample-copilot",
            name="A challenge",
            phases=(
                Phase(
                    phase_id="67890",
                    name="Registration",
                    template_id=UUID.lower(),
                    scheduled_start_at=datetime(2026, 3, 1, 17, tzinfo=UTC),
                    scheduled_end_at=datetime(2026, 3, 7, 17, tzinfo=UTC),
                    actual_start_at=datetime(2026, 3, 1, 17, 0, 2, 114_000, tzinfo=UTC),
                    predecessor="67889",
                ),
            ),
        )

    @pytest.mark.parametrize(
        ("fields", "operator"),
        [
            ({"updatedBy": "sample-m2m"}, "sample-m2m"),
            ({"updatedBy": None}, "sample-copilot"),
            ({"updatedBy": 7, "createdBy": "x" * 999}, "system"),
            ({"createdBy": ""}, "system"),
        ],
    )
    def test_names_who_wrote_it_last(self, fields, operator):
        record = written(NOTIFICATION_UPDATE, {**NOTIFICATION, **fields})

        assert read_notification_update(record).challenge.operator == operator

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (["id"], ...),
            (["id"], 1.5),
            (["projectId"], None),
            (["status"], None),
            (["phases"], "[]"),
            (["phases", 0, "id"], None),
            (["phases", 0, "phaseId"], "template"),
            (["phases", 0, "name"], ...),
            (["phases", 0, "scheduledStartDate"], "2026-W10-1"),
            (["phases", 0, "scheduledEndDate"], "2026-03-07"),
            (["phases", 0, "actualStartDate"], False),
            (["phases", 0, "predecessor"], "none"),
        ],
    )
    def test_refuses_and_names_the_field(self, path, value):
        record = written(NOTIFICATION_UPDATE, changed(NOTIFICATION, path, value))

        fields = fields_refused(read_notification_update, record)

        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
        assert fields == [f"payload{place}"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class TestAnyBytes:
    @given(value=st.binary())
    def test_are_read_or_unusable(self, value):
        for read in READERS.values():
            with pytest.raises(UnusableMessageError):
                read(value)

    @given(
        topic=st.sampled_from(sorted(READERS)),
        path=st.sampled_from(
            [["id"], ["challengeId"], ["status"], ["phases"], ["phases", 0], ["name"]]
        ),
        value=json_values,
    )
    def test_of_almost_a_message_too(self, topic, path, value):
        payload = changed({**UPDATE, **NOTIFICATION}, path, value)

        with contextlib.suppress(UnusableMessageError):
            assert READERS[topic](written(topic, payload)).challenge.status
