from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations

import pytest

from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.phases import format_instant
from scheduling.queries import FILTERS, camel_case, list_jobs, show_job
from tests.support.histories import (
    ALL,
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    RUNNING,
    SCHEDULED,
    make_job,
)

LOWER = "0b4de5f1-7a6c-4f0e-9d3b-2f1c5a6b7c8d"
ONE = timedelta(milliseconds=1)


@pytest.fixture
def ids(now):
    """Return the job ids that match filters, in order."""

    def make(**filters):
        live_by_default = filters.pop("live_by_default", True)
        rows = list_jobs(filters, now=now, live_by_default=live_by_default)
        return [row.job_id for row in rows]

    return make


def ids_of(*jobs):
    return [job.job_id for job in jobs]


@pytest.mark.django_db
class TestListJobs:
    def test_returns_the_live_ones_in_due_order(self, ids, now):
        second = make_job(now=now, due_in=20)
        first = make_job(RUNNING, now=now, due_in=10)
        also_second = make_job(now=now, due_in=20)
        make_job(COMPLETED, now=now)

        assert ids() == ids_of(first, second, also_second)

    def test_returns_all_where_the_door_wants_all(self, ids, now):
        jobs = [make_job(history, now=now) for history in (COMPLETED, SCHEDULED)]

        assert ids(live_by_default=False) == ids_of(*jobs)

    def test_by_status_one_or_several(self, ids, now):
        failed, expired, _ = (make_job(h, now=now) for h in (FAILED, EXPIRED, SCHEDULED))

        assert ids(status="failed") == ids_of(failed)
        assert ids(status=["failed", "expired"]) == ids_of(failed, expired)

    @pytest.mark.parametrize("name", ["project_id", "phase_id", "challenge_id"])
    @pytest.mark.parametrize(
        ("stored", "asked"),
        [("77", "77"), ("77", 77), (LOWER, LOWER.upper()), (LOWER, LOWER)],
    )
    def test_by_id_as_text_or_as_itself(self, ids, now, name, stored, asked):
        job = make_job(now=now, **{name: stored})
        make_job(now=now)

        assert ids(**{name: asked}) == ids_of(job)

    def test_by_state(self, ids, now):
        start, _ = make_job(now=now, state="START"), make_job(now=now)

        assert ids(state="START") == ids_of(start)

    def test_by_due_instants_the_first_inclusive_the_second_exclusive(self, ids, now):
        job = make_job(now=now, due_at=now)
        zone = timezone(timedelta(hours=2))

        assert ids(due_after=format_instant(now)) == ids_of(job)
        assert ids(due_after=now.astimezone(zone).isoformat()) == ids_of(job)
        assert ids(due_after=now + ONE) == []
        assert ids(due_before=format_instant(now)) == []
        assert ids(due_before=now + ONE) == ids_of(job)

    @pytest.mark.parametrize("flag", [True, "true"])
    @pytest.mark.parametrize("unflag", [False, "false"])
    def test_by_whether_it_is_overdue(self, ids, now, flag, unflag):
        late = make_job(now=now, due_in=-1)
        punctual = make_job(now=now, due_at=now)
        done = make_job(COMPLETED, now=now, due_in=-2)

        assert ids(overdue=flag, live_by_default=False) == ids_of(late)
        assert ids(overdue=unflag, live_by_default=False) == ids_of(done, punctual)

    @pytest.mark.parametrize("text", ["77", "JOB-", " sign-UP ", "a%b_c", LOWER[9:14]])
    def test_by_a_part_of_ids_or_name(self, ids, now, text):
        job = make_job(
            now=now,
            project_id="9771",
            phase_id=LOWER,
            phase_type_name="Sign-up a%b_c",
            job_id=f"job-1-9771-{LOWER}",
        )
        other = {"job_id": "other-1-2", "project_id": "1", "phase_id": "2"}
        make_job(now=now, phase_type_name="aXbYc", **other)

        assert ids(search=text) == ids_of(job)

    def test_joins_filters_by_and(self, ids, now):
        job = make_job(now=now, project_id="5", state="START")
        make_job(now=now, project_id="5")

        assert ids(project_id=5, state="START", search="5") == ids_of(job)

    @pytest.mark.parametrize("name", ["endTime", "createdAt", "status", "latenessMs"])
    def test_orders_both_ways_with_the_id_as_tie_breaker(self, ids, now, name):
        jobs = [
            make_job(
                COMPLETED,
                now=now,
                due_in=step,
                created_at=now + timedelta(seconds=step),
                lateness_ms=step,
                status=status,
            )
            for step, status in ((1, "completed"), (2, "failed"), (2, "failed"))
        ]
        shown = ids(ordering=name, live_by_default=False)

        assert shown == ids_of(*jobs)
        assert ids(ordering=f"-{name}", live_by_default=False) == shown[::-1]

    def test_what_has_no_lateness_comes_last_either_way(self, ids, now):
        without = make_job(now=now)
        late, later = (make_job(COMPLETED, now=now, lateness_ms=ms) for ms in (1, 2))

        assert ids(ordering="latenessMs", live_by_default=False) == ids_of(
            late, later, without
        )
        assert ids(ordering="-latenessMs", live_by_default=False) == ids_of(
            later, late, without
        )

    @pytest.mark.parametrize(
        ("filters", "named"),
        [
            ({"surprise": 1}, "surprise"),
            ({"project_id": "abc"}, "projectId"),
            ({"project_id": True}, "projectId"),
            ({"project_id": None}, "projectId"),
            ({"challenge_id": "9" * 5000}, "challengeId"),
            ({"phase_id": "²"}, "phaseId"),
            ({"state": "start"}, "state"),
            ({"status": "paused"}, "status"),
            ({"status": ["failed", "paused"]}, "status"),
            ({"status": [["failed"]]}, "status"),
            ({"status": [{}]}, "status"),
            ({"status": None}, "status"),
            ({"due_after": "2030-01-31"}, "dueAfter"),
            ({"due_before": "2030-01-31T12:00:00"}, "dueBefore"),
            ({"overdue": "maybe"}, "overdue"),
            ({"overdue": 1}, "overdue"),
            ({"overdue": []}, "overdue"),
            ({"search": ""}, "search"),
            ({"search": " "}, "search"),
            ({"search": "x" * 101}, "search"),
            ({"search": "a\x00"}, "search"),
            ({"search": "\ud800"}, "search"),
            ({"search": 5}, "search"),
            ({"ordering": "due_at"}, "ordering"),
            ({"ordering": "--endTime"}, "ordering"),
            ({"ordering": None}, "ordering"),
        ],
    )
    def test_names_a_filter_that_it_can_not_apply(self, ids, filters, named):
        with pytest.raises(InvalidRequestError) as caught:
            ids(**filters)

        assert [name for name, _ in caught.value.errors] == [named]

    def test_names_them_all_at_once(self, ids):
        with pytest.raises(InvalidRequestError) as caught:
            ids(state="x", overdue="x", ordering="x", surprise=1)

        names = [name for name, _ in caught.value.errors]
        assert names == ["state", "overdue", "ordering", "surprise"]

    def test_offers_what_the_contract_lists(self):
        named = "projectId challengeId phaseId state status dueAfter dueBefore overdue"
        assert {camel_case(name) for name in FILTERS} == {*named.split(), "search"}


