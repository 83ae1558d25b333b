"""Which topic is handled how, and what handlers of one's own may do."""

import json
import sys
from datetime import timedelta
from itertools import count
from types import ModuleType

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection

from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.phases import format_instant
from scheduling.domain.records import Record
from scheduling.messages import UnusableMessageError
from scheduling.models import (
    DeadLetter,
    InboxMessage,
    OutgoingRecord,
    ProcessState,
    ScheduledTransition,
)
from scheduling.services import incoming
from scheduling.services.incoming import handle_records
from scheduling.services.routes import ROUTES, check_topics, routes
from scheduling.topics import CHALLENGE_UPDATE, COMMAND, CONSUMED_TOPICS

OWN = "billing.payment"
_offsets, _numbers = count(), count()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(incoming, "FIRST_WAIT_SECONDS", 0)


@pytest.fixture
def plugged_in(monkeypatch, settings):
    """Return one who names handlers, by topic, in AUTOPILOT_EVENT_HANDLERS."""
    module = ModuleType("plugged_in_here")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def plug(**handlers):
        paths = {}
        for topic, handler in handlers.items():
            # Routes are kept by dotted path: each handler needs one of its own.
            name = f"handler_{next(_numbers)}"
            setattr(module, name, handler)
            paths[topic.replace("_", ".")] = f"{module.__name__}.{name}"
        settings.MESSAGES = settings.MESSAGES.model_copy(update={"event_handlers": paths})

    return plug


@pytest.fixture
def record_of(now):
    """Return a maker of records."""

    def make(payload, *, topic=OWN, key=b"1", headers=()):
        value = {"topic": topic, "timestamp": format_instant(now), "payload": payload}
        return Record(
            cluster_id="cluster",
            topic=topic,
            partition=0,
            offset=next(_offsets),
            value=json.dumps(value).encode(),
            key=key,
            headers=headers,
        )

    return make


@pytest.fixture
def update(record_of, now):
    """Return a maker of challenge updates with one phase."""

    def make(number):
        end = format_instant(now + timedelta(hours=1))
        phase = {"phaseId": 1, "phaseTypeName": "A", "endTime": end}
        payload = {"projectId": number, "challengeId": number, "status": "ACTIVE"}
        return record_of(
            {**payload, "operator": "admin", "phases": [phase]}, topic=CHALLENGE_UPDATE
        )

    return make


def inbox():
    rows = InboxMessage.objects.order_by("offset")
    return [(row.outcome, row.detail) for row in rows]


class TestRoutes:
    def test_are_ours_where_nothing_is_plugged_in(self):
        assert set(routes()) == set(ROUTES) == set(CONSUMED_TOPICS)

    def test_also_have_topics_of_ones_own(self, plugged_in):
        plugged_in(billing_payment=lambda _: None)

        assert set(routes()) == {*CONSUMED_TOPICS, OWN}
        assert set(ROUTES) == set(CONSUMED_TOPICS)

    @pytest.mark.parametrize(
        ("path", "says"),
        [
            ("no_such_module.handler", "No module named 'no_such_module'"),
            ("scheduling.topics.no_such_handler", "no_such_handler"),
            ("scheduling.topics.COMMAND", "can't be called"),
        ],
    )
    def test_name_what_can_not_be_imported(self, settings, path, says):
        settings.MESSAGES = settings.MESSAGES.model_copy(
            update={"event_handlers": {OWN: path}}
        )

        with pytest.raises(ImproperlyConfigured) as caught:
            routes()

        assert "AUTOPILOT_EVENT_HANDLERS" in str(caught.value)
        assert says in str(caught.value)

    @pytest.mark.django_db
    def test_that_can_not_be_imported_stop_the_consumers_start(self, settings):
        settings.MESSAGES = settings.MESSAGES.model_copy(
            update={"event_handlers": {OWN: "no_such_module.handler"}}
        )

        with pytest.raises(CommandError, match="AUTOPILOT_EVENT_HANDLERS"):
            call_command("consume_events", skip_checks=True)

        assert not ProcessState.objects.exists()


