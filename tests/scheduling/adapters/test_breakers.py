"""Circuit breakers that all processes share; a second object stands for another process."""

import time
import uuid
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.db.models import F

from scheduling.adapters import breakers
from scheduling.adapters.breakers import (
    BreakerOpenError,
    SharedBreaker,
    TableStorage,
    shared_breaker,
)
from scheduling.adapters.clock import database_now
from scheduling.models import AuditEntry, CircuitBreaker
from tests.support.histories import a_dead_owner
from tests.support.threads import run_together

pytestmark = pytest.mark.django_db(transaction=True)


class ServiceError(Exception):
    """What counts as a failure here."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Let every look read the row, as it does a moment later."""
    monkeypatch.setattr(breakers, "TROUBLE_TTL_SECONDS", 0.0)


@pytest.fixture
def process():
    """Return a maker of what another process has."""
    return lambda: SharedBreaker(
        "challenge", counts=lambda error: isinstance(error, ServiceError)
    )


@pytest.fixture
def breaker(process):
    return process()


def fail(breaker, *, times=1, text="it is down"):
    for _ in range(times):
        with pytest.raises(ServiceError), breaker.guarding():
            raise ServiceError(text)


def succeed(breaker, *, times=1):
    for _ in range(times):
        with breaker.guarding():
            pass


def _raise_that_it_is_away(*_, **__):
    raise OperationalError("the connection is lost")


def row():
    return CircuitBreaker.objects.get(name="challenge")


def wait_out():
    """Let the reset timeout be over."""
    CircuitBreaker.objects.update(opened_at=F("opened_at") - timedelta(seconds=31))


def told():
    return list(AuditEntry.objects.order_by("id").values_list("action", flat=True))


class TestClosed:
    def test_costs_no_query(self, breaker, django_assert_num_queries):
        succeed(breaker)

        with django_assert_num_queries(0):
            succeed(breaker, times=20)

    def test_stays_so_below_the_threshold(self, breaker):
        fail(breaker, times=4)

        assert (row().state, row().failure_count) == ("closed", 4)
        assert told() == []

    def test_forgets_failures_at_a_success(self, breaker, process):
        fail(breaker, times=4)
        succeed(breaker)
        fail(process(), times=4)

        assert (row().state, row().failure_count) == ("closed", 4)

    def test_counts_no_error_of_what_was_asked(self, breaker):
        for _ in range(10):
            with pytest.raises(ValueError, match="bad data"), breaker.guarding():
                raise ValueError("bad data")

        breaker.is_closed  # noqa: B018
        assert not CircuitBreaker.objects.filter(failure_count__gt=0).exists()

    def test_is_what_a_missing_table_leaves(self, breaker, monkeypatch):
        def away(*_, **__):
            raise OperationalError("no server")

        monkeypatch.setattr(breakers.Row.objects, "filter", away)

        fail(breaker, times=10)
        succeed(breaker)


class TestOpen:
    def test_comes_at_the_threshold_and_is_told_once(self, breaker):
        fail(breaker, times=5, text="broken \x00pipe")

        found = row()
        assert (found.state, found.failure_count) == ("open", 5)
        assert found.opened_at is not None
        assert found.last_error == "broken \\x00pipe"
        (entry,) = AuditEntry.objects.all()
        assert (entry.action, entry.actor) == ("breaker.opened", "system:consumer")
        assert entry.changes == {
            "breaker": "challenge",
            "state": ["closed", "open"],
            "failureCount": 5,
            "lastError": "broken \\x00pipe",
        }

    def test_lets_nobody_through_in_any_process(self, breaker, process):
        fail(breaker, times=5)

        for one in (breaker, process()):
            with pytest.raises(BreakerOpenError) as refused, one.guarding():
                pytest.fail("it was let through")
            assert 28 < refused.value.seconds <= 30

    def test_adds_up_failures_of_many_processes(self, process):
        many = [process() for _ in range(5)]

        for one in many:
            fail(one)

        assert row().state == "open"

    def test_is_told_once_where_many_fail_together(self, process):
        many = [process() for _ in range(12)]

        run_together(12, lambda n: fail(many[n]))

        assert row().state == "open"
        assert told() == ["breaker.opened"]

    def test_follows_the_settings_in_force(self, breaker, settings):
        conf = settings.BREAKERS["challenge"].model_copy(update={"failure_threshold": 2})
        settings.BREAKERS = {**settings.BREAKERS, "challenge": conf}

        fail(breaker, times=2)

        assert row().state == "open"


