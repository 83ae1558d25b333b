from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.domain.retry import RetryPolicy

POLICY = RetryPolicy(delay=timedelta(seconds=5))


class TestWait:
    @pytest.mark.parametrize(
        ("attempt", "full_seconds"),
        [(1, 5), (2, 10), (3, 20), (6, 160), (7, 300), (99, 300)],
    )
    def test_doubles_each_time_up_to_five_minutes(self, attempt, full_seconds):
        full = timedelta(seconds=full_seconds)

        assert POLICY.wait(attempt, chance=0.0) == full / 2
        assert POLICY.wait(attempt, chance=1.0) == full

    @given(st.integers(1, 10_000))
    def test_draws_between_the_half_and_the_whole(self, attempt):
        wait = POLICY.wait(attempt)

        full = min(timedelta(minutes=5), POLICY.delay * 2 ** min(attempt - 1, 30))
        assert full / 2 <= wait <= full

    def test_spreads_the_rows_of_one_outage(self):
        assert len({POLICY.wait(1) for _ in range(50)}) > 40

    def test_never_waits_longer_than_the_cap_where_the_delay_is_longer(self):
        policy = RetryPolicy(delay=timedelta(hours=1))

        assert policy.wait(1, chance=1.0) == timedelta(minutes=5)
