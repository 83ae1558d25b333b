"""The clock that decides, and the guard that notices when the wall clock was stepped."""

from datetime import UTC, datetime, timedelta

import pytest

from scheduling.adapters.clock import ClockGuard, DatabaseClock, database_now


class TestDatabaseNow:
    @pytest.mark.django_db
    def test_is_an_aware_utc_instant_near_ours(self):
        now = database_now()

        assert now.tzinfo is UTC
        assert abs(now - datetime.now(UTC)) < timedelta(seconds=2)


class TestDatabaseClock:
    def test_follows_the_database_and_not_this_host(self):
        clock = DatabaseClock()
        an_hour_ahead = datetime.now(UTC) + timedelta(hours=1)

        asked = clock._epoch_minus_monotonic
        import time

        monotonic = time.monotonic()
        clock.observe(an_hour_ahead, asked_at=monotonic, answered_at=monotonic)

        assert clock._epoch_minus_monotonic - asked == pytest.approx(3600, abs=1)
        assert clock.seconds_until(an_hour_ahead) == pytest.approx(0, abs=1)
        assert clock.is_observed


def guard_at(wall=1000.0, boot=50.0):
    return ClockGuard(_last_wall=wall, _last_boot=boot)


class TestClockGuard:
    def test_trusts_clocks_that_go_together(self):
        guard = guard_at()

        guard.tick(wall=1060.0, boot=110.0)

        assert guard.may_fire

    def test_bears_the_slew_of_a_clock_that_is_put_right_gently(self):
        guard = guard_at()

        for second in range(1, 3600):
            guard.tick(wall=1000.0 + second * 1.0005, boot=50.0 + second)

        assert guard.may_fire

    @pytest.mark.parametrize("step", [3600.0, -3600.0, 1.5, -1.5])
    def test_stops_firing_at_a_step(self, step):
        guard = guard_at()

        guard.tick(wall=1000.2 + step, boot=50.2)

        assert not guard.may_fire
        assert guard.step_seconds == pytest.approx(step)

    def test_adds_up_small_steps(self):
        guard = guard_at()

        guard.tick(wall=1000.8, boot=50.1)
        guard.tick(wall=1001.7, boot=50.3)

        assert not guard.may_fire

    def test_goes_on_after_three_ticks_with_the_clock_set_back_right(self):
        guard = guard_at()
        guard.tick(wall=4600.2, boot=50.2)

        trusted = []
        for tick in range(1, 5):
            guard.tick(wall=1000.2 + tick, boot=50.2 + tick)
            trusted.append(guard.may_fire)

        assert trusted == [False, False, True, True]

    def test_stays_stopped_while_the_clock_stays_wrong(self):
        guard = guard_at()
        guard.tick(wall=4600.2, boot=50.2)

        for tick in range(1, 100):
            guard.tick(wall=4600.2 + tick, boot=50.2 + tick)

        assert not guard.may_fire