class TestCheckTopics:
    def test_is_content_with_what_is_handled(self, plugged_in):
        plugged_in(billing_payment=lambda _: None)

        check_topics([COMMAND, OWN])

    def test_names_what_nobody_handles(self):
        with pytest.raises(ImproperlyConfigured, match=r"topics a, b$"):
            check_topics(["a", COMMAND, "b"])


@pytest.mark.django_db(transaction=True)
class TestHandlersOnTheirOwnTopic:
    def test_get_the_record_with_its_envelope_opened(self, plugged_in, record_of, now):
        events = []
        plugged_in(billing_payment=events.append)
        record = record_of({"amount": 5, "nested": {"a": [1]}})

        handle_records([record], now=now)

        (event,) = events
        assert event.payload == {"amount": 5, "nested": {"a": [1]}}
        assert (event.record, event.said_at) == (record, now)
        assert inbox() == [("handled", "")]

    def test_say_what_stands_in_the_inbox(self, plugged_in, record_of, now):
        plugged_in(billing_payment=lambda event: f"paid {event.payload['amount']}")

        handle_records([record_of({"amount": 5})], now=now)

        assert inbox() == [("handled", "paid 5")]

    def test_are_called_once_for_each_record(self, plugged_in, record_of, now):
        calls = []
        plugged_in(billing_payment=lambda event: calls.append(event.payload["n"]))
        headers = (("event-id", b"e-1"),)
        records = [record_of({"n": number}) for number in range(3)]
        records += [
            record_of({"n": 3}, headers=headers),
            record_of({"n": 4}, headers=headers),
        ]

        for _ in range(2):
            handle_records(records, now=now)

        assert sorted(calls) == [0, 1, 2, 3]

    def test_get_the_records_of_a_key_in_their_order(self, plugged_in, record_of, now):
        calls = []
        plugged_in(billing_payment=lambda event: calls.append(event.payload["n"]))
        records = [record_of({"n": n}, key=b"ab"[n % 2 : n % 2 + 1]) for n in range(8)]

        handle_records(records, now=now)

        assert [n for n in calls if n % 2] == [1, 3, 5, 7]
        assert [n for n in calls if not n % 2] == [0, 2, 4, 6]

    def test_get_records_without_a_key_in_their_order_too(self, plugged_in, record_of, now):
        calls = []
        plugged_in(billing_payment=lambda event: calls.append(event.payload["n"]))

        handle_records([record_of({"n": n}, key=None) for n in range(5)], now=now)

        assert calls == [0, 1, 2, 3, 4]

    def test_never_see_what_is_no_envelope(self, plugged_in, record_of, now):
        calls = []
        plugged_in(billing_payment=calls.append)
        other = record_of({}, topic="other")
        garbage = [Record(**{**_fields(other), "topic": OWN, "offset": next(_offsets)})]
        garbage.append(Record(**{**_fields(other), "topic": OWN, "value": b"{"}))

        handle_records(garbage, now=now)

        assert calls == []
        assert DeadLetter.objects.filter(topic=OWN).count() == 2
        assert {row.topic for row in OutgoingRecord.objects.all()} == {f"{OWN}.dlq"}

    def test_run_in_the_transaction_that_notes_the_record(
        self, plugged_in, record_of, phase_data, now
    ):
        def handler(event):
            assert connection.in_atomic_block
            ProcessState.objects.create(
                kind="own", host="h", pid=event.payload["pid"], started_at=now, seen_at=now
            )
            if event.payload["pid"] == 2:
                raise RuntimeError("half way")

        plugged_in(billing_payment=handler)

        handle_records([record_of({"pid": 1}), record_of({"pid": 2}, key=b"2")], now=now)

        assert [row.pid for row in ProcessState.objects.all()] == [1]
        assert [outcome for outcome, _ in inbox()] == ["handled", "failed"]

    def test_set_a_record_aside_with_fields_and_causes(self, plugged_in, record_of, now):
        def handler(event):
            raise UnusableMessageError([("payload.amount", "must be a whole number")])

        plugged_in(billing_payment=handler)

        handle_records([record_of({"amount": "x"})], now=now)

        letter = DeadLetter.objects.get()
        assert (letter.code, letter.category) == ("invalid_request", "validation")
        assert letter.errors == [
            {"field": "payload.amount", "message": "must be a whole number"}
        ]
        assert inbox() == [("refused", "payload.amount: must be a whole number")]

    def test_that_fail_are_tried_five_times(self, plugged_in, record_of, now, caplog):
        calls = []

        def handler(event):
            calls.append(event)
            raise RuntimeError(f"with {event.payload['secret']}")

        plugged_in(billing_payment=handler)

        handle_records([record_of({"secret": "hunter2"})], now=now)

        letter = DeadLetter.objects.get()
        assert len(calls) == 5
        assert (letter.code, letter.message) == (
            "unexpected_error",
            "failed five times: RuntimeError",
        )
        assert "hunter2" not in caplog.text + letter.message
        assert OutgoingRecord.objects.get().topic == f"{OWN}.dlq"

    def test_that_fail_now_and_then_are_successful_in_the_end(
        self, plugged_in, record_of, now
    ):
        tries = count(1)

        def handler(event):
            if next(tries) < 5:
                raise ConnectionError
            return "at last"

        plugged_in(billing_payment=handler)

        handle_records([record_of({})], now=now)

        assert inbox() == [("handled", "at last")]

    def test_may_raise_the_products_own_errors(self, plugged_in, record_of, now):
        def handler(event):
            raise InvalidRequestError([("amount", "is not owed")])

        plugged_in(billing_payment=handler)

        handle_records([record_of({})], now=now)

        letter = DeadLetter.objects.get()
        assert (letter.code, letter.message) == ("invalid_request", "amount: is not owed")

    @pytest.mark.parametrize("odd", ["text", [("only a field",)], [(1, 2)], None])
    def test_can_not_stop_the_stream_by_raising_odd_things(
        self, plugged_in, record_of, now, odd
    ):
        def handler(event):
            raise UnusableMessageError(odd)

        plugged_in(billing_payment=handler)

        handle_records([record_of({})], now=now)

        assert DeadLetter.objects.count() == 1

    def test_may_return_odd_things(self, plugged_in, record_of, now):
        plugged_in(billing_payment=lambda _: {"a": "\x00" * 1_000})

        handle_records([record_of({})], now=now)

        ((outcome, detail),) = inbox()
        assert outcome == "handled"
        assert detail.isprintable()


