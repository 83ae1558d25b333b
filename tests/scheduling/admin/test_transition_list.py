"""The list of jobs: its order, its counts, its search, and what it costs."""

import re
from datetime import timedelta

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext

from scheduling.admin import transition_list
from scheduling.models import AuditEntry, ScheduledTransition

JOBS = "/admin/scheduling/scheduledtransition/"


@pytest.fixture
def jobs(make_job, now, hour):
    """Return one job of each kind that the order knows."""
    ago, ahead = now - hour, now + hour
    return {
        "settled": make_job("completed", due_at=ago),
        "coming": make_job(due_at=ahead),
        "later": make_job(due_at=ahead + hour),
        "demanded": make_job(due_at=ahead + 2 * hour, ready_at=ago, forced_at=ago),
        "expired": make_job("expired", due_at=ago),
        "failed": make_job("failed", due_at=ago, attempts=4),
        "retried": make_job("failed", due_at=ago, replaced_by="job-1"),
        "retrying": make_job(due_at=ago, ready_at=now + timedelta(minutes=1), attempts=1),
        "overdue": make_job(due_at=ago - hour),
        "cancelled": make_job("cancelled", due_at=ahead),
    }


def listed(client, query=None):
    response = client.get(JOBS, query or {})
    assert response.status_code == 200
    return response, [job.pk for job in response.context["cl"].result_list]


class TestStatus:
    def test_tells_what_was_moved_from_what_was_called_off(self, as_role, make_job, now):
        client = as_role("viewer")
        make_job("cancelled", replaced_by="job-1")
        html = client.get(JOBS).content.decode()
        assert '<span class="ap-badge ap-badge-moved">moved</span>' in html

        make_job("cancelled")
        html = client.get(JOBS).content.decode()
        assert html.count("ap-badge-moved") == 1

    def test_tells_that_somebody_wants_it_now(self, as_role, jobs):
        html = as_role("viewer").get(JOBS).content.decode()

        assert html.count('<span class="ap-badge ap-badge-run-now">run now</span>') == 1


class TestActions:
    @pytest.mark.parametrize(
        ("status", "offered"),
        [
            ("", {"schedule", "reschedule", "cancel", "run_now", "retry"}),
            ("scheduled", {"reschedule", "cancel", "run_now"}),
            ("running", set()),
            ("completed", {"schedule"}),
            ("failed", {"schedule", "cancel", "retry"}),
            ("no-status", {"schedule", "reschedule", "cancel", "run_now", "retry"}),
        ],
    )
    def test_are_those_that_the_shown_status_allows(self, as_role, jobs, status, offered):
        request = (
            as_role("operator")
            .get(JOBS, {"status__exact": status} if status else {})
            .wsgi_request
        )
        model_admin = admin.site.get_model_admin(ScheduledTransition)

        assert set(model_admin.get_actions(request)) == offered


@pytest.mark.parametrize("sorted_here", [0, 500])
class TestOrder:
    def test_has_what_needs_attention_first(self, as_role, jobs, monkeypatch, sorted_here):
        monkeypatch.setattr(transition_list, "SORTED_HERE", sorted_here)

        _, keys = listed(as_role("viewer"))

        names = {job.pk: name for name, job in jobs.items()}
        order = [names[key] for key in keys]
        assert set(order[:2]) == {"overdue", "retrying"}
        assert set(order[2:4]) == {"failed", "expired"}
        assert set(order[4:7]) == {"coming", "later", "demanded"}
        assert order.index("coming") < order.index("later")
        assert set(order[7:]) == {"settled", "retried", "cancelled"}

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ({"overdue": "true"}, {"overdue", "retrying"}),
            ({"status__exact": "failed"}, {"failed", "retried"}),
            ({"status__exact": "scheduled", "overdue": "false"}, {"coming", "later"}),
        ],
    )
    def test_keeps_to_the_filters(
        self, as_role, jobs, monkeypatch, sorted_here, query, names
    ):
        monkeypatch.setattr(transition_list, "SORTED_HERE", sorted_here)

        _, keys = listed(as_role("viewer"), query)

        expected = {jobs[name].pk for name in names}
        assert set(keys) - {jobs["demanded"].pk} == expected

    def test_shows_each_job_once_over_all_pages(
        self, as_role, jobs, monkeypatch, sorted_here
    ):
        monkeypatch.setattr(transition_list, "SORTED_HERE", sorted_here)
        monkeypatch.setattr(
            "scheduling.admin.transitions.ScheduledTransitionAdmin.list_per_page", 3
        )
        client = as_role("viewer")

        keys = [key for page in range(1, 5) for key in listed(client, {"p": page})[1]]

        assert sorted(keys) == sorted(job.pk for job in jobs.values())


