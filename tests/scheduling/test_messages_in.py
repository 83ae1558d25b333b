"""What records from upstream say, and which can't be understood."""

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling import messages
from scheduling.domain.challenges import Challenge, Phase, Reading, Scope
from scheduling.domain.commands import Command, CommandName
from scheduling.domain.events import TransitionEvent
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.records import Record
from scheduling.messages import UnusableMessageError
from scheduling.topics import (
    CHALLENGE_UPDATE,
    COMMAND,
    NOTIFICATION_CREATE,
    NOTIFICATION_UPDATE,
    PHASE_TRANSITION,
)


def of_bytes(read):
    """Return a reader of a record's value alone."""
    return lambda value: read(
        Record(cluster_id="cluster", topic="", partition=0, offset=0, value=value)
    )


read_challenge_update = of_bytes(messages.read_challenge_update)
read_notification_create = of_bytes(messages.read_notification_create)
read_notification_update = of_bytes(messages.read_notification_update)
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


TRANSITION = {
    "projectId": 12345,
    "phaseId": UUID,
    "phaseTypeName": "Registration",
    "state": "END",
    "operator": "other-service",
    "projectStatus": "ACTIVE",
    "date": "2026-03-07T19:00:00.25+02:00",
    "challengeId": UUID,
}
COMMANDED = {
    "command": "Reschedule_Phase",
    "operator": "admin",
    "correlationId": "abc-1",
    "projectId": 12345,
    "challengeId": UUID,
    "phaseId": 67890,
    "state": "START",
    "date": "2026-03-07T17:00:00Z",
    "endTime": "2026-03-07T17:00:00Z",
    "phaseTypeName": "Registration",
    "projectStatus": "ACTIVE",
    "metadata": {"any": ["thing"]},
}


def a_record(value, *, topic=PHASE_TRANSITION, headers=()):
    return Record(
        cluster_id="cluster",
        topic=topic,
        partition=0,
        offset=0,
        value=value,
        headers=headers,
    )


def read_transition(payload, changes=None):
    value = written(PHASE_TRANSITION, payload, changes)
    return messages.read_phase_transition(a_record(value))


def read_command(payload, *, changes=None, headers=()):
    value = written(COMMAND, payload, changes)
    return messages.read_command(a_record(value, topic=COMMAND, headers=headers))


class TestReadPhaseTransition:
    def test_returns_what_happened_where_and_when(self):
        record = a_record(written(PHASE_TRANSITION, TRANSITION))

        event = messages.read_phase_transition(record)

        assert event == TransitionEvent(
            project_id="12345",
            phase_id=UUID.lower(),
            kind=TransitionKind.END,
            challenge_id=UUID.lower(),
            operator="other-service",
            happened_at=datetime(2026, 3, 7, 17, 0, 0, 250_000, tzinfo=UTC),
            record=record,
        )
        assert event.identity == ("12345", UUID.lower(), "END")

    @pytest.mark.parametrize("date", [..., None])
    def test_takes_the_envelopes_instant_where_none_is_given(self, date):
        event = read_transition(changed(TRANSITION, ["date"], date))

        assert event.happened_at == datetime(2026, 3, 2, 12, 0, 0, 500_000, tzinfo=UTC)

    @pytest.mark.parametrize("challenge_id", [..., None])
    def test_needs_no_challenge(self, challenge_id):
        event = read_transition(changed(TRANSITION, ["challengeId"], challenge_id))

        assert event.challenge_id is None

    def test_ignores_unknown_fields(self):
        event = read_transition({**TRANSITION, "surprise": {"a": [1]}}, {"more": 1})

        assert event.operator == "other-service"

    @pytest.mark.parametrize("name", sorted({*TRANSITION} - {"date", "challengeId"}))
    @pytest.mark.parametrize("value", [..., None, [], {}, True, 1.5, "", "x" * 256])
    def test_refuses_and_names_the_field(self, name, value):
        with pytest.raises(UnusableMessageError) as refusal:
            read_transition(changed(TRANSITION, [name], value))

        assert [field for field, _ in refusal.value.errors] == [f"payload.{name}"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("state", "end"),
            ("state", "OPEN"),
            ("projectId", "12345"),
            ("projectId", 0),
            ("projectId", -1),
            ("projectId", 2**53),
            ("phaseId", "not-a-uuid"),
            ("challengeId", "67890"),
            ("challengeId", False),
            ("date", "2026-03-07"),
            ("date", "2026-03-07T17:00:00"),
            ("date", "2026-02-30T17:00:00Z"),
            ("date", 1772452800000),
        ],
    )
    def test_refuses_what_is_almost_right(self, name, value):
        with pytest.raises(UnusableMessageError) as refusal:
            read_transition({**TRANSITION, name: value})

        assert [field for field, _ in refusal.value.errors] == [f"payload.{name}"]

    def test_names_all_that_is_missing(self):
        with pytest.raises(UnusableMessageError) as refusal:
            read_transition({})

        assert [field for field, _ in refusal.value.errors] == [
            "payload.projectId",
            "payload.phaseId",
            "payload.phaseTypeName",
            "payload.state",
            "payload.operator",
            "payload.projectStatus",
        ]

    def test_refuses_an_envelope_of_another_topic(self):
        with pytest.raises(UnusableMessageError, match="topic: is not"):
            read_transition(TRANSITION, {"topic": COMMAND})


