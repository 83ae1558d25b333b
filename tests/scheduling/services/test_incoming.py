"""Each record is handled exactly once, whatever its neighbours are."""

import json
import logging
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection

from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.phases import format_instant
from scheduling.domain.records import Record
from scheduling.models import AuditEntry, InboxMessage, ScheduledTransition
from scheduling.services import apply_changes, incoming, routes, unproven
from scheduling.services.incoming import handle_records
from scheduling.services.shown import shown
from scheduling.topics import CHALLENGE_UPDATE, NOTIFICATION_UPDATE
from tests.support.histories import UNPROVEN, columns, make_job

_offsets = count()
# Handlers decide about transactions themselves, and must be able to.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(incoming, "FIRST_WAIT_SECONDS", 0)


@pytest.fixture
def update(now):
    """Return a maker of records: challenge n, its END in so many hours."""

    def make(number, *, due_in=5, status="ACTIVE", said=0, headers=(), **fields):
        payload = {
            "projectId": number,
            "challengeId": number,
            "status": status,
            "operator": "admin",
            "phases": [
                {
                    "phaseId": number,
                    "phaseTypeName": "Registration",
                    "endTime": format_instant(now + timedelta(hours=due_in)),
                }
            ],
            **fields,
        }
        return record(
            json.dumps(
                {
                    "topic": CHALLENGE_UPDATE,
                    "originator": "test",
                    "timestamp": format_instant(now + timedelta(seconds=said)),
                    "mimeType": "application/json",
                    "payload": payload,
                }
            ).encode(),
            headers=headers,
        )

    return make


def handle(records, **options):
    handle_records(records, now=datetime.now(UTC), **options)


def record(value, *, topic=CHALLENGE_UPDATE, headers=()):
    return Record(
        cluster_id="cluster",
        topic=topic,
        partition=0,
        offset=next(_offsets),
        value=value,
        headers=headers,
    )


def outcomes():
    return Counter(InboxMessage.objects.values_list("outcome", flat=True))


def made():
    """Return the projects of all jobs ever made, by the audit."""
    scheduled = AuditEntry.objects.filter(action="transition.scheduled")
    return Counter(scheduled.values_list("project_id", flat=True))


