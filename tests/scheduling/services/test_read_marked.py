"""Challenges of which a change was told and not read: read once that is possible."""

import itertools
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, connections

from scheduling import tasks
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.phases import format_instant
from scheduling.domain.records import Record
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.models import Challenge as ChallengeRow
from scheduling.services import incoming, unproven, upstream
from scheduling.services.read_marked import PATIENCE, ReadMarked, read_marked_challenges
from scheduling.topics import NOTIFICATION_UPDATE
from tests.support.challenge_service import TOKEN_PATH, Answer, Drop, api_challenge
from tests.support.histories import SCHEDULED, UNPROVEN, columns, make_job
from tests.support.threads import run_together

# The service is asked outside any transaction, which the tests check.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def marked(challenge_api, now):
    """Return a maker of marked challenges that the service knows."""

    def make(number=1, *, since=1, **fields):
        body = api_challenge(number, now=now, **fields)
        challenge_api.challenges[body["id"]] = body
        return ChallengeRow.objects.create(
            challenge_id=body["id"],
            project_id=str(body["projectId"]),
            status="ACTIVE",
            must_be_read_since=now - timedelta(seconds=since),
            newest_message_at=now - timedelta(seconds=since),
        )

    return make


def since(row):
    return ChallengeRow.objects.values_list("must_be_read_since", flat=True).get(pk=row.pk)


def path(row):
    return f"/challenges/{row.challenge_id}"


class TestReadMarkedChallenges:
    def test_reads_them_and_makes_their_jobs(self, marked, now):
        row = marked(phases=2)

        done = read_marked_challenges(now=now)

        assert done == ReadMarked(read=(row.challenge_id,))
        assert since(row) is None
        jobs = ScheduledTransition.objects.order_by("due_at", "state")
        assert [(job.state, job.status) for job in jobs] == [
            ("END", "scheduled"),
            ("START", "scheduled"),
            ("END", "scheduled"),
        ]
        assert set(AuditEntry.objects.values_list("actor", "reason")) == {
            ("system:consumer", "the Challenge service, by copilot")
        }

    def test_moves_and_cancels_what_the_service_shows(self, marked, challenge_api, now):
        row = marked(phases=1)
        body = challenge_api.challenges[row.challenge_id]
        identity = {
            "project_id": row.project_id,
            "challenge_id": row.challenge_id,
            "phase_id": body["phases"][0]["id"],
        }
        moved = make_job(SCHEDULED, now=now, due_in=60, **identity)
        over = marked(2, status="CANCELLED_FAILED_REVIEW")
        cancelled = make_job(
            SCHEDULED, now=now, project_id=over.project_id, challenge_id=over.challenge_id
        )

        read_marked_challenges(now=now)

        assert columns(moved)["status"] == "cancelled"
        assert columns(moved)["replaced_by"]
        assert columns(cancelled)["status"] == "cancelled"
        assert ScheduledTransition.objects.live().count() == 1

    def test_asks_nobody_where_nothing_is_marked(self, challenge_api, now):
        assert read_marked_challenges(now=now) == ReadMarked()

        assert challenge_api.requests == []

    def test_does_nothing_where_no_service_is_configured(self, now):
        row = ChallengeRow.objects.create(
            challenge_id="1", project_id="1", status="ACTIVE", must_be_read_since=now
        )

        assert read_marked_challenges(now=now) == ReadMarked()

        assert since(row) == now

    def test_reads_the_fifty_that_wait_the_longest(self, marked, now):
        rows = [marked(number, since=number, phases=0) for number in range(1, 61)]

        done = read_marked_challenges(now=now, most_seconds=20)

        asked = {*done.read, *done.left, *done.given_up}
        assert asked == {row.challenge_id for row in rows[10:]}

    def test_is_outside_any_transaction_while_it_asks(self, marked, challenge_api, now):
        row = marked()
        seen = []
        own = connections["default"]

        def answer(_):
            seen.append(own.in_atomic_block)
            return Answer()

        challenge_api.script(path(row), [answer])

        read_marked_challenges(now=now)

        assert seen == [False]


