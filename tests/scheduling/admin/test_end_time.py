"""The new instant as an operator types it."""

from datetime import UTC, datetime, timedelta

import pytest

from scheduling.admin.end_time import read_end_time
from scheduling.domain.errors import InvalidScheduleTimeError

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DUE = datetime(2026, 11, 24, 8, 30, tzinfo=UTC)


class TestReadEndTime:
    @pytest.mark.parametrize(
        ("text", "due_at"),
        [
            ("+1h", DUE + timedelta(hours=1)),
            ("-15min", DUE - timedelta(minutes=15)),
            ("+1h30m", DUE + timedelta(minutes=90)),
            (" + 2 d ", DUE + timedelta(days=2)),
            ("14:30", datetime(2026, 11, 23, 14, 30, tzinfo=UTC)),
            ("11:59:30", datetime(2026, 11, 24, 11, 59, 30, tzinfo=UTC)),
            ("12:00", datetime(2026, 11, 24, 12, tzinfo=UTC)),
            ("2026-12-01T10:00:00+02:00", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ],
    )
    def test_understands_spans_times_of_day_and_instants(self, text, due_at):
        end_time = read_end_time(text, now=NOON, is_from_now=False)

        assert end_time.for_one(DUE) == due_at

    def test_counts_from_now_where_nothing_is_due_yet(self):
        end_time = read_end_time("+1h", now=NOON, is_from_now=True)

        assert end_time.for_one(DUE) == NOON + timedelta(hours=1)
        assert end_time.understood == "1 h from now"

    @pytest.mark.parametrize(
        "text",
        [
            *("", "1h", "+", "+1y", "25:00", "14:60", "2026-12-01T10:00:00", "2026-12-01"),
            *("tomorrow", "+1h now", "²:30", "+" + "9" * 80 + "s"),
        ],
    )
    def test_refuses_everything_else(self, text):
        with pytest.raises(InvalidScheduleTimeError):
            read_end_time(text, now=NOON, is_from_now=False)

    def test_refuses_a_span_that_leaves_the_calendar(self):
        end_time = read_end_time("+" + "999999d" * 5, now=NOON, is_from_now=False)

        with pytest.raises(InvalidScheduleTimeError):
            end_time.for_one(DUE)
        with pytest.raises(InvalidScheduleTimeError):
            read_end_time("+" + "999999d" * 5, now=NOON, is_from_now=True)
