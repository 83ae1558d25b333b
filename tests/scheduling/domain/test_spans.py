"""Spans as people write them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.domain.spans import LONGEST_SPAN, parse_span


class TestParseSpan:
    @pytest.mark.parametrize(
        ("text", "span"),
        [
            ("1h", timedelta(hours=1)),
            ("+1H", timedelta(hours=1)),
            (" - 30 min ", timedelta(minutes=-30)),
            ("\u22125m", timedelta(minutes=-5)),
            ("1d 2h 30min 5s", timedelta(days=1, hours=2, minutes=30, seconds=5)),
            ("2w", timedelta(days=14)),
            ("366d", LONGEST_SPAN),
        ],
    )
    def test_reads_a_sign_and_numbers_with_units(self, text, span):
        assert parse_span(text) == span

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1",
            "h",
            "1y",
            "1.5h",
            "--1h",
            "1h-2m",
            "0s",
            "367d",
            "999999999w",
            "\u0661h",
        ],
    )
    def test_refuses_all_else(self, text):
        with pytest.raises(ValueError, match="must be"):
            parse_span(text)

    @given(st.text(max_size=40))
    def test_never_fails_otherwise(self, text):
        try:
            span = parse_span(text)
        except ValueError:
            return
        assert timedelta() < abs(span) <= LONGEST_SPAN
