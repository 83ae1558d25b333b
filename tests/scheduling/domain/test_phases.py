import json
import string
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.domain.errors import (
    Category,
    InvalidPhaseDataError,
    InvalidScheduleTimeError,
    SchedulingError,
)
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import (
    DEEPEST_NESTING,
    FIELDS,
    LARGEST_METADATA_BYTES,
    PhaseData,
    format_instant,
    parse_id,
    parse_instant,
    parse_metadata,
    parse_query_id,
    parse_reason,
    parse_state,
    parse_text,
    read_phase_data,
    wire_id,
)

LOWER = "0b4de5f1-7a6c-4f0e-9d3b-2f1c5a6b7c8d"
WELL_FORMED = {
    "projectId": 12345,
    "phaseId": LOWER.upper(),
    "phaseTypeName": "Registration",
    "state": "END",
    "endTime": "2030-01-31T12:00:00+02:00",
    "operator": "admin",
    "projectStatus": "ACTIVE",
}
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=20,
)
near_instants = st.text(string.digits + "-:.,TtZz+ W\uff10", max_size=32)


def nested(levels, innermost=None):
    """Return objects within objects, that many in all."""
    value = innermost
    for _ in range(levels):
        value = {"a": value}
    return value


class TestParseId:
    @pytest.mark.parametrize(
        ("given_id", "canonical"),
        [
            (1, "1"),
            (2**53 - 1, "9007199254740991"),
            (LOWER, LOWER),
            (LOWER.upper(), LOWER),
            (uuid.UUID(LOWER), LOWER),
        ],
    )
    def test_accepts_positive_integers_and_uuids(self, given_id, canonical):
        assert parse_id(given_id) == canonical

    @pytest.mark.parametrize(
        "given_id",
        [
            0,
            -1,
            2**53,
            pytest.param(10**5000, id="5001 digits"),
            True,
            False,
            1.0,
            float("nan"),
            Decimal(1),
            "12345",
            "",
            None,
            [],
            {},
            b"1",
            LOWER.replace("-", ""),
            f"{{{LOWER}}}",
            f"urn:uuid:{LOWER}",
            f"{LOWER}\n",
            f" {LOWER}",
            LOWER.replace("0", "\uff10"),
        ],
    )
    def test_refuses_everything_else(self, given_id):
        with pytest.raises(ValueError, match="positive integer up to"):
            parse_id(given_id)

    @given(st.integers(1, 2**53 - 1) | st.uuids().map(str))
    def test_comes_back_as_it_went_in(self, given_id):
        assert wire_id(parse_id(given_id)) == given_id


class TestParseQueryId:
    def test_reads_digits_as_the_integer_that_they_write(self):
        assert parse_query_id("12345") == "12345"
        assert parse_query_id(LOWER.upper()) == LOWER

    @pytest.mark.parametrize(
        "text", ["", "0", "-1", "1.0", "²", "١٢", "9" * 17, "9" * 5000]
    )
    def test_refuses_what_is_neither(self, text):
        with pytest.raises(ValueError, match="positive integer up to"):
            parse_query_id(text)