def _fields(record):
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


@pytest.mark.django_db(transaction=True)
class TestHandlersBesideOurs:
    def test_hear_of_what_we_have_applied(self, plugged_in, update, now):
        seen = []

        def handler(event):
            jobs = ScheduledTransition.objects.filter(project_id="7")
            seen.append((event.payload["projectId"], jobs.count()))
            return "not shown"

        plugged_in(autopilot_challenge_update=handler)

        handle_records([update(7)], now=now)

        assert seen == [(7, 1)]
        ((outcome, detail),) = inbox()
        assert (outcome, "not shown" in detail) == ("planned", False)

    def test_are_not_called_again_for_what_comes_again(self, plugged_in, update, now):
        calls = []
        plugged_in(autopilot_challenge_update=calls.append)
        record = update(7)

        for _ in range(2):
            handle_records([record], now=now)

        assert len(calls) == 1

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            (UnusableMessageError([("payload", "is not for us")]), "refused"),
            (RuntimeError("surprise"), "failed"),
        ],
    )
    def test_take_our_effect_back_where_they_fail(
        self, plugged_in, update, now, error, outcome
    ):
        def handler(event):
            if event.payload["projectId"] == 8:
                raise error

        plugged_in(autopilot_challenge_update=handler)

        handle_records([update(7), update(8), update(9)], now=now)

        projects = ScheduledTransition.objects.values_list("project_id", flat=True)
        assert sorted(projects) == ["7", "9"]
        assert [name for name, _ in inbox()] == ["planned", outcome, "planned"]

    def test_do_not_see_what_we_refuse(self, plugged_in, record_of, now):
        calls = []
        plugged_in(autopilot_command=calls.append)

        handle_records([record_of({"command": "no such"}, topic=COMMAND)], now=now)

        assert calls == []