class TestPages:
    @pytest.fixture
    def in_threes(self, jobs, monkeypatch):
        """Let a page have three rows, and one turn to two pages."""
        admin = "scheduling.admin.transitions.ScheduledTransitionAdmin"
        monkeypatch.setattr(f"{admin}.list_per_page", 3)
        monkeypatch.setattr(transition_list, "LAST_PAGE", 2)

    def test_end_where_a_filter_finds_more_sooner(self, as_role, in_threes):
        client = as_role("viewer")

        response, keys = listed(client, {"p": 2})
        beyond = client.get(JOBS, {"p": 3})

        assert len(keys) == 3
        assert "6 can be leafed through" in response.content.decode()
        assert beyond.headers["Location"] == f"{JOBS}?e=1"

    def test_say_no_more_where_all_can_be_seen(self, as_role, in_threes, jobs):
        response, _ = listed(as_role("viewer"), {"status__exact": "failed"})

        html = response.content.decode()
        assert '<span class="ap-number">2</span> transitions</div>' in html
        assert "leafed through" not in html


class TestCounts:
    def test_stand_above_by_status_and_keep_the_other_filters(self, as_role, jobs):
        project = jobs["failed"].project_id

        response, _ = listed(as_role("viewer"), {"project_id": project})

        lines = {one["word"]: one for one in response.context["cl"].status_counts}
        assert lines["failed"]["count"] == 1
        assert lines["expired"]["count"] == 0
        assert f"project_id={project}" in lines["overdue"]["query"]

    @pytest.mark.parametrize(
        ("query", "word"),
        [
            ({}, "all"),
            ({"status__exact": "failed"}, "failed"),
            ({"overdue": "true"}, "overdue"),
            ({"overdue": "true", "o": "2"}, "overdue"),
        ],
    )
    def test_say_which_of_them_is_chosen(self, as_role, jobs, query, word):
        response, keys = listed(as_role("operator"), query)

        lines = response.context["cl"].status_counts
        assert [one["word"] for one in lines if one["is_chosen"]] == [word]
        counts = {one["word"]: one["count"] for one in lines}
        assert counts[word] in {None, len(keys)}
        # What one would see under each of the others.
        assert (counts["expired"], counts["overdue"]) == (1, 2)

    @pytest.mark.postgres
    def test_are_estimates_of_many(self, as_role, jobs, monkeypatch):
        if connection.vendor != "postgresql":
            pytest.skip("SQLite counts everything")
        monkeypatch.setattr(transition_list, "MOST_COUNTED", 2)

        response, _ = listed(as_role("viewer"))

        assert response.context["cl"].result_count >= 3


class TestSearch:
    @pytest.mark.parametrize("column", ["job_id", "project_id", "phase_id", "event_id"])
    def test_finds_any_id(self, as_role, jobs, column):
        job = jobs["failed"]

        _, keys = listed(as_role("viewer"), {"q": str(getattr(job, column))})

        assert keys == [job.pk]

    def test_finds_a_part_of_a_name(self, as_role, jobs):
        _, keys = listed(as_role("viewer"), {"q": "egistrat"})

        assert len(keys) == len(jobs)

    def test_says_that_an_id_is_none(self, as_role, jobs):
        response = as_role("viewer").get(JOBS, {"project_id": "x y"})

        assert response.status_code == 302
        assert "e=1" in response.headers["Location"]


class TestLate:
    @pytest.fixture
    def late(self, make_job, now, hour):
        """Return one job later than the objective, and one that was not."""
        make_job("completed", due_at=now - hour, lateness_ms=1_000.0)
        return make_job("completed", due_at=now - hour, lateness_ms=1_000.5)

    def test_ones_are_found_by_a_filter(self, as_role, late):
        assert listed(as_role("viewer"), {"late": "true"})[1] == [late.pk]

    def test_ones_are_marked(self, as_role, late):
        html = as_role("viewer").get(JOBS).content.decode()

        assert html.count("ap-late") == 1

    def test_ones_have_an_index(self, db):
        if connection.vendor != "postgresql":
            pytest.skip("SQLite explains in other words")
        rows = ScheduledTransition.objects.filter(lateness_ms__gt=1_000.0).order_by()
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            assert "transition_late" in rows.explain()