@pytest.mark.django_db
class TestShowJob:
    def test_shows_a_new_job_with_null_for_what_is_unknown(self, now):
        job = make_job(now=now, project_id="12345", phase_id=LOWER)

        shown = show_job(job)

        assert shown == {
            "jobId": job.job_id,
            "eventId": str(job.event_id),
            "projectId": 12345,
            "challengeId": None,
            "phaseId": LOWER,
            "phaseTypeName": "Registration",
            "state": "END",
            "endTime": format_instant(job.due_at),
            "operator": "admin",
            "projectStatus": "ACTIVE",
            "metadata": {},
            "date": None,
            "status": "scheduled",
            "attempts": 0,
            "maxAttempts": 4,
            "nextAttemptAt": None,
            "lastError": None,
            "createdAt": format_instant(job.created_at),
            "updatedAt": format_instant(job.updated_at),
            "startedAt": None,
            "completedAt": None,
            "latenessMs": None,
            "replaces": None,
            "replacedBy": None,
            "topicPartition": None,
            "topicOffset": None,
        }

    def test_shows_what_became_of_a_job(self, now):
        job = make_job(
            COMPLETED,
            now=now,
            challenge_id="7",
            metadata={"a": 1},
            date=datetime(2030, 1, 1, tzinfo=UTC),
            replaces="job-a",
            replaced_by="job-b",
            last_error="refused",
            lateness_ms=0.0,
        )

        shown = show_job(job)

        assert shown["challengeId"] == 7
        assert shown["metadata"] == {"a": 1}
        assert shown["date"] == "2030-01-01T00:00:00.000Z"
        assert shown["startedAt"] == shown["completedAt"] == format_instant(now)
        assert shown["latenessMs"] == 0.0
        assert (shown["topicPartition"], shown["topicOffset"]) == (0, 0)
        assert (shown["replaces"], shown["replacedBy"]) == ("job-a", "job-b")
        assert shown["lastError"] == "refused"

    @pytest.mark.parametrize(
        "history", [SCHEDULED, RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED]
    )
    def test_says_the_status_in_the_contract_s_words(self, now, history):
        assert show_job(make_job(history, now=now))["status"] == str(history[-1][1])


@pytest.mark.django_db
class TestProjectFilter:
    def test_finds_jobs_of_every_status(self, ids, now):
        jobs = [make_job(history, now=now, project_id="77") for history in ALL.values()]
        make_job(now=now)

        found = ids(project_id="77", live_by_default=False)

        assert sorted(found) == sorted(ids_of(*jobs))


@pytest.mark.django_db
class TestStatusFilter:
    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_finds_each_combination_and_nothing_between(self, ids, now, size):
        jobs = {status.value: make_job(history, now=now) for status, history in ALL.items()}

        for chosen in combinations(jobs, size):
            found = ids(status=list(chosen))
            assert sorted(found) == sorted(jobs[status].job_id for status in chosen)