class TestHandleRecords:
    def test_applies_records_and_notes_each_in_the_inbox(self, update):
        first, second = update(1), update(2)

        handle([first, second])

        assert made() == {"1": 1, "2": 1}
        rows = InboxMessage.objects.order_by("offset")
        assert [(row.cluster_id, row.topic, row.partition, row.offset) for row in rows] == [
            ("cluster", CHALLENGE_UPDATE, 0, first.offset),
            ("cluster", CHALLENGE_UPDATE, 0, second.offset),
        ]
        assert {(row.outcome, row.detail) for row in rows} == {("planned", "schedule=1")}

    def test_does_nothing_twice(self, update):
        records = [update(1), record(b"garbage"), update(2)]

        for _ in range(3):
            handle(records)

        assert made() == {"1": 1, "2": 1}
        assert InboxMessage.objects.count() == 3

    def test_tells_the_same_offset_of_another_cluster_apart(self, update):
        one = update(1)

        handle([one])
        handle([replace(one, cluster_id="another")])

        assert InboxMessage.objects.count() == 2

    @pytest.mark.parametrize("is_together", [True, False])
    def test_skips_an_event_that_was_handled_at_another_offset(self, update, is_together):
        headers = (("event-id", b"event-1"),)
        records = [update(1, headers=headers), update(2, headers=headers)]

        if is_together:
            handle(records)
        else:
            handle(records[:1])
            handle(records[1:])

        assert made() == {"1": 1}
        assert outcomes() == {"planned": 1, "duplicate": 1}

    def test_of_a_refused_record_does_not_use_its_event_up(self, update):
        headers = (("event-id", b"event-1"),)

        handle([record(b"{", headers=headers)])
        handle([update(1, headers=headers)])

        assert made() == {"1": 1}

    @pytest.mark.parametrize("value", [b"x" * 129, b"a\nb", b"", b"  ", b"\xff\xfe"])
    def test_takes_an_unusable_event_id_for_none(self, update, value):
        headers = (("other", None), ("event-id", value))

        handle([update(1, headers=headers), update(2, headers=headers)])

        assert made() == {"1": 1, "2": 1}

    def test_keeps_the_order_of_records_about_one_challenge(self, update, now):
        records = [
            update(1, due_in=5, said=1),
            update(2),
            update(1, due_in=6, said=2),
            update(1, due_in=7, said=3),
            update(1, due_in=8, said=2),
        ]

        handle(records)

        live = ScheduledTransition.objects.live().get(project_id="1")
        assert live.due_at == now + timedelta(hours=7)
        assert outcomes() == {"planned": 4, "stale": 1}

    def test_sets_garbage_aside_and_leaves_its_neighbours_alone(self, update, caplog):
        garbage = [
            record(None),
            record(b"\xff"),
            record(b"[]"),
            record(b'{"topic": 1}'),
            replace(update(9), topic=NOTIFICATION_UPDATE),
        ]

        with caplog.at_level(logging.WARNING, "autopilot.consumer"):
            handle([update(1), *garbage, update(2)])

        assert made() == {"1": 1, "2": 1}
        assert outcomes() == {"planned": 2, "refused": 5}
        assert len(caplog.records) == 5
        details = InboxMessage.objects.filter(outcome="refused").values_list(
            "detail", flat=True
        )
        assert "the record: has no value (a tombstone)" in details

    @pytest.mark.parametrize(
        "text", ["line\nbreak \x1b[31mred\r\n", "\u2028\u202e", "x" * 400_000]
    )
    def test_writes_hostile_text_as_one_short_line(self, caplog, text):
        value = json.dumps({"topic": text[:255], "timestamp": text}).encode()

        with caplog.at_level(logging.WARNING, "autopilot.consumer"):
            handle([record(value)])

        (line,) = caplog.messages
        assert line.isprintable()
        assert len(line) < 700
        assert InboxMessage.objects.get().outcome == "refused"

    def test_reports_an_end_without_instant(self, now):
        payload = {"id": 1, "projectId": 1, "status": "ACTIVE"}
        payload["phases"] = [
            {"id": 7, "name": "A", "scheduledEndDate": format_instant(now)}
        ]
        value = {"topic": NOTIFICATION_UPDATE, "timestamp": format_instant(now)}
        value["payload"] = payload

        handle([record(json.dumps(value).encode(), topic=NOTIFICATION_UPDATE)])

        detail = InboxMessage.objects.get().detail
        assert detail == "fire=1 undated=1 (no instant for START of 7)"


