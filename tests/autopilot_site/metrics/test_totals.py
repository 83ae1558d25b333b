"""Counts since ever: none is lost or doubled, whatever is settled or cleaned up when."""

from datetime import timedelta

import pytest
from django.db import connection, connections

from autopilot_site.metrics import totals
from autopilot_site.metrics.totals import LATENESS_BUCKETS, count_all, settle
from recovery.models import RecoveryRun
from recovery.results import RunStatus
from scheduling.models import AuditEntry, DeadLetter, RunningTotal
from tests.support.consumer import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
PUBLISHED = "transition.completed"


@pytest.fixture
def add_entry(now):
    """Return a maker of audit entries, of a firing unless told otherwise."""

    def make(action=PUBLISHED, *, late=4.0, took=6.0, forced=False):
        figures = {"latenessMs": late, "executionMs": took, "isForced": forced}
        return AuditEntry.objects.create(
            at=now,
            action=action,
            job_id="job-1",
            actor="system:scheduler",
            role="operator",
            changes=figures if action == PUBLISHED else {"error": "no"},
        )

    return make


@pytest.fixture
def add_run(now):
    """Return a maker of runs, ended unless told otherwise."""

    def make(status=RunStatus.COMPLETED, *, took=2.0, **fields):
        is_open = status is RunStatus.NOT_STARTED
        return RecoveryRun.objects.create(
            trigger="sync",
            status=status.value,
            actor="system:recovery",
            role="operator",
            created_at=now,
            started_at=None if is_open else now - timedelta(seconds=took),
            finished_at=None if is_open else now,
            **fields,
        )

    return make


@pytest.fixture
def add_letter(now):
    """Return a maker of dead letters."""

    def make(code="invalid_request", *, ago=0.0):
        return DeadLetter.objects.create(
            cluster_id="c",
            topic="autopilot.command",
            partition=0,
            offset=1,
            code=code,
            category="validation",
            message="is no JSON",
            set_aside_at=now - timedelta(seconds=ago),
        )

    return make


def published():
    return count_all().values[PUBLISHED]


class TestCountAll:
    def test_counts_what_the_engine_did(self, add_entry):
        for action in (PUBLISHED, PUBLISHED, "transition.given_back", "transition.claimed"):
            add_entry(action)

        values = count_all().values

        assert values[PUBLISHED] == 2
        assert values["transition.given_back"] == 1
        assert values["transition.claimed"] == 0

    def test_spreads_lateness_over_the_buckets(self, add_entry):
        for late in (4.0, 5.0, 5.1, 900.0, 4e6):
            add_entry(late=late)

        spread = count_all().spread("lateness", LATENESS_BUCKETS)

        assert (spread.counts[0], spread.counts[1], spread.counts[7]) == (2, 1, 1)
        assert spread.counts[-1] == 1
        assert sum(spread.counts) == 5
        assert spread.total == pytest.approx(4000.9141)

    def test_leaves_what_a_person_demanded_out_of_the_lateness(self, add_entry):
        add_entry(late=9e6, forced=True)
        add_entry(late=-3e6, forced=True)

        counts = count_all()

        assert sum(counts.spread("lateness", LATENESS_BUCKETS).counts) == 0
        assert counts.values[PUBLISHED] == 2

    def test_counts_ended_runs_and_their_changes(self, add_run):
        add_run(upcoming_phases_scheduled=3, rescued_jobs=1)
        add_run(RunStatus.FAILED)
        add_run(dry_run=True, upcoming_phases_scheduled=50)
        add_run(RunStatus.NOT_STARTED)

        counts = count_all()

        assert counts.of("run|") == {"COMPLETED": 2, "FAILED": 1}
        assert counts.values["change|scheduled"] == 3
        assert counts.values["change|rescued"] == 1
        assert sum(counts.spread("duration", totals.DURATION_BUCKETS).counts) == 3

    def test_counts_dead_letters_by_code(self, add_letter):
        add_letter()
        add_letter(ago=300)
        add_letter("past_schedule_time")

        assert count_all().of("letter|") == {"invalid_request": 2, "past_schedule_time": 1}


class TestSettle:
    def test_changes_no_count(self, add_entry, add_run, add_letter, now):
        before = []
        for _ in range(4):
            add_entry(late=7.5)
            add_entry("transition.failed")
            add_run(rescheduled_phases=2)
            add_letter(ago=120)
            before.append(count_all().values)

            settle(now=now)

            # Sums of fractions, in another order.
            assert count_all().values == pytest.approx(before[-1])
        assert before[-1][PUBLISHED] == 4

    def test_moves_entries_into_the_totals(self, add_entry, now):
        add_entry()
        newest = AuditEntry.objects.get().pk
        for _ in range(2):
            settle_alone(now=now)
        total = RunningTotal.objects.get(name="audit")

        assert total.upto == newest
        assert total.counts[PUBLISHED] == 1

    def test_keeps_the_counts_of_rows_that_are_cleaned_up(self, add_run, add_letter, now):
        add_run()
        add_letter(ago=120)
        settle(now=now)

        RecoveryRun.objects.all().delete()
        DeadLetter.objects.all().delete()

        assert count_all().of("run|") == {"COMPLETED": 1}
        assert count_all().of("letter|") == {"invalid_request": 1}

    def test_leaves_a_run_that_is_open_for_later(self, add_run, now):
        waiting = add_run(RunStatus.NOT_STARTED)
        settle(now=now)
        RecoveryRun.objects.filter(pk=waiting.pk).update(
            status="COMPLETED", started_at=now, finished_at=now
        )

        assert count_all().of("run|") == {"COMPLETED": 1}

    def test_takes_a_long_past_in_parts(self, add_entry, now, monkeypatch):
        monkeypatch.setattr(totals, "MOST_IDS", 2)
        for _ in range(5):
            add_entry()

        seen = []
        for _ in range(5):
            settle_alone(now=now)
            seen.append(published())

        assert seen == sorted(seen)
        assert seen[-1] == 5

    def test_writes_nothing_where_nothing_happened(self, now, django_assert_num_queries):
        for _ in range(3):
            settle(now=now)

        with connection.execute_wrapper(_refuse_updates):
            settle(now=now)

    @pytest.mark.skipif(
        connection.vendor != "postgresql", reason="SQLite commits in the order of ids"
    )
    def test_waits_for_an_entry_that_commits_late(self, add_entry, now):
        other = connections.create_connection("default")
        try:
            other.set_autocommit(False)
            with other.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO scheduling_auditentry (at, action, job_id, project_id,"
                    " phase_id, state, actor, role, old_status, new_status, changes,"
                    " reason, request_id) VALUES (now(), 'transition.completed', 'j', '',"
                    " '', '', 'a', 'operator', '', '', '{}', '', '')"
                )
            add_entry()
            for _ in range(3):
                settle(now=now)
            before = published()
            other.commit()

            after = published()
            for _ in range(3):
                settle(now=now)

            assert (before, after, published()) == (1, 2, 2)
        finally:
            other.close()


def settle_alone(*, now):
    """Settle once nobody else's transaction is open that the last round saw.

    Other tests use other databases of the same server, which counts them together.
    """
    total = RunningTotal.objects.filter(name="audit").first()
    if connection.vendor == "postgresql" and total and total.seen:
        wait_until(lambda: _oldest_open() >= total.seen["next"], what="a quiet server")
    settle(now=now)


def _oldest_open():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        return cursor.fetchone()[0]


def _refuse_updates(execute, sql, params, many, context):
    """Let nothing be written but the row of a source that is new."""
    assert not sql.startswith("UPDATE"), sql
    return execute(sql, params, many, context)