class TestReasons:
    def test_stand_in_the_row(self, as_role, make_job, now):
        make_job("failed", last_error="no such topic: <autopilot>", attempts=4)
        cancelled = make_job("cancelled")
        moved = make_job("cancelled", replaced_by="job-9")
        for job in (cancelled, moved):
            AuditEntry.objects.create(
                at=now,
                action="transition.cancelled",
                job_id=job.job_id,
                actor="user:olivia",
                role="operator",
                old_status="scheduled",
                new_status="cancelled",
                reason="the client withdrew " + "x" * 100,
            )

        html = as_role("viewer").get(JOBS).content.decode()

        assert ">no such topic: &lt;autopilot&gt;</span>" in html
        assert html.count(">by user:olivia: the client withdrew [...]</span>") == 1


class TestRows:
    def test_tell_who_scheduled_and_what_can_be_done(self, as_role, jobs):
        html = listed(as_role("operator"))[0].content.decode()

        assert "user:<wbr>olivia" in html
        assert f"action=retry&amp;_selected_action={jobs['failed'].pk}" in html
        assert f"action=retry&amp;_selected_action={jobs['coming'].pk}" not in html

    def test_have_a_box_each_for_whoever_may_choose(self, as_role, jobs):
        html = listed(as_role("operator"))[0].content.decode()

        boxes = re.findall(r'<input[^>]* name="_selected_action" value="(\d+)"', html)
        assert sorted(map(int, boxes)) == sorted(job.pk for job in jobs.values())
        # On a phone, where each row is a card.
        assert html.count('data-label="status"') == len(jobs)

    def test_are_missed_in_a_sentence(self, as_role, jobs):
        html = listed(as_role("viewer"), {"project_id": 1})[0].content.decode()

        assert "No transition matches." in html

    def test_offer_a_viewer_nothing(self, as_role, jobs):
        html = listed(as_role("viewer"))[0].content.decode()

        assert "_selected_action" not in html
        assert "/override/" not in html
        assert "/schedule/" not in html

    def test_cost_the_same_queries_however_many(self, as_role, make_job):
        client = as_role("operator")
        make_job()
        client.get(JOBS)
        with CaptureQueriesContext(connection) as few:
            client.get(JOBS)
        for _ in range(10):
            make_job()

        with CaptureQueriesContext(connection) as many:
            client.get(JOBS)

        assert len(many) == len(few)
        assert len(many) <= 20


class TestPage:
    def test_has_the_life_the_event_and_the_buttons(self, as_role, jobs):
        job = jobs["failed"]

        html = as_role("operator").get(f"{JOBS}job/{job.job_id}/").content.decode()

        assert "scheduled for" in html
        assert f"{job.event_id}" in html
        assert "autopilot.phase.transition" in html
        assert "action=retry" in html
        assert "action=cancel" in html
        assert "action=run_now" not in html

    def test_offers_a_viewer_no_buttons(self, as_role, jobs):
        html = as_role("viewer").get(f"{JOBS}{jobs['failed'].pk}/change/").content.decode()

        assert "/override/" not in html

    def test_is_not_there_for_what_never_was(self, as_role, db):
        client = as_role("viewer")

        assert client.get(f"{JOBS}job/job-1-2-3/").status_code == 404
        assert client.get(f"{JOBS}job/%00/").status_code == 404


class TestPageOfAJobThatWaits:
    def test_tells_since_when_and_where_to_look(self, as_role, make_job, now, hour):
        job = make_job(due_at=now + hour, ready_at=now - hour / 60, forced_at=now)

        html = as_role("viewer").get(f"{JOBS}job/{job.job_id}/").content.decode()

        assert "Ready to be published since" in html
        assert "1 min ago" in html

    def test_says_nothing_of_one_that_is_not_ready(self, as_role, make_job, now, hour):
        job = make_job(due_at=now + hour)

        html = as_role("viewer").get(f"{JOBS}job/{job.job_id}/").content.decode()

        assert "Ready to be published since" not in html
