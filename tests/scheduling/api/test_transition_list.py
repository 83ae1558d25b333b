"""GET transitions/: filters, order, pages."""

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import ScheduledTransition
from scheduling.services.cancel import cancel_transition
from tests.scheduling.api.support import TRANSITIONS, assert_problem

UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


def ids(response):
    assert response.status_code == 200, response.content
    return [job["jobId"] for job in response.json()["results"]]


class TestListTransitions:
    def test_shows_jobs_of_every_status_in_due_order(
        self, as_viewer, add_job, operator, now
    ):
        later = add_job(phaseId=1, due_in=7200)
        sooner = add_job(phaseId=2, due_in=3600)
        cancel_transition(job_id=later.job_id, actor=operator, reason="over", now=now)

        page = as_viewer.get(TRANSITIONS).json()

        assert [job["jobId"] for job in page["results"]] == [sooner.job_id, later.job_id]
        assert [job["status"] for job in page["results"]] == ["scheduled", "cancelled"]
        assert (page["count"], page["next"], page["previous"]) == (2, None, None)

    def test_an_empty_table_is_an_empty_page(self, as_viewer):
        page = as_viewer.get(TRANSITIONS).json()

        assert page == {"count": 0, "next": None, "previous": None, "results": []}

    @pytest.mark.parametrize(
        "query",
        [
            {"projectId": "777"},
            {"challengeId": UUID},
            {"challengeId": UUID.upper()},
            {"phaseId": "1"},
            {"state": "START"},
            {"search": "regis"},
            {"search": "3f2504e0"},
            {"search": " 777-1 "},
            {"projectId": "777", "state": "START"},
        ],
    )
    def test_filters_by(self, as_viewer, add_job, query):
        wanted = add_job(projectId=777, phaseId=1, challengeId=UUID, state="START")
        add_job(projectId=888, phaseId=2, phaseTypeName="Review")

        assert ids(as_viewer.get(TRANSITIONS, query)) == [wanted.job_id]

    def test_several_statuses_may_be_asked_for(self, as_viewer, add_job, operator, now):
        cancelled, scheduled, running = (add_job(phaseId=n) for n in (1, 2, 3))
        cancel_transition(job_id=cancelled.job_id, actor=operator, reason="x", now=now)
        ScheduledTransition.objects.filter(pk=running.pk).update(
            status=TransitionStatus.RUNNING,
            claim_token=UUID,
            lease_until=now,
            started_at=now,
        )

        found = ids(as_viewer.get(f"{TRANSITIONS}?status=scheduled&status=cancelled"))

        assert sorted(found) == sorted([cancelled.job_id, scheduled.job_id])

    def test_due_after_is_inclusive_and_due_before_exclusive(self, as_viewer, add_job):
        first, second = add_job(phaseId=1, due_in=100), add_job(phaseId=2, due_in=200)
        at = {job: format_instant(job.due_at) for job in (first, second)}

        both = {"dueAfter": at[first], "dueBefore": at[second]}

        assert ids(as_viewer.get(TRANSITIONS, both)) == [first.job_id]

    def test_overdue_means_live_and_past(self, as_viewer, add_job, operator, now):
        overdue, done, ahead = (add_job(phaseId=n) for n in (1, 2, 3))
        cancel_transition(job_id=done.job_id, actor=operator, reason="x", now=now)
        past = now - timedelta(minutes=1)
        ScheduledTransition.objects.filter(pk__in=[overdue.pk, done.pk]).update(due_at=past)

        is_overdue = ids(as_viewer.get(TRANSITIONS, {"overdue": "true"}))
        is_not = ids(as_viewer.get(TRANSITIONS, {"overdue": "false"}))

        assert is_overdue == [overdue.job_id]
        assert is_not == [done.job_id, ahead.job_id]

    @pytest.mark.parametrize("name", ["endTime", "createdAt", "status", "latenessMs"])
    def test_orders_both_ways(self, as_viewer, add_job, name):
        jobs = [add_job(phaseId=n, due_in=n * 100) for n in (1, 2, 3)]
        for lateness, job in enumerate(jobs):
            job.lateness_ms = lateness
            job.created_at += timedelta(seconds=lateness)
            job.save()
        expected = [job.job_id for job in jobs]

        assert ids(as_viewer.get(TRANSITIONS, {"ordering": name})) == expected
        assert ids(as_viewer.get(TRANSITIONS, {"ordering": f"-{name}"})) == expected[::-1]

    def test_pages_follow_each_other_through_next(self, as_viewer, add_job):
        expected = [add_job(phaseId=n, due_in=n * 100).job_id for n in range(1, 6)]
        address, found = f"{TRANSITIONS}?pageSize=2&projectId=12345", []

        while address:
            page = as_viewer.get(address).json()
            found += [job["jobId"] for job in page["results"]]
            assert page["count"] == 5
            address = page["next"]

        assert found == expected

    def test_previous_leads_back(self, as_viewer, add_job):
        for n in range(1, 4):
            add_job(phaseId=n)

        third = as_viewer.get(TRANSITIONS, {"pageSize": 1, "page": 3}).json()
        second = as_viewer.get(third["previous"]).json()

        assert third["next"] is None
        assert parse_qs(urlsplit(third["previous"]).query)["page"] == ["2"]
        assert as_viewer.get(second["previous"]).json()["previous"] is None

    @pytest.mark.parametrize("page", ["2", "999999999999999999"])
    def test_a_page_beyond_the_end_is_not_found(self, as_viewer, add_job, page):
        add_job()

        assert_problem(as_viewer.get(TRANSITIONS, {"page": page}), 404, "not_found")

    def test_the_largest_page_holds_500(self, as_viewer):
        assert as_viewer.get(TRANSITIONS, {"pageSize": 500}).status_code == 200

    def test_says_how_a_plus_sign_is_written(self, as_viewer):
        query = "dueAfter=2026-01-01T00:00:00+01:00"
        problem = assert_problem(
            as_viewer.get(f"{TRANSITIONS}?{query}"), 400, "invalid_request"
        )

        assert problem["errors"][0]["message"].endswith("in an address + is written %2B")
        plain = as_viewer.get(TRANSITIONS + "?" + query.replace("+", "%2B"))
        assert plain.status_code == 200

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("pageSize=501", "pageSize"),
            ("pageSize=0", "pageSize"),
            ("pageSize=x", "pageSize"),
            ("page=0", "page"),
            ("page=-1", "page"),
            ("page=last", "page"),
            ("page=%D9%A1", "page"),
            ("page=" + "9" * 5000, "page"),
            ("page=1&page=2", "page"),
            ("projectId=1&projectId=2", "projectId"),
            ("projectId=0", "projectId"),
            ("projectId=1.5", "projectId"),
            ("projectId=", "projectId"),
            ("projectId=%00", "projectId"),
            ("projectId=9007199254740992", "projectId"),
            ("phaseId=1'%20OR%201=1", "phaseId"),
            ("challengeId=abc", "challengeId"),
            ("state=start", "state"),
            ("status=done", "status"),
            ("status=scheduled&status=%00", "status"),
            ("status=", "status"),
            ("dueAfter=2026-01-01", "dueAfter"),
            ("dueAfter=2026-01-01T00:00:00", "dueAfter"),
            ("dueBefore=2026-06-31T00:00:00Z", "dueBefore"),
            ("overdue=1", "overdue"),
            ("search=", "search"),
            ("search=%00", "search"),
            ("search=" + "x" * 101, "search"),
            ("ordering=due_at", "ordering"),
            ("ordering=--endTime", "ordering"),
            ("project_id=1", "project_id"),
            ("ProjectId=1", "ProjectId"),
            ("foo=1", "foo"),
            ("live=true", "live"),
            ("a%00b=1", "a\x00b"),
            ("%ff=1", "\ufffd"),
            ("format=json", "format"),
        ],
    )
    def test_names_what_is_wrong_in_the_query(self, as_viewer, query, field):
        problem = assert_problem(
            as_viewer.get(f"{TRANSITIONS}?{query}"), 400, "invalid_request"
        )

        assert [error["field"] for error in problem["errors"]] == [field]
        assert problem["category"] == "validation"

    def test_an_unknown_parameter_is_told_the_known_ones(self, as_viewer):
        problem = assert_problem(
            as_viewer.get(TRANSITIONS, {"foo": "1", "bar": "2"}), 400, "invalid_request"
        )

        assert [error["field"] for error in problem["errors"]] == ["foo", "bar"]
        for name in ("projectId", "dueBefore", "ordering", "page", "pageSize"):
            assert name in problem["errors"][0]["message"]

    @pytest.mark.parametrize(
        "text", ["%", "_", "\\", "'", '"; DROP TABLE x; --', "\U0001f600"]
    )
    def test_a_search_takes_every_sign_for_itself(self, as_viewer, add_job, text):
        add_job(phaseId=1)
        wanted = add_job(phaseId=2, phaseTypeName=f"a{text}b")

        assert ids(as_viewer.get(TRANSITIONS, {"search": text})) == [wanted.job_id]