class TestTransitionEvent:
    def test_knows_its_records_headers_and_place(self):
        headers = (("event-id", b"e"), ("job-id", b"j"), ("correlation-id", b"c"))
        record = a_record(written(PHASE_TRANSITION, TRANSITION), headers=headers)

        event = messages.read_phase_transition(record)

        assert (event.event_id, event.job_id, event.correlation_id) == ("e", "j", "c")
        assert event.place == "autopilot.phase.transition[0]@0"

    def test_told_without_a_record_has_none_of_them(self):
        said_at = datetime(2026, 3, 2, tzinfo=UTC)

        event = messages.read_told_transition(TRANSITION, said_at=said_at)

        assert {event.event_id, event.job_id, event.correlation_id, event.place} == {""}

    def test_was_published_when_its_record_says_or_else_when_it_happened(self):
        event = read_transition(TRANSITION)
        stamped = Record(
            cluster_id="", topic="", partition=0, offset=0, value=b"", timestamp_ms=1_500
        )

        assert event.published_at(stamped) == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)
        assert event.published_at(event.record) == event.happened_at


class TestReadCommand:
    def test_returns_what_is_commanded_and_by_whom(self):
        arguments = {
            name: value
            for name, value in COMMANDED.items()
            if name not in {"command", "operator", "correlationId"}
        }

        assert read_command({**COMMANDED, "surprise": 1}) == Command(
            name=CommandName.RESCHEDULE,
            given_name="Reschedule_Phase",
            operator="admin",
            correlation_id="abc-1",
            project_id="12345",
            challenge_id=UUID.lower(),
            phase_id="67890",
            arguments=arguments,
        )

    @pytest.mark.parametrize("name", sorted({*COMMANDED} - {"command"}))
    @pytest.mark.parametrize("value", [..., None])
    def test_leaves_missing_arguments_to_whoever_carries_it_out(self, name, value):
        command = read_command(changed(COMMANDED, [name], value))

        assert name not in command.arguments

    @pytest.mark.parametrize(
        ("header", "payload", "correlation_id"),
        [
            (b"header", "payload", "header"),
            (None, "payload", "payload"),
            (b"", "payload", "payload"),
            (b"\xff", "payload", "payload"),
            (b"header", None, "header"),
            (None, None, ""),
            (None, "", ""),
            (None, "  ", ""),
            (None, "x" * 255, "x" * 255),
        ],
    )
    def test_takes_the_headers_correlation_id_before_the_payloads(
        self, header, payload, correlation_id
    ):
        command = read_command(
            {**COMMANDED, "correlationId": payload}, headers=(("correlation-id", header),)
        )

        assert command.correlation_id == correlation_id

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("command", ...),
            ("command", None),
            ("command", ""),
            ("command", 5),
            ("command", ["recover"]),
            ("command", "drop_everything"),
            ("command", " recover"),
            ("operator", 5),
            ("operator", ["admin"]),
            ("correlationId", 5),
            ("correlationId", "x" * 256),
            ("projectId", "12345"),
            ("projectId", 1.0),
            ("projectId", True),
            ("projectId", {}),
            ("challengeId", []),
            ("phaseId", 0),
            ("state", 1),
            ("date", 1772452800000),
            ("date", {"at": "2026-03-07T17:00:00Z"}),
            ("endTime", False),
            ("phaseTypeName", []),
            ("projectStatus", 7),
            ("metadata", "{}"),
            ("metadata", []),
        ],
    )
    def test_refuses_a_wrong_type_and_names_the_field(self, name, value):
        with pytest.raises(UnusableMessageError) as refusal:
            read_command(changed(COMMANDED, [name], value))

        assert [field for field, _ in refusal.value.errors] == [f"payload.{name}"]
        assert refusal.value.code == "invalid_request"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("operator", ""),
            ("operator", "x" * 300),
            ("state", "CLOSED"),
            ("date", "tomorrow"),
            ("endTime", "2026-02-30T17:00:00Z"),
            ("phaseTypeName", ""),
        ],
    )
    def test_leaves_texts_that_say_nothing_usable_to_be_refused(self, name, value):
        command = read_command({**COMMANDED, name: value})

        assert {**command.arguments, "operator": command.operator}[name] == value

    def test_does_not_show_what_it_refuses(self):
        payload = {**COMMANDED, "date": {"password": "hunter2"}, "command": "hunter2"}

        with pytest.raises(UnusableMessageError) as refusal:
            read_command(payload)

        assert "hunter2" not in str(refusal.value)