class TestServiceThatFails:
    @pytest.mark.parametrize(
        "step",
        [Answer(status=503), Answer(status=429), Answer(status=401), Answer(delay=3)],
    )
    def test_leaves_the_marks_and_is_not_asked_on(
        self, marked, challenge_api, hasty, now, step
    ):
        rows = [marked(number) for number in (1, 2, 3)]
        for row in rows:
            challenge_api.script(path(row), itertools.repeat(step))

        done = read_marked_challenges(now=now)

        assert set(done.left) == {row.challenge_id for row in rows}
        assert done.failure
        assert [since(row) for row in rows] == [row.must_be_read_since for row in rows]
        names = {one.path for one in challenge_api.requests if one.path != TOKEN_PATH}
        assert len(names) == 1
        assert not ScheduledTransition.objects.exists()

    @pytest.mark.parametrize(
        "step", [Answer(status=500), Drop(), Answer(body=b"{"), Answer(status=403)]
    )
    def test_for_one_challenge_does_not_keep_the_others(
        self, marked, challenge_api, now, step
    ):
        bad, *good = [marked(number) for number in (1, 2, 3)]
        challenge_api.script(path(bad), itertools.repeat(step))

        done = read_marked_challenges(now=now)

        assert done.left == (bad.challenge_id,)
        assert set(done.read) == {row.challenge_id for row in good}
        assert since(bad) == bad.must_be_read_since

    def test_is_read_when_it_answers_again(self, marked, challenge_api, now):
        row = marked()
        challenge_api.script(path(row), [Answer(status=503)])
        read_marked_challenges(now=now)

        assert read_marked_challenges(now=now).read == (row.challenge_id,)

    def test_takes_no_longer_than_there_is_time(self, marked, challenge_api, settings, now):
        settings.RECOVERY = settings.RECOVERY.model_copy(
            update={"challenge_service_timeout": 15_000, "challenge_service_retries": 3}
        )
        for number in range(1, 8):
            challenge_api.script(path(marked(number)), itertools.repeat(Answer(delay=0.4)))
        started_at = time.monotonic()

        done = read_marked_challenges(now=now, most_seconds=1)

        assert time.monotonic() - started_at < 2
        assert len(done.read) in {1, 2}
        assert len(done.left) == 7 - len(done.read)


class TestAnswersThatHelpNobody:
    @pytest.mark.parametrize("case", ["unknown", "not understood", "no phases"])
    def test_leave_the_mark_for_a_while(self, marked, challenge_api, now, case):
        row = marked(since=PATIENCE.total_seconds() - 5)
        _spoil(challenge_api, row, case)

        done = read_marked_challenges(now=now)

        assert done.left == (row.challenge_id,)
        assert since(row) == row.must_be_read_since

    @pytest.mark.parametrize("case", ["unknown", "not understood", "no phases"])
    def test_end_the_mark_after_it_and_cancel_nothing(
        self, marked, challenge_api, now, case, caplog
    ):
        row = marked(since=PATIENCE.total_seconds() + 5)
        job = make_job(
            SCHEDULED, now=now, project_id=row.project_id, challenge_id=row.challenge_id
        )
        _spoil(challenge_api, row, case)

        done = read_marked_challenges(now=now)

        assert done.given_up == (row.challenge_id,)
        assert since(row) is None
        assert columns(job)["status"] == "scheduled"
        assert row.challenge_id in caplog.text


def _spoil(service, row, case):
    if case == "unknown":
        del service.challenges[row.challenge_id]
    elif case == "not understood":
        service.challenges[row.challenge_id]["status"] = None
    else:
        service.challenges[row.challenge_id]["phases"] = []


