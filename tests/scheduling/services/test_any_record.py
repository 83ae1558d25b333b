"""Whatever stands in a record, it is handled or set aside whole, and stops nothing."""

import json
import logging
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import psycopg
import pytest
from django.db import OperationalError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduling.domain.phases import format_instant
from scheduling.domain.records import Record
from scheduling.models import (
    AuditEntry,
    DeadLetter,
    InboxMessage,
    OutgoingRecord,
    ScheduledTransition,
)
from scheduling.services import get_all_scheduled_transitions, incoming
from scheduling.services.incoming import handle_records
from scheduling.services.routes import ROUTES, _with_handlers
from scheduling.topics import CHALLENGE_UPDATE, CONSUMED_TOPICS
from tests.support.any_records import RAW, any_record, spoilt
from tests.support.histories import chain_breaks

pytestmark = pytest.mark.django_db(transaction=True)
SECRET = "s3cr3t"  # noqa: S105 -- of nothing
_offsets = count()
_profile = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(incoming, "FIRST_WAIT_SECONDS", 0)


def made(topic, value, key, headers):
    return Record(
        cluster_id="any",
        topic=topic,
        partition=0,
        offset=next(_offsets),
        value=value,
        key=key,
        headers=tuple(headers),
        timestamp_ms=1,
    )


def update(number):
    """Return the value of a valid update of one phase."""
    now = datetime.now(UTC)
    phase = {
        "phaseId": number,
        "phaseTypeName": "Review",
        "endTime": format_instant(now + timedelta(hours=1)),
    }
    payload = {
        "projectId": number,
        "challengeId": number,
        "status": "ACTIVE",
        "operator": "admin",
        "phases": [phase],
    }
    envelope = {"topic": CHALLENGE_UPDATE, "timestamp": format_instant(now)}
    return json.dumps(envelope | {"payload": payload}).encode()


def sqlite_error(name):
    """Return an error of SQLite's with that name."""
    error = sqlite3.OperationalError("trouble")
    error.sqlite_errorname = name
    return error


def check_each_is_dealt_with(records):
    """Each has its inbox row, and, where it was not handled, its dead letter, whole."""
    rows = {row.offset: row for row in InboxMessage.objects.filter(cluster_id="any")}
    letters = {one.offset: one for one in DeadLetter.objects.filter(cluster_id="any")}
    for record in records:
        row = rows[record.offset]
        # An error nobody expected is a mistake of ours, whatever the record.
        assert row.outcome != "failed", (row.detail, record)
        letter = letters.get(record.offset)
        if row.outcome == "refused":
            assert _bytes(letter.value) == record.value
            assert _bytes(letter.key) == record.key
            assert letter.errors
            assert letter.message.isprintable()
            owed = OutgoingRecord.objects.filter(dead_letter=letter)
            assert owed.count() == 1
        else:
            assert letter is None


def _bytes(value):
    return None if value is None else bytes(value)


class TestHandleRecords:
    @_profile
    @given(batch=st.lists(any_record(), min_size=1, max_size=8))
    def test_handles_any_record_or_sets_it_aside(self, batch, caplog):
        caplog.clear()
        records = [made(*one) for one in batch]

        with caplog.at_level(logging.DEBUG):
            handle_records(records, now=datetime.now(UTC))
            handle_records(records, now=datetime.now(UTC))

        check_each_is_dealt_with(records)
        assert all(line.isprintable() for line in caplog.messages)

    @pytest.mark.parametrize("topic", CONSUMED_TOPICS)
    def test_sets_hostile_json_aside(self, topic):
        records = [made(topic, raw.encode(), None, []) for raw in RAW]

        handle_records(records, now=datetime.now(UTC))

        check_each_is_dealt_with(records)
        assert DeadLetter.objects.count() == len(RAW)

    @_profile
    @given(values=st.lists(spoilt("autopilot.command"), min_size=1, max_size=5))
    def test_leaves_every_job_with_a_history_without_gaps(self, values):
        records = [made("autopilot.command", value, None, []) for value in values]

        handle_records(records, now=datetime.now(UTC))

        check_each_is_dealt_with(records)
        get_all_scheduled_transitions()
        jobs = set(AuditEntry.objects.exclude(job_id="").values_list("job_id", flat=True))
        assert [line for job in jobs for line in chain_breaks(job)] == []


class TestUnforeseenErrors:
    """A mistake of ours in one step costs the record that meets it, and no other."""

    @pytest.fixture
    def break_step(self, monkeypatch):
        """Make a step of the updates' route fail for the record at an offset."""

        def arrange(step, offset):
            route = ROUTES[CHALLENGE_UPDATE]
            real = getattr(route, step)

            def read(record):
                if record.offset == offset:
                    raise RuntimeError(SECRET)
                return real(record)

            def complete(contents):
                if any(one.challenge.project_id == "2" for one in contents):
                    raise RuntimeError(SECRET)
                return real(contents)

            broken = {"read": read, "complete": complete}[step]
            changed = replace(route, **{step: broken})
            monkeypatch.setitem(ROUTES, CHALLENGE_UPDATE, changed)
            _with_handlers.cache_clear()

        yield arrange
        _with_handlers.cache_clear()

    @pytest.mark.parametrize("step", ["read", "complete"])
    def test_set_the_record_aside_and_leave_its_neighbours_alone(
        self, step, break_step, caplog
    ):
        records = [made(CHALLENGE_UPDATE, update(n), None, []) for n in (1, 2, 3)]
        break_step(step, records[1].offset)

        with caplog.at_level(logging.DEBUG):
            handle_records(records, now=datetime.now(UTC))

        letter = DeadLetter.objects.get()
        assert (letter.offset, letter.code) == (records[1].offset, "unexpected_error")
        assert bytes(letter.value) == records[1].value
        projects = ScheduledTransition.objects.values_list("project_id", flat=True)
        assert set(projects) == {"1", "3"}
        assert SECRET not in caplog.text + letter.message


class TestTroublesOfTheDatabase:
    @pytest.mark.parametrize(
        ("cause", "is_to_blame"),
        [
            (psycopg.errors.LockNotAvailable(), False),
            (psycopg.errors.DeadlockDetected(), False),
            (psycopg.errors.DiskFull(), False),
            (psycopg.errors.AdminShutdown(), False),
            (psycopg.errors.QueryCanceled(), False),
            (psycopg.errors.StatementTooComplex(), True),
            (sqlite_error("SQLITE_BUSY"), False),
            (sqlite_error("SQLITE_BUSY_SNAPSHOT"), False),
            (sqlite_error("SQLITE_FULL"), False),
            (sqlite_error("SQLITE_ERROR"), True),
            (None, True),
        ],
    )
    def test_are_laid_to_the_record_only_where_it_may_cause_them(self, cause, is_to_blame):
        error = OperationalError("trouble")
        error.__cause__ = cause

        assert incoming._is_to_blame(error) is is_to_blame
