"""The count over all processes: exact, cheap, harmless with a database in trouble."""

from unittest.mock import patch

import pytest
from django.db import OperationalError, connection, transaction

from scheduling.adapters import rate_counter
from scheduling.adapters.rate_counter import Rate, RateCounter
from scheduling.models import RateCount
from tests.support.threads import run_together

MINUTE = 60


def allowed(counter, key, rate, *, of):
    return sum(counter.take(key, rate) == 0.0 for _ in range(of))


@pytest.mark.django_db
class TestTake:
    def test_lets_so_many_through_and_tells_the_others_how_long_to_wait(self):
        counter, rate = RateCounter(), Rate(3, MINUTE)

        waits = [counter.take("a", rate) for _ in range(5)]

        assert waits[:3] == [0.0] * 3
        assert all(55 < wait <= MINUTE for wait in waits[3:])

    def test_counts_each_caller_and_each_rate_apart(self):
        counter = RateCounter()

        assert allowed(counter, "a", Rate(3, MINUTE), of=5) == 3
        assert allowed(counter, "b", Rate(3, MINUTE), of=5) == 3
        assert allowed(counter, "c", Rate(1, MINUTE), of=5) == 1

    def test_begins_anew_when_the_window_is_over(self):
        counter, rate = RateCounter(), Rate(2, MINUTE)
        allowed(counter, "a", rate, of=3)
        RateCount.objects.update(started_at=RateCount.objects.get().started_at - MINUTE)

        # Another process, which knows nothing of the old window.
        assert allowed(RateCounter(), "a", rate, of=3) == 2

    def test_begins_anew_when_the_clock_was_put_back(self):
        rate = Rate(2, MINUTE)
        allowed(RateCounter(), "a", rate, of=3)
        RateCount.objects.update(started_at=RateCount.objects.get().started_at + 3600)

        assert allowed(RateCounter(), "a", rate, of=3) == 2

    @pytest.mark.parametrize("limit", [1, 7, 199, 200, 250, 6000])
    def test_gives_several_processes_no_more_than_one(self, limit):
        processes, rate = [RateCounter() for _ in range(3)], Rate(limit, MINUTE)

        given = 0
        for _ in range(limit):
            given += sum(process.take("a", rate) == 0.0 for process in processes)

        assert given == limit

    def test_asks_the_database_once_in_a_while(self, django_assert_num_queries):
        counter, rate = RateCounter(), Rate(6000, MINUTE)

        with django_assert_num_queries(5):
            assert allowed(counter, "a", rate, of=300) == 300

    def test_asks_the_database_no_more_once_all_is_given_out(
        self, django_assert_num_queries
    ):
        counter, rate = RateCounter(), Rate(2, MINUTE)
        allowed(counter, "a", rate, of=3)

        with django_assert_num_queries(0):
            assert allowed(counter, "a", rate, of=100) == 0

    def test_forgets_windows_that_are_over(self):
        counter = RateCounter()

        with patch.object(rate_counter, "MANY_WINDOWS", 10):
            for number in range(30):
                counter.take(f"a{number}", Rate(1, MINUTE))
                for share in counter._shares.values():
                    share.ends_at = 0.0

        assert len(counter._shares) <= 10

    @pytest.mark.parametrize(
        "key", ["user:" + "x" * 255, "user:é\U0001f600'; --", "log-in:"]
    )
    def test_takes_any_name(self, key):
        assert allowed(RateCounter(), key, Rate(1, MINUTE), of=2) == 1


@pytest.mark.django_db
class TestTrouble:
    def test_lets_requests_through_and_leaves_the_database_alone_for_a_while(self):
        counter, rate = RateCounter(), Rate(1, MINUTE)

        with patch.object(
            rate_counter, "_add", side_effect=OperationalError("slow")
        ) as add:
            assert allowed(counter, "a", rate, of=10) == 10
            assert add.call_count == 1
            counter._paused_until = 0.0
            assert allowed(counter, "a", rate, of=10) == 10
            assert add.call_count == 2

    def test_ends_with_it(self):
        counter, rate = RateCounter(), Rate(1, MINUTE)
        with patch.object(rate_counter, "_add", side_effect=OperationalError("slow")):
            counter.take("a", rate)

        counter._paused_until = 0.0

        assert allowed(counter, "a", rate, of=5) == 1


@pytest.mark.django_db(transaction=True)
class TestTogether:
    @pytest.mark.parametrize("processes", [1, 4])
    def test_fifty_at_once_get_exactly_what_is_allowed(self, processes):
        counters, rate = [RateCounter() for _ in range(processes)], Rate(20, MINUTE)

        waits = run_together(50, lambda n: counters[n % processes].take("a", rate))

        assert sum(wait == 0.0 for wait in waits) == 20
        assert all(0.0 <= wait <= MINUTE for wait in waits)

    def test_a_row_that_somebody_holds_is_not_waited_for(self, monkeypatch):
        monkeypatch.setitem(rate_counter.LONGEST_WAIT_MS, connection.vendor, 100)
        RateCounter().take("a", Rate(5, MINUTE))
        counter = RateCounter()

        with transaction.atomic():
            RateCount.objects.update(count=100)
            (wait,) = run_together(1, lambda _: counter.take("a", Rate(5, MINUTE)))

        assert wait == 0.0
        assert counter._paused_until > 0.0

    def test_the_bound_is_for_the_count_alone(self):
        sql = (
            "PRAGMA busy_timeout"
            if connection.vendor == "sqlite"
            else ("SHOW statement_timeout")
        )
        with connection.cursor() as cursor:
            cursor.execute(sql)
            before = cursor.fetchone()

            RateCounter().take("a", Rate(5, MINUTE))

            cursor.execute(sql)
            assert cursor.fetchone() == before

    @pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's own")
    def test_its_table_is_not_logged(self):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT relpersistence FROM pg_class WHERE relname = %s",
                [RateCount._meta.db_table],
            )
            (persistence,) = cursor.fetchone()

        assert persistence == "u"


@pytest.mark.django_db
class TestForgetOldWindows:
    def test_deletes_those_that_are_over_whatever_their_period(self, now):
        for age in (0, 86_000, 87_000):
            RateCount.objects.create(
                key=f"{age}", started_at=now.timestamp() - age, count=1
            )

        assert rate_counter.forget_old_windows() == 1
        assert set(RateCount.objects.values_list("key", flat=True)) == {"0", "86000"}