class TestHalfOpen:
    def test_comes_after_the_reset_timeout(self, breaker):
        fail(breaker, times=5)
        wait_out()

        succeed(breaker)

        assert (row().state, row().success_count) == ("half_open", 1)
        assert told() == ["breaker.opened", "breaker.half_opened"]

    def test_closes_after_enough_successes_of_any_process(self, breaker, process):
        fail(breaker, times=5)
        wait_out()

        succeed(breaker)
        succeed(process())

        assert (row().state, row().failure_count, row().success_count) == ("closed", 0, 0)
        assert told()[-1] == "breaker.closed"
        succeed(process(), times=3)

    def test_opens_again_at_one_failure(self, breaker, process):
        fail(breaker, times=5)
        wait_out()
        succeed(breaker)

        fail(process())

        assert row().state == "open"
        with pytest.raises(BreakerOpenError), breaker.guarding():
            pytest.fail("it was let through")

    def test_lets_one_try_at_a_time(self, breaker, process):
        fail(breaker, times=5)
        wait_out()
        other = process()

        with breaker.guarding(), pytest.raises(BreakerOpenError), other.guarding():
            pytest.fail("both were let through")
        succeed(other)

    def test_lets_one_of_many_try_together(self, breaker, process):
        fail(breaker, times=5)
        wait_out()
        many = [process() for _ in range(12)]
        inside = []

        def try_it(number):
            with many[number].guarding():
                inside.append(number)
                time.sleep(0.2)
                assert inside[-1] == number
            return number

        results = run_together(12, try_it)

        assert any(isinstance(one, BreakerOpenError) for one in results)
        assert not [one for one in results if isinstance(one, AssertionError)]

    def test_does_not_wait_for_a_dead_one_for_long(self, breaker, process):
        fail(breaker, times=5)
        wait_out()
        assert breaker.admits(uuid.uuid4())
        CircuitBreaker.objects.update(probe_until=F("probe_until") - timedelta(seconds=10))

        succeed(process())

    def test_does_not_wait_at_all_for_one_that_is_proven_dead(self, breaker, process):
        fail(breaker, times=5)
        wait_out()
        assert breaker.admits(uuid.uuid4())
        CircuitBreaker.objects.update(probe_owner=a_dead_owner())

        succeed(process())

    @pytest.mark.parametrize("owner", ["", "another-host|1@1|"])
    def test_waits_for_one_that_may_live(self, breaker, process, owner):
        fail(breaker, times=5)
        wait_out()
        assert breaker.admits(uuid.uuid4())
        if owner:
            CircuitBreaker.objects.update(probe_owner=owner)

        assert not process().admits(uuid.uuid4())

    def test_is_free_for_its_own_process_though_its_end_could_not_be_written(
        self, breaker, process, monkeypatch
    ):
        fail(breaker, times=5)
        wait_out()
        token = uuid.uuid4()
        assert breaker.admits(token)
        with monkeypatch.context() as away:
            away.setattr(TableStorage, "_rows", _raise_that_it_is_away)
            breaker.let_go(token)
        assert row().probe_token == token

        assert not process().admits(uuid.uuid4())
        assert breaker.admits(uuid.uuid4())

    def test_comes_at_once_where_recovery_is_noticed(self, breaker, process):
        fail(breaker, times=5)

        process().notice_recovery()

        succeed(breaker)
        assert told() == ["breaker.opened", "breaker.half_opened"]

    def test_holds_the_probe_for_as_long_as_the_block_may_take(self, breaker, process):
        fail(breaker, times=5)
        wait_out()

        with breaker.guarding(longest=timedelta(seconds=60)):
            left = row().probe_until - database_now()

        assert timedelta(seconds=65) < left <= timedelta(seconds=70)
        assert row().probe_token is None

    def test_leaves_no_probe_behind_once_closed(self, breaker, process):
        fail(breaker, times=5)
        wait_out()
        late = process()
        assert late.is_closed is False
        succeed(breaker, times=2)

        assert late.take_probe(uuid.uuid4()) is False

        assert row().probe_token is None


class TestReport:
    def test_of_a_success_is_nothing_once_others_opened_it(self, breaker, process):
        assert breaker.is_closed
        fail(process(), times=5)
        breaker._storage.refresh(at_once=True)

        breaker.report()

        assert row().state == "open"

    def test_stands_failures_and_successes_of_many_threads(self, breaker):
        def work(number):
            with suppress(ServiceError, BreakerOpenError), breaker.guarding():
                time.sleep(0.05 * (number % 3))
                if number % 2:
                    raise ServiceError("it is down")

        assert run_together(20, work) == [None] * 20

    def test_of_what_says_neither_changes_nothing(self):
        breaker = SharedBreaker("challenge", counts=lambda _: None)

        for _ in range(10):
            with pytest.raises(ServiceError), breaker.guarding():
                raise ServiceError("about one")

        assert not CircuitBreaker.objects.exclude(failure_count=0).exists()


class TestLostSession:
    @pytest.mark.postgres
    def test_is_replaced(self, breaker):
        if connection.vendor != "postgresql":
            pytest.skip("SQLite has no sessions")
        fail(breaker, times=5)
        connection.ensure_connection()
        connection.connection.close()

        for _ in range(2):
            breaker._storage.refresh(at_once=True)
        wait_out()

        succeed(breaker)

    def test_goes_on_counting_how_long_it_is_open(self, breaker, monkeypatch):
        fail(breaker, times=5)

        def away(*_, **__):
            raise OperationalError("no server")

        monkeypatch.setattr(breakers.Row.objects, "filter", away)
        before = breaker.open_seconds
        time.sleep(0.3)
        breaker._storage.refresh(at_once=True)

        assert breaker.open_seconds >= before + 0.3


class TestCounts:
    def test_are_written_with_a_delay(self, breaker):
        succeed(breaker, times=3)
        fail(breaker, times=5)
        with pytest.raises(BreakerOpenError), breaker.guarding():
            pytest.fail("it was let through")

        breaker.is_closed  # noqa: B018

        assert (row().total_calls, row().rejected_count) == (9, 1)


class TestSharedBreaker:
    def test_is_one_for_a_name(self):
        assert shared_breaker("scheduler") is shared_breaker("scheduler")

    def test_is_none_for_another(self):
        with pytest.raises(KeyError):
            shared_breaker("kafka")
