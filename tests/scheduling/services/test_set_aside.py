"""Records that can't be handled are kept whole, and owed to their dead letter topic."""

import uuid

import pytest

from scheduling.domain.errors import Category, ConflictError, SchedulingError
from scheduling.domain.records import Record
from scheduling.messages import RecordTooLargeError, UnusableMessageError
from scheduling.models import DeadLetter, OutgoingRecord
from scheduling.services.set_aside import (
    decode_headers,
    encode_headers,
    original_record,
    set_aside,
)

REFUSAL = UnusableMessageError([("payload.state", "must be START or END")])


def a_record(value=b"garbage", *, offset=5, key=b"12345", headers=()):
    return Record(
        cluster_id="cluster",
        topic="autopilot.command",
        partition=2,
        offset=offset,
        value=value,
        key=key,
        headers=headers,
        timestamp_ms=1_772_452_800_000,
    )


def kept_bytes(value):
    return None if value is None else bytes(value)


@pytest.mark.django_db
class TestSetAside:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            (b"12345", b"garbage"),
            (None, None),
            (b"", b""),
            (b"\xff\x00", bytes(range(256))),
            (b"k", b"x" * 2**21),
        ],
    )
    def test_keeps_the_exact_bytes(self, now, key, value):
        set_aside([(a_record(value, key=key), REFUSAL)], now=now)

        letter = DeadLetter.objects.get()
        assert (kept_bytes(letter.key), kept_bytes(letter.value)) == (key, value)
        assert original_record(letter).value == value
        assert original_record(letter).key == key

    def test_tells_where_it_stood_and_what_was_wrong(self, now):
        set_aside([(a_record(), REFUSAL)], now=now)

        letter = DeadLetter.objects.get()
        assert (letter.cluster_id, letter.topic, letter.partition, letter.offset) == (
            "cluster",
            "autopilot.command",
            2,
            5,
        )
        assert (letter.code, letter.category) == ("invalid_request", "validation")
        assert letter.message == "payload.state: must be START or END"
        assert letter.errors == [
            {"field": "payload.state", "message": "must be START or END"}
        ]
        assert (letter.status, letter.set_aside_at, letter.replay_of) == ("new", now, None)

    def test_owes_each_topic_its_dead_letter(self, now):
        headers = (("correlation-id", b"c-1"),)

        set_aside([(a_record(headers=headers), REFUSAL)], now=now)

        row = OutgoingRecord.objects.get()
        assert (row.topic, bytes(row.key), row.value) == (
            "autopilot.command.dlq",
            b"12345",
            None,
        )
        assert row.dead_letter == DeadLetter.objects.get()
        assert row.headers == {"correlation-id": "c-1"}
        assert (row.created_at, row.acknowledged_at) == (now, None)

    def test_keeps_many_at_once_each_with_its_own_reason(self, now):
        errors = [REFUSAL, RecordTooLargeError([("", "is large")]), ConflictError("x")]
        refused = [(a_record(offset=at), error) for at, error in enumerate(errors)]

        set_aside(refused, now=now)

        letters = DeadLetter.objects.order_by("offset")
        assert [letter.code for letter in letters] == [
            "invalid_request",
            "payload_too_large",
            "conflict",
        ]
        assert [row.dead_letter_id for row in OutgoingRecord.objects.order_by("id")] == [
            letter.pk for letter in letters
        ]

    def test_remembers_whose_replay_it_is(self, now):
        replay_of = uuid.uuid4()

        set_aside([(a_record(), REFUSAL)], now=now, replay_of=replay_of)

        assert DeadLetter.objects.get().replay_of == replay_of

    def test_does_nothing_for_none(self, now):
        set_aside([], now=now)

        assert not DeadLetter.objects.exists()

    def test_makes_hostile_words_safe_to_store_and_to_show(self, now):
        hostile = "a\nb\x00\ud800" + "x" * 1_000
        error = UnusableMessageError([(hostile, hostile)] * 60)

        set_aside([(a_record(), error)], now=now)

        letter = DeadLetter.objects.get()
        assert letter.message.isprintable()
        assert len(letter.message) <= 500
        assert len(letter.errors) == 50
        assert letter.errors[0]["field"].startswith("a\\nb\\x00\\ud800xxx")
        assert len(letter.errors[0]["message"]) <= 500

    def test_keeps_whatever_a_handler_of_ones_own_raises(self, now):
        class OddError(SchedulingError):
            code = "c" * 100
            category = Category.SYSTEM

        errors = [("field", ValueError("cause")), (5, None)]

        set_aside([(a_record(), OddError(ValueError("odd"), errors=errors))], now=now)

        letter = DeadLetter.objects.get()
        assert (letter.code, letter.category, letter.message) == ("c" * 40, "system", "odd")
        assert letter.errors == [
            {"field": "field", "message": "cause"},
            {"field": "5", "message": "None"},
        ]


class TestHeaders:
    @pytest.mark.parametrize(
        "headers",
        [
            (),
            (("a", b"1"), ("a", b"2")),
            (("none", None), ("empty", b""), ("bytes", bytes(range(256)))),
            (("ä", b"1"),),
        ],
    )
    def test_are_kept_whole(self, headers):
        assert decode_headers(encode_headers(a_record(headers=headers))) == headers

    def test_have_names_that_a_database_can_hold(self):
        ((name, _),) = encode_headers(a_record(headers=(("a\x00\ud800", b"1"),)))

        assert name == "a\\ud800"
