"""Recovery in the admin: its runs, what each did, what one would do, and starting one."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from recovery.admin import start_page
from recovery.models import RecoveryRun
from recovery.results import Trigger
from recovery.services.conduct import conduct
from recovery.services.runs import Request, ask_for_run, take
from scheduling.models import AuditEntry, ScheduledTransition
from tests.support.admin_client import HOSTILE, page_of, signed_in

pytestmark = pytest.mark.django_db
LIST = "/admin/recovery/recoveryrun/"
START = f"{LIST}start/"


@pytest.fixture
def browser():
    return signed_in("operator")


def make_run():
    return conduct(take(ask_for_run(Request(trigger=Trigger.SYNC))))


def url_of(run):
    return f"{LIST}{run.pk}/change/"


class TestRunList:
    def test_shows_each_run_with_its_counters_as_a_bar_of_kinds(self, browser, upstream):
        upstream.add(1)
        run = make_run()

        response = browser.get(LIST)

        html = page_of(response)
        (shown,) = response.context["rows"]
        assert url_of(run) in html
        assert shown.total == run.result.totalPhasesProcessed > 0
        assert sum(float(part.width[:-1]) for part in shown.parts) == pytest.approx(
            100, 0.1
        )
        assert f"{run.upcoming_phases_scheduled} scheduled" in html

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"trigger": "sync"}, 1),
            ({"trigger": "manual"}, 0),
            ({"status": "COMPLETED"}, 1),
            ({"status": HOSTILE}, 0),
        ],
    )
    def test_filters(self, browser, query, found):
        make_run()

        response = browser.get(LIST, query)

        page_of(response)
        assert len(response.context["rows"]) == found

    def test_says_that_there_is_none(self, browser):
        assert "No run matches" in page_of(browser.get(LIST))

    def test_has_no_buttons_for_a_viewer(self):
        assert START not in page_of(signed_in("viewer").get(LIST))

    def test_asks_the_same_number_of_queries_for_any_number(self, browser):
        make_run()
        browser.get(LIST)
        with CaptureQueriesContext(connection) as few:
            browser.get(LIST)
        for _ in range(5):
            make_run()

        with CaptureQueriesContext(connection) as many:
            browser.get(LIST)

        assert len(many) == len(few)


class TestRunPage:
    def test_tells_what_it_changed_and_why(self, browser, upstream):
        upstream.add(1)
        run = make_run()

        response = browser.get(url_of(run))

        html = page_of(response)
        made = ScheduledTransition.objects.all()
        assert made
        assert all(job.job_id in html for job in made)
        assert len(response.context["rows"]) == run.upcoming_phases_scheduled
        assert "Recovery scheduled END of" in html

    def test_filters_by_decision_and_phase(self, browser, upstream):
        upstream.add(1)
        run = make_run()
        job = ScheduledTransition.objects.first()

        def found(**query):
            return len(browser.get(url_of(run), query).context["rows"])

        assert found(action="transition.cancelled") == 0
        assert found(phaseId=job.phase_id) == (
            ScheduledTransition.objects.filter(phase_id=job.phase_id).count()
        )
        assert "Phase id " in page_of(browser.get(url_of(run), {"phaseId": HOSTILE}))

    def test_tells_what_stood_in_the_way_with_texts_inert(self, browser):
        run = make_run()
        run.errors = [{"phaseId": HOSTILE, "reason": HOSTILE}]
        run.actor = HOSTILE
        run.save()

        for url in (LIST, url_of(run)):
            assert "&lt;script&gt;" in page_of(browser.get(url))

    def test_keeps_itself_up_to_date_while_the_run_is_open(self, browser):
        run = ask_for_run(Request(trigger=Trigger.SYNC))
        waiting = page_of(browser.get(url_of(run)))
        conduct(take(run))

        ended = page_of(browser.get(url_of(run)))

        assert "every 2s" in waiting
        assert "waits for a cluster" in waiting
        assert "every 2s" not in ended

    @pytest.mark.parametrize("key", ["0", "x", "9" * 30])
    def test_says_that_there_is_none(self, browser, key):
        assert browser.get(f"{LIST}{key}/change/").status_code == 404


class TestStartRun:
    def test_shows_what_a_run_would_do_now_and_changes_nothing(self, browser, upstream):
        upstream.add(1)

        response = browser.post(START, {"look": "yes"})

        html = page_of(response)
        count = response.context["plan_count"]
        assert count > 0
        assert f"A run would change {count} transition" in html
        assert "would be scheduled" in html
        assert not ScheduledTransition.objects.exists()
        run = RecoveryRun.objects.get()
        assert (run.dry_run, run.actor) == (True, "user:operator-1")

    def test_says_that_a_run_would_change_nothing(self, browser, upstream):
        html = page_of(browser.post(START, {"look": "yes"}))

        assert "A run would change nothing now" in html

    def test_a_look_ends_in_time(self, browser, upstream, monkeypatch):
        monkeypatch.setattr(start_page, "LOOK_SECONDS", -1.0)
        upstream.add(1)

        html = page_of(browser.post(START, {"look": "yes"}))

        assert "The look came to nothing" in html
        assert RecoveryRun.objects.get().status == "FAILED"

    def test_starts_a_run_that_a_cluster_carries_out(self, browser):
        html = page_of(
            browser.post(START, {"start": "yes", "project_id": "7"}, follow=True)
        )

        run = RecoveryRun.objects.get()
        assert (run.status, run.project_id, run.dry_run) == ("NOT_STARTED", "7", False)
        assert "waits for a cluster" in html

    @pytest.mark.parametrize("button", ["look", "start"])
    def test_leads_to_the_run_that_is_in_progress(self, browser, button):
        run = ask_for_run(Request(trigger=Trigger.SYNC))

        response = browser.post(START, {button: "yes"})

        assert response.headers["Location"] == url_of(run)
        assert RecoveryRun.objects.count() == 1

    @pytest.mark.parametrize(
        ("form", "told"),
        [
            ({"start": "yes", "project_id": HOSTILE}, "project id: "),
            ({"start": "yes", "project_id": "\x00"}, "project id: "),
            ({}, "button: "),
        ],
    )
    def test_says_what_is_wrong(self, browser, form, told):
        html = page_of(browser.post(START, form), status=400)

        assert told in html
        assert not RecoveryRun.objects.exists()

    def test_says_that_recovery_is_disabled(self, browser, recovery_settings):
        recovery_settings(enabled=False)

        html = page_of(browser.post(START, {"start": "yes"}, follow=True))

        assert "Recovery is disabled" in html

    @pytest.mark.parametrize("method", ["get", "post"])
    def test_refuses_a_viewer(self, method):
        response = getattr(signed_in("viewer"), method)(START, {"start": "yes"})

        assert response.status_code == 403
        assert not RecoveryRun.objects.exists()
        assert AuditEntry.objects.filter(action="access.refused").exists()