class TestRaces:
    def test_with_a_newer_message_leave_the_mark(self, marked, challenge_api, now):
        row = marked()

        def told_meanwhile(_):
            ChallengeRow.objects.filter(pk=row.pk).update(newest_message_at=now)
            # This runs in the server's thread, which has a connection of its own.
            connections.close_all()
            return Answer()

        challenge_api.script(path(row), [told_meanwhile])

        done = read_marked_challenges(now=now)

        assert done.left == (row.challenge_id,)
        assert since(row) == row.must_be_read_since
        assert not ScheduledTransition.objects.exists()
        assert read_marked_challenges(now=now).read == (row.challenge_id,)

    def test_with_another_reader_make_no_job_twice(self, marked, now):
        for number in range(1, 6):
            marked(number)

        results = run_together(2, lambda _: read_marked_challenges(now=now))

        assert [type(one) for one in results] == [ReadMarked, ReadMarked]
        assert not ChallengeRow.objects.filter(must_be_read_since__isnull=False).exists()
        assert ScheduledTransition.objects.count() == 15


class TestJobsOfUnknownOutcome:
    @pytest.fixture
    def job(self, marked, challenge_api, now):
        row = marked(phases=1)
        body = challenge_api.challenges[row.challenge_id]
        return make_job(
            UNPROVEN,
            now=now,
            due_in=60,
            project_id=row.project_id,
            challenge_id=row.challenge_id,
            phase_id=body["phases"][0]["id"],
        )

    def test_are_searched_for_first(self, job, now, monkeypatch):
        searches = []

        def find_events(wanted, *, timeout_seconds):
            assert not connection.in_atomic_block
            searches.append(set(wanted))
            return {}

        monkeypatch.setattr(unproven, "find_events", find_events)

        done = read_marked_challenges(now=now)

        assert len(done.read) == 1
        assert searches == [{job.event_id}]
        assert columns(job)["status"] == "cancelled"

    def test_keep_the_mark_while_the_topic_can_t_be_searched(self, job, now, monkeypatch):
        def find_events(wanted, *, timeout_seconds):
            raise ServiceUnavailableError("no topic")

        monkeypatch.setattr(unproven, "find_events", find_events)

        done = read_marked_challenges(now=now)

        assert done.failure == "no topic"
        assert len(done.left) == 1
        assert columns(job)["status"] == "scheduled"


class TestTask:
    def test_reads_what_a_notification_left_marked(self, challenge_api, now, monkeypatch):
        monkeypatch.setattr(upstream._Pause, "until", 0.0)
        body = api_challenge(7, now=now, phases=1)
        challenge_api.challenges = {body["id"]: body}
        away = itertools.repeat(Answer(status=503))
        challenge_api.script(f"/challenges/{body['id']}", away)
        told = {
            "topic": NOTIFICATION_UPDATE,
            "originator": "test",
            "timestamp": format_instant(now),
            "mimeType": "application/json",
            "payload": {**body, "phases": []},
        }
        incoming.handle_records(
            [
                Record(
                    cluster_id="cluster",
                    topic=NOTIFICATION_UPDATE,
                    partition=0,
                    offset=0,
                    value=json.dumps(told).encode(),
                )
            ],
            now=now,
        )
        assert ChallengeRow.objects.get().must_be_read_since is not None
        assert not ScheduledTransition.objects.exists()
        challenge_api.script(f"/challenges/{body['id']}", [])

        assert tasks.read_marked_challenges() == 1

        assert ChallengeRow.objects.get().must_be_read_since is None
        assert ScheduledTransition.objects.live().count() == 1

    @pytest.mark.parametrize(
        ("environment", "is_chore"),
        [
            ({"CHALLENGE_SERVICE_URL": "https://upstream.example.org"}, True),
            ({"RECOVERY_CHALLENGE_SERVICE_MOCK_MODE": "true"}, True),
            ({}, False),
        ],
    )
    def test_is_a_chore_where_there_is_a_service(self, environment, is_chore):
        told = subprocess.run(
            [
                sys.executable,
                "-c",
                "from autopilot_site.settings import CHORES;"
                "print('scheduling.tasks.read_marked_challenges' in CHORES)",
            ],
            env={"PATH": os.environ["PATH"], "DEBUG": "1", **environment},
            cwd=Path(__file__).resolve().parents[3],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

        assert told.stdout.strip() == str(is_chore)