class TestFindCorrelationId:
    @pytest.mark.parametrize(
        ("value", "correlation_id"),
        [
            (None, ""),
            (b"", ""),
            (b"\xff\xfe", ""),
            (written(COMMAND, {"correlationId": "a-1"}), "a-1"),
            (written(COMMAND, {"correlationId": 5}), ""),
            (written(COMMAND, {"correlationId": "x" * 256}), ""),
            # Another's id that only stands somewhere in it is none of the command's.
            (written(COMMAND, {"metadata": {"correlationId": "not-mine"}}), ""),
            (written(COMMAND, "no object", {"correlationId": "a-1"}), "a-1"),
            (b'{"command": "recover", "correlationId": "a\\u002d1"}', "a-1"),
            # What is no JSON is searched as it is.
            (b'{"payload": {"correlationId" : "a-1", ', "a-1"),
            (b'{"correlationId": "a\xff", ', ""),
            (b'{"correlationId": "a\\", ', ""),
            (b'{"correlationId": "", ', ""),
            (b'{"correlationId": "' + b"x" * 256 + b'", ', ""),
            (b'{"correlationId": "a-1", "x": "' + b"x" * 2**20 + b'"}', "a-1"),
        ],
    )
    def test_returns_what_joins_the_answer_to_the_record(self, value, correlation_id):
        assert messages.find_correlation_id(a_record(value)) == correlation_id

    def test_takes_the_header_first(self):
        value = written(COMMAND, {"correlationId": "payload"})
        record = a_record(value, headers=(("correlation-id", b"header"),))

        assert messages.find_correlation_id(record) == "header"


class TestFindGivenCommand:
    @pytest.mark.parametrize(
        ("value", "given"),
        [
            (None, ""),
            (b"{", ""),
            (written(COMMAND, {"command": "drop_everything"}), "drop_everything"),
            (written(COMMAND, {"command": "x" * 300}), "x" * 255),
            (written(COMMAND, {"command": 5}), ""),
            (written(COMMAND, {}), ""),
            (written("another.topic", {"command": "recover"}), ""),
        ],
    )
    def test_returns_the_name_as_it_was_written(self, value, given):
        assert messages.find_given_command(a_record(value, topic=COMMAND)) == given
