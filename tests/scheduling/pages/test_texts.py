"""Instants, spans and lateness as the admin writes them."""

from datetime import UTC, datetime, timedelta

import pytest

from scheduling.pages.texts import (
    count_text,
    instant_text,
    lateness_text,
    number_text,
    offset_text,
    relative_text,
    span_text,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class TestInstantText:
    def test_names_weekday_day_and_zone(self):
        at = datetime(2026, 11, 23, 14, 5, tzinfo=UTC)

        assert instant_text(at, now=NOON) == "Mon 23 Nov 14:05:00 UTC"

    def test_names_the_year_where_it_is_another_one(self):
        at = datetime(2027, 1, 3, 4, 5, 6, 7_000, tzinfo=UTC)

        text = instant_text(at, now=NOON, has_milliseconds=True)

        assert text == "Sun 3 Jan 2027 04:05:06.007 UTC"


class TestSpanText:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.34, "340 ms"),
            (12, "12 s"),
            (200, "3 min 20 s"),
            (600, "10 min"),
            (2_075, "34 min"),
            (18_600, "5 h 10 min"),
            (3 * 86_400 + 4 * 3_600, "3 d 4 h"),
            (-12, "12 s"),
        ],
    )
    def test_has_two_units_at_most(self, seconds, text):
        assert span_text(timedelta(seconds=seconds)) == text


class TestRelativeText:
    @pytest.mark.parametrize(
        ("seconds", "text"), [(240, "in 4 min"), (-12, "12 s late"), (0.4, "now")]
    )
    def test_tells_the_direction(self, seconds, text):
        at = NOON + timedelta(seconds=seconds)

        assert relative_text(at, now=NOON, past="late") == text


class TestLatenessText:
    @pytest.mark.parametrize(
        ("lateness", "text"),
        [
            (None, "\u2013"),
            (2.44, "2.4 ms"),
            (340.4, "340 ms"),
            (1_234, "1.23 s"),
            (200_000, "3 min 20 s"),
            (-12_000, "12.00 s early"),
        ],
    )
    def test_changes_its_unit_with_its_size(self, lateness, text):
        assert lateness_text(lateness) == text


class TestOffsetText:
    def test_has_a_sign(self):
        later, sooner = timedelta(milliseconds=2), timedelta(minutes=-5)

        assert offset_text(NOON + later, start=NOON) == "+2.0 ms"
        assert offset_text(NOON + sooner, start=NOON) == "\u22125 min"


class TestNumbers:
    def test_are_grouped_by_thin_spaces(self):
        assert number_text(1_234_567) == "1\u202f234\u202f567"
        assert count_text(1, "transition") == "1 transition"
        assert count_text(1_200, "transition") == "1\u202f200 transitions"