class TestParseInstant:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00.000Z"),
            ("2030-01-31t12:00:00z", "2030-01-31T12:00:00.000Z"),
            ("2030-01-31T12:00Z", "2030-01-31T12:00:00.000Z"),
            ("2030-01-31T12:00:00+02:00", "2030-01-31T10:00:00.000Z"),
            ("2030-01-31T12:00:00+0200", "2030-01-31T10:00:00.000Z"),
            ("2030-01-31T12:00:00+02", "2030-01-31T10:00:00.000Z"),
            ("2030-01-31T12:00:00-05:30", "2030-01-31T17:30:00.000Z"),
            ("2030-01-31T12:00:00-00:00", "2030-01-31T12:00:00.000Z"),
            ("2030-01-31T12:00:00.5Z", "2030-01-31T12:00:00.500Z"),
            ("2030-01-31T12:00:00,5Z", "2030-01-31T12:00:00.500Z"),
            ("2030-01-31T12:00:00.1239999Z", "2030-01-31T12:00:00.123Z"),
            ("2030-01-31T12:00:00.123456789Z", "2030-01-31T12:00:00.123Z"),
            ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00.000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
            ("0001-01-01T02:00:00+02:00", "0001-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ],
    )
    def test_reads_an_instant_with_a_zone(self, text, shown):
        assert format_instant(parse_instant(text)) == shown

    @pytest.mark.parametrize("text", ["2030-01-31T12:00:00", "2030-01-31T12:00:00.123"])
    def test_says_that_the_zone_is_missing(self, text):
        with pytest.raises(ValueError, match="has no zone"):
            parse_instant(text)

    @pytest.mark.parametrize(
        "text",
        [
            "2030-06-31T12:00:00Z",
            "2029-02-29T12:00:00Z",
            "2030-13-01T12:00:00Z",
            "2030-00-01T12:00:00Z",
            "0000-01-01T12:00:00Z",
            "2030-01-31T24:00:00Z",
            "2030-01-31T12:60:00Z",
            "2016-12-31T23:59:60Z",
            "2030-01-31T12:00:00+24:00",
            "2030-01-31T12:00:00+01:60",
            "2030-01-31T12:00:00+01:99",
            "2030-01-31T12:00:00-0199",
        ],
    )
    def test_refuses_an_impossible_instant(self, text):
        with pytest.raises(ValueError, match="not a possible instant") as refusal:
            parse_instant(text)

        assert "timedelta" not in str(refusal.value)

    @pytest.mark.parametrize(
        "text",
        ["0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-00:01"],
    )
    def test_refuses_what_leaves_the_calendar_in_utc(self, text):
        with pytest.raises(ValueError, match="outside the calendar"):
            parse_instant(text)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "tomorrow",
            "2030-01-31",
            "2030-W05-4T12:00:00Z",
            "2030-031T12:00:00Z",
            "20300131T120000Z",
            "2030-01-31 12:00:00Z",
            "2030-01-31T12Z",
            "2030-01-31T12:00:00ZZ",
            "2030-01-31T12:00:00 Z",
            " 2030-01-31T12:00:00Z",
            "2030-01-31T12:00:00Z\n",
            "2030-01-31T12:00:00.Z",
            "2030-01-31T12:00:00.1234567890Z",
            "\uff12\uff10\uff13\uff10-01-31T12:00:00Z",
            "2030-01-31T12:00:00+٠٢:00",
            "2030-01-31T12:00:00\u221202:00",
            "12030-01-31T12:00:00Z",
            "+2030-01-31T12:00:00Z",
            "2030-01-31T12:00:00 Europe/Berlin",
            1_900_000_000,
            1_900_000_000.5,
            None,
            True,
            [],
            {},
            b"2030-01-31T12:00:00Z",
            date(2030, 1, 31),
        ],
    )
    def test_refuses_any_other_form(self, value):
        with pytest.raises(ValueError, match="must be an ISO 8601 instant with a zone"):
            parse_instant(value)

    def test_takes_an_aware_datetime_and_refuses_a_naive_one(self):
        aware = datetime(2030, 1, 31, 12, 0, 0, 123_999, timezone(timedelta(hours=2)))

        assert parse_instant(aware) == datetime(2030, 1, 31, 10, 0, 0, 123_000, UTC)
        with pytest.raises(ValueError, match="has no zone"):
            parse_instant(datetime(2030, 1, 31, 12))  # noqa: DTZ001

    @given(st.datetimes(timezones=st.just(UTC)))
    def test_reads_back_what_format_instant_writes(self, instant):
        text = format_instant(instant)

        assert format_instant(parse_instant(text)) == text
        assert timedelta(0) <= instant - parse_instant(text) < timedelta(milliseconds=1)

    @given(near_instants | json_values)
    def test_raises_nothing_but_a_value_error(self, value):
        try:
            instant = parse_instant(value)
        except ValueError:
            return
        assert instant.utcoffset() == timedelta(0)


class TestParseText:
    @pytest.mark.parametrize("text", ["x", "x" * 255, "😀" * 255, " padded ", "a\nb"])
    def test_returns_the_text_as_given(self, text):
        assert parse_text(text) == text

    @pytest.mark.parametrize(
        ("value", "cause"),
        [
            ("", "blank"),
            (" \t\n ", "blank"),
            ("\u3000", "blank"),
            ("x" * 256, "at most 255"),
            ("😀" * 256, "at most 255"),
            ("a\x00b", "NUL"),
            ("a\ud800b", "surrogate"),
            ("a\udfff", "surrogate"),
            (1, "must be a text"),
            (None, "must be a text"),
            ([], "must be a text"),
            (b"x", "must be a text"),
        ],
    )
    def test_refuses_what_can_not_be_stored_or_says_nothing(self, value, cause):
        with pytest.raises(ValueError, match=cause):
            parse_text(value)


