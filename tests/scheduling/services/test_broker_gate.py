"""Who may send while brokers fail, and that what waits is neither lost nor used up."""

import json
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db.models import F

from scheduling.adapters import breakers, event_publisher, lanes
from scheduling.adapters.breakers import shared_breaker
from scheduling.models import AuditEntry, CircuitBreaker, ScheduledTransition
from scheduling.services import broker_gate, publish
from scheduling.services.broker_gate import BrokerAwayError, BrokerGate
from scheduling.services.publish import publish_due
from scheduling.services.schedule import schedule_transition

pytestmark = pytest.mark.django_db(transaction=True)


class Broker:
    """Stands for a publisher of which only the reach matters."""

    def __init__(self, *, answers=True, seems_out_of_reach=False):
        self.answers = answers
        self.seems_out_of_reach = seems_out_of_reach
        self.asked = 0

    def is_in_reach(self, *, timeout_seconds):
        self.asked += 1
        return self.answers


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Let every look read the row, as it does a moment later."""
    monkeypatch.setattr(breakers, "TROUBLE_TTL_SECONDS", 0.0)


@pytest.fixture
def opened():
    """Open the breaker of publishing, some seconds ago."""
    for _ in range(5):
        shared_breaker("scheduler").report(BrokerAwayError("no Kafka broker answers"))
    assert row().state == "open"
    age(seconds=10)


def age(*, seconds):
    CircuitBreaker.objects.update(opened_at=F("opened_at") - timedelta(seconds=seconds))


def row():
    return CircuitBreaker.objects.get(name="scheduler")


class TestClosed:
    def test_lets_through_without_a_question(self):
        broker = Broker(answers=False)

        assert BrokerGate(broker).is_open

        assert broker.asked == 0

    def test_opens_where_no_broker_answers_five_looks(self):
        gate = BrokerGate(Broker(answers=False, seems_out_of_reach=True))

        assert not any(gate.ask() for _ in range(5))

        assert row().state == "open"
        assert row().last_error == "no Kafka broker answers"

    def test_stays_so_where_records_are_refused(self):
        gate = BrokerGate(Broker())

        for _ in range(10):
            assert gate.ask()
            gate.report("", must_look=True)

        assert not CircuitBreaker.objects.exclude(state="closed").exists()


class TestOpen:
    def test_holds_back_while_no_broker_answers(self, opened):
        broker = Broker(answers=False)
        gate = BrokerGate(broker)

        assert not gate.is_open
        assert not gate.ask()

        assert broker.asked == 1
        assert row().failure_count == 5

    def test_is_tried_before_its_time_once_a_broker_answers(self, opened):
        gate = BrokerGate(Broker())

        assert gate.ask()

        assert row().state == "half_open"

    def test_is_not_tried_at_once_where_a_broker_answers_and_fails(self, opened):
        gate = BrokerGate(Broker())
        assert gate.ask()
        gate.report("not enough replicas")

        assert not gate.ask()

        assert row().state == "open"

    def test_asks_the_broker_for_one_sender_at_a_time(self, opened):
        first, second = Broker(answers=False), Broker(answers=False)

        class Asking(Broker):
            def is_in_reach(self, *, timeout_seconds):
                assert not BrokerGate(second).ask()
                return super().is_in_reach(timeout_seconds=timeout_seconds)

        first = Asking()

        assert BrokerGate(first).ask()

        assert (first.asked, second.asked) == (1, 0)

    def test_counts_a_trial_that_its_time_brought(self, opened):
        age(seconds=60)
        gate = BrokerGate(Broker(answers=False))

        assert not gate.ask()

        assert (row().state, row().failure_count) == ("open", 6)


class TestHalfOpen:
    def test_lets_one_sender_through_at_a_time(self, opened):
        first, second = BrokerGate(Broker()), BrokerGate(Broker())
        assert first.ask()

        assert not second.ask()

        first.let_go()
        assert second.ask()

    def test_closes_after_three_sendings(self, opened):
        gate = BrokerGate(Broker())

        for _ in range(3):
            assert gate.ask()
            gate.report("")

        assert row().state == "closed"
        assert gate.is_open

    def test_closes_too_where_nothing_is_to_be_sent(self, opened):
        for _ in range(3):
            gate = BrokerGate(Broker())
            assert gate.ask()
            gate.settle()

        assert row().state == "closed"


class TestJobs:
    @pytest.fixture
    def embedded(self, embedded_kafka, monkeypatch):
        monkeypatch.setattr(lanes, "board", lanes.LaneBoard(lanes=1))
        monkeypatch.setattr(publish, "LANE_SECONDS", 4.0)
        yield embedded_kafka
        event_publisher.process_publisher().close()

    @pytest.fixture
    def due(self, now, phase_data, operator):
        """Return the jobs of three phases, all due for a second."""
        jobs = [
            schedule_transition(phase_data(phaseId=n), actor=operator, now=now).job
            for n in (1, 2, 3)
        ]
        past = now - timedelta(seconds=1)
        ScheduledTransition.objects.update(due_at=past, event_at=past, ready_at=past)
        return jobs

    def test_wait_unharmed_and_fire_when_it_closes(self, embedded, due, opened):
        embedded.down()

        assert publish_due(not_before=0.0) == 0

        waiting = ScheduledTransition.objects.values_list("status", "attempts")
        assert set(waiting) == {("scheduled", 0)}
        assert not AuditEntry.objects.filter(action="transition.claimed").exists()
        assert row().rejected_count >= 0

        embedded.up()

        assert publish_due(not_before=0.0) == 3
        done = ScheduledTransition.objects.values_list("status", "attempts")
        assert set(done) == {("completed", 1)}

    def test_open_it_when_the_broker_goes_and_lose_nothing(
        self, embedded, due, monkeypatch
    ):
        monkeypatch.setattr(publish, "LANE_SECONDS", 12.0)
        monkeypatch.setattr(broker_gate, "BROKER_PROBE_SECONDS", 0.2)
        embedded.down()

        assert publish_due(not_before=0.0) == 0

        assert row().state == "open"
        embedded.up()
        assert publish_due(not_before=0.0) == 3
        assert set(ScheduledTransition.objects.values_list("status", flat=True)) == {
            "completed"
        }


class TestResetBreakerCommand:
    def test_closes_it_in_the_shell_users_name(self, opened, capsys):
        call_command(
            "reset_breaker",
            "scheduler",
            "--reason",
            "it is back",
            "--actor",
            "sara",
            "--json",
        )

        assert json.loads(capsys.readouterr().out)["state"] == "closed"
        entry = AuditEntry.objects.get(action="breaker.reset")
        assert (entry.actor, entry.reason) == ("cli:sara", "it is back")
        assert entry.changes["state"] == ["open", "closed"]
        assert BrokerGate(Broker()).is_open