class TestUnexpectedErrors:
    @pytest.fixture
    def break_on(self, monkeypatch):
        """Make the handling of one project's records fail, so many times."""
        calls = Counter()

        def arrange(project, error, *, times=1_000):
            def apply(readings, now, proven):
                if any(one.challenge.project_id == project for one in readings):
                    calls[len(readings)] += 1
                    if sum(calls.values()) <= times:
                        raise error
                return routes._apply_readings(readings, now, proven)

            route = replace(routes.ROUTES[CHALLENGE_UPDATE], apply=apply)
            monkeypatch.setitem(routes.ROUTES, CHALLENGE_UPDATE, route)
            return calls

        return arrange

    def test_are_tried_five_times_and_leave_the_neighbours_alone(
        self, update, break_on, caplog
    ):
        calls = break_on("2", DataError("surprise"))
        records = [update(1), update(2), update(3)]

        handle(records)
        handle(records)

        assert calls == {3: 1, 1: 5}
        assert made() == {"1": 1, "3": 1}
        assert outcomes() == {"planned": 2, "failed": 1}
        failed = InboxMessage.objects.get(outcome="failed")
        assert (failed.offset, failed.detail) == (
            records[1].offset,
            "failed five times: DataError",
        )
        assert any("failed five times" in line for line in caplog.messages)

    def test_that_pass_cost_nothing(self, update, break_on):
        break_on("2", ValueError("once"), times=3)

        handle([update(1), update(2)])

        assert outcomes() == {"planned": 2}

    @pytest.mark.parametrize(
        "error", [OperationalError("gone"), ServiceUnavailableError("no topic")]
    )
    def test_of_a_neighbour_are_left_to_the_caller(self, update, break_on, error):
        break_on("1", error)

        with pytest.raises(type(error)):
            handle([update(1), update(2)])

        assert (made(), outcomes()) == ({}, {})

    def test_of_the_database_for_one_record_only_give_it_up_in_the_end(
        self, update, break_on
    ):
        break_on("1", OperationalError("too complex"))

        handle([update(1), update(2)], is_stuck=True)

        assert made() == {"2": 1}
        assert outcomes() == {"failed": 1, "planned": 1}

    def test_of_a_topic_that_can_not_be_searched_never_give_a_record_up(
        self, update, break_on
    ):
        break_on("1", ServiceUnavailableError("no topic"))

        with pytest.raises(ServiceUnavailableError):
            handle([update(1)], is_stuck=True)

    def test_leave_no_half_of_an_effect(self, update, monkeypatch):
        monkeypatch.setattr(
            incoming, "insert_rows", lambda rows: (_ for _ in ()).throw(OperationalError())
        )

        with pytest.raises(OperationalError):
            handle([update(1)])

        assert (made(), ScheduledTransition.objects.count()) == ({}, 0)


class TestUnknownOutcomes:
    @pytest.fixture
    def job(self, now):
        return make_job(
            UNPROVEN, now=now, project_id="1", phase_id="1", challenge_id="1", due_in=-5
        )

    def test_are_searched_for_outside_the_transaction(self, update, job, monkeypatch):
        searches = []

        def find_events(wanted, *, timeout_seconds):
            assert not connection.in_atomic_block
            searches.append(set(wanted))
            return {}

        monkeypatch.setattr(unproven, "find_events", find_events)

        handle([update(1), update(2)])

        assert searches == [{job.event_id}]
        assert columns(job)["status"] == "cancelled"
        assert ScheduledTransition.objects.live().count() == 2

    def test_keep_the_record_for_later_while_the_topic_can_not_be_searched(
        self, update, job, monkeypatch
    ):
        def find_events(wanted, *, timeout_seconds):
            raise ServiceUnavailableError("no topic")

        monkeypatch.setattr(unproven, "find_events", find_events)
        records = [update(1)]

        with pytest.raises(ServiceUnavailableError):
            handle(records)
        left = columns(job)["status"], outcomes()
        monkeypatch.setattr(unproven, "find_events", lambda wanted, **_: {})
        handle(records)

        assert left == ("scheduled", {})
        assert columns(job)["status"] == "cancelled"


class TestRaces:
    def test_are_decided_again(self, update, monkeypatch):
        real = apply_changes.insert_jobs
        tries = []

        def insert_jobs(new, **arguments):
            tries.append(len(new))
            if len(tries) == 1:
                raise IntegrityError("taken by another writer")
            real(new, **arguments)

        monkeypatch.setattr(apply_changes, "insert_jobs", insert_jobs)

        handle([update(1)])

        assert tries == [1, 1]
        assert made() == {"1": 1}


class TestShown:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("plain ä", "plain ä"),
            ("a\nb\x1b\x00", "a\\nb\\x1b\\x00"),
            ("\ud800", "\\ud800"),
            ("x" * 301, "x" * 300 + "…"),
            ("\x01" * 300, ("\\x01" * 125)),
        ],
    )
    def test_returns_one_printable_line(self, text, line):
        assert shown(text) == line