class TestParseReason:
    def test_may_be_two_thousand_characters_long(self):
        assert parse_reason("x" * 2000) == "x" * 2000
        with pytest.raises(ValueError, match="at most 2,000"):
            parse_reason("x" * 2001)


class TestParseState:
    def test_knows_start_and_end(self):
        assert parse_state("START") is TransitionKind.START
        assert parse_state("END") is TransitionKind.END

    @pytest.mark.parametrize("value", ["start", "End", "", "OPEN", None, 1, [], {}])
    def test_refuses_everything_else(self, value):
        with pytest.raises(ValueError, match="must be START or END"):
            parse_state(value)


class TestParseMetadata:
    @pytest.mark.parametrize(
        "value",
        [
            {},
            {"a": [1, 2.5, None, True, "😀", {"b": []}]},
            {"": "an empty name is a name"},
            nested(DEEPEST_NESTING),
            nested(DEEPEST_NESTING, "a value adds no level"),
            nested(DEEPEST_NESTING - 1, []),
        ],
    )
    def test_returns_the_object_as_given(self, value):
        assert parse_metadata(value) == value

    @pytest.mark.parametrize(
        ("value", "cause"),
        [
            (None, "must be an object"),
            ([], "must be an object"),
            ("{}", "must be an object"),
            (nested(DEEPEST_NESTING + 1), "deeper than 64"),
            (nested(DEEPEST_NESTING, []), "deeper than 64"),
            (nested(100_000), "deeper than 64"),
            ({"a": float("nan")}, "NaN"),
            ({"a": [float("inf")]}, "NaN"),
            ({"a": -float("inf")}, "NaN"),
            ({1: "a"}, "texts as names"),
            ({None: "a"}, "texts as names"),
            ({"a\x00": 1}, "NUL"),
            ({"a": "\x00"}, "NUL"),
            ({"a\ud800": 1}, "surrogate"),
            ({"a": ["\ud800"]}, "surrogate"),
            ({"a": (1, 2)}, "tuple"),
            ({"a": {1}}, "set"),
            ({"a": Decimal(1)}, "Decimal"),
            ({"a": b"x"}, "bytes"),
            ({"a": 10**5000}, "digits"),
        ],
    )
    def test_refuses_what_strict_json_can_not_hold(self, value, cause):
        with pytest.raises(ValueError, match=cause):
            parse_metadata(value)

    def test_writes_large_numbers_out_as_the_database_does(self):
        value = {"a": [1e23, {"b": -1.5e16}, 1e15, 2.5e-300, "1e+23", 10**20]}

        assert json.dumps(parse_metadata(value)) == json.dumps(
            {"a": [10**23, {"b": -15 * 10**15}, 1e15, 2.5e-300, "1e+23", 10**20]}
        )
        with pytest.raises(ValueError, match="at most 65,536 bytes"):
            parse_metadata({"a": [1e308] * 300})

    def test_may_fill_sixty_four_kibibytes_of_utf8(self):
        frame = len(json.dumps({"a": ""}))
        largest = {"a": "x" * (LARGEST_METADATA_BYTES - frame)}

        assert parse_metadata(largest) == largest
        with pytest.raises(ValueError, match="at most 65,536 bytes"):
            parse_metadata({"a": largest["a"] + "x"})
        with pytest.raises(ValueError, match="at most 65,536 bytes"):
            parse_metadata({"a": "é" * (LARGEST_METADATA_BYTES // 2)})

    @given(st.dictionaries(st.text(max_size=10), json_values, max_size=4))
    def test_returns_only_what_json_reads_back_the_same(self, value):
        try:
            parsed = parse_metadata(value)
        except ValueError:
            return

        def read(text):
            return int(Decimal(text)) if "e+" in text else float(text)

        assert json.loads(json.dumps(parsed, allow_nan=False).encode()) == parsed
        assert json.loads(json.dumps(value), parse_float=read) == parsed


class TestReadPhaseData:
    def test_understands_a_mapping_with_the_wire_names(self):
        item = read_phase_data(
            {
                **WELL_FORMED,
                "challengeId": 7,
                "metadata": {"a": 1},
                "date": WELL_FORMED["endTime"],
            }
        )

        due = datetime(2030, 1, 31, 10, tzinfo=UTC)
        assert item == PhaseData(
            project_id="12345",
            phase_id=LOWER,
            phase_type_name="Registration",
            state=TransitionKind.END,
            end_time=due,
            operator="admin",
            project_status="ACTIVE",
            challenge_id="7",
            metadata={"a": 1},
            date=due,
        )

    def test_reads_its_own_result_again(self):
        item = read_phase_data(WELL_FORMED)

        assert read_phase_data(item) == item

    @pytest.mark.parametrize("name", [name for name, *_, required in FIELDS if required])
    @pytest.mark.parametrize("absent", ["missing", "null"])
    def test_names_a_required_field_that_is_not_there(self, name, absent):
        data = {**WELL_FORMED, name: None}
        if absent == "missing":
            del data[name]

        with pytest.raises(InvalidPhaseDataError) as caught:
            read_phase_data(data)

        assert caught.value.errors == [(name, "is required")]

    def test_treats_a_null_optional_field_as_absent(self):
        data = {**WELL_FORMED, "challengeId": None, "metadata": None, "date": None}

        assert read_phase_data(data) == read_phase_data(WELL_FORMED)

    def test_tells_a_read_only_field_from_an_unknown_one(self):
        with pytest.raises(InvalidPhaseDataError) as caught:
            read_phase_data({**WELL_FORMED, "jobId": "job-1", "jobID": "job-1"})

        assert caught.value.errors == [
            ("jobId", "is read-only"),
            ("jobID", "is not a known field"),
        ]

    def test_names_no_more_wrong_fields_than_somebody_reads(self):
        with pytest.raises(InvalidPhaseDataError) as caught:
            read_phase_data({**WELL_FORMED, **{f"x{n}": 0 for n in range(1_060)}})

        assert len(caught.value.errors) == 51
        assert caught.value.errors[-1] == ("", "and 1,010 more")
        assert str(caught.value).endswith("; and 1,010 more")

    def test_names_unknown_fields_and_every_wrong_one_at_once(self):
        with pytest.raises(InvalidPhaseDataError) as caught:
            read_phase_data(
                {**WELL_FORMED, "phaseID": 1, "projectId": True, "endTime": "soon"}
            )

        assert [name for name, _ in caught.value.errors] == [
            "phaseID",
            "projectId",
            "endTime",
        ]
        assert caught.value.category is Category.VALIDATION

    @pytest.mark.parametrize("text", ["2030-01-31", "2030-01-31T12:00:00", "soon", 5])
    def test_tells_a_wrong_instant_from_other_errors(self, text):
        with pytest.raises(InvalidScheduleTimeError) as caught:
            read_phase_data({**WELL_FORMED, "endTime": text})

        assert caught.value.code == "invalid_schedule_time"

    def test_a_wrong_date_is_wrong_phase_data(self):
        with pytest.raises(InvalidPhaseDataError, match="date"):
            read_phase_data({**WELL_FORMED, "date": "2030-01-31"})

    @pytest.mark.parametrize("value", [None, [], "x", 1, [("projectId", 1)]])
    def test_refuses_what_is_no_object(self, value):
        with pytest.raises(InvalidPhaseDataError, match="must be an object"):
            read_phase_data(value)

    @pytest.mark.parametrize(
        "wrong", ["", "²", "١٢", "007", "0", "9" * 5000, "x", True, 1.5, None, -1]
    )
    @pytest.mark.parametrize("attribute", ["project_id", "phase_id", "challenge_id"])
    def test_refuses_a_dataclass_built_with_a_wrong_id(self, attribute, wrong):
        if attribute == "challenge_id" and wrong is None:
            pytest.skip("optional")
        fields = vars(read_phase_data(WELL_FORMED)) | {attribute: wrong}

        with pytest.raises(InvalidPhaseDataError):
            read_phase_data(PhaseData(**fields))

    @given(json_values)
    def test_raises_nothing_but_the_family(self, value):
        try:
            read_phase_data(value)
        except SchedulingError:
            return
        pytest.fail("no random value is phase data")

    @given(st.sampled_from([name for name, *_ in FIELDS]), json_values)
    def test_raises_nothing_but_the_family_for_any_field(self, name, value):
        try:
            item = read_phase_data({**WELL_FORMED, name: value})
        except SchedulingError:
            return
        assert read_phase_data(item) == item
