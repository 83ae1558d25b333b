"""The overrides in the admin: what the page shows, what a POST does, and what not."""

import re
from datetime import timedelta
from threading import Barrier, Thread

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext

from scheduling.admin import override_page
from scheduling.domain.phases import format_instant, parse_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from tests.support.challenges import make_challenge

JOBS = "/admin/scheduling/scheduledtransition/"
PAGE = f"{JOBS}override/"
SCHEDULE = f"{JOBS}schedule/"
# Override, status that allows it, audit action.
CASES = [
    ("cancel", "scheduled", "transition.cancelled"),
    ("cancel", "failed", "transition.cancelled"),
    ("run_now", "scheduled", "transition.run_now"),
    ("run_now", "expired", "transition.run_now"),
    ("retry", "failed", "transition.retried"),
    ("reschedule", "scheduled", "transition.updated"),
    ("schedule", "cancelled", "transition.scheduled"),
]


def fields_of(html):
    """Return the hidden fields of the page's form, as a browser would send them."""
    form = re.split('id="ap-(?:override|schedule)"', html)[1]
    found = {}
    for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form):
        found.setdefault(name, []).append(value)
    return found


def overrides_of(job):
    """Return the audit's actions of a job that persons caused."""
    entries = AuditEntry.objects.filter(job_id=job.job_id, actor__startswith="user:op")
    return [entry.action for entry in entries.order_by("id")]


class TestPage:
    @pytest.mark.parametrize(("action", "status", "_"), CASES)
    def test_shows_what_will_change_and_changes_nothing(
        self, as_role, make_job, action, status, _
    ):
        job = make_job(status)
        before = ScheduledTransition.objects.values().get(), AuditEntry.objects.count()

        query = {"action": action, "_selected_action": job.pk, "end_time": "+1h"}
        response = as_role("operator").get(PAGE, query)

        html = response.content.decode()
        assert response.status_code == 200
        assert 'name="reason"' in html
        assert 'name="confirm"' in html
        assert fields_of(html)["_selected_action"] == [str(job.pk)]
        assert before == (
            ScheduledTransition.objects.values().get(),
            AuditEntry.objects.count(),
        )

    def test_says_what_stays_and_why(self, as_role, make_job):
        job = make_job("completed")

        html = as_role("operator").get(
            PAGE, {"action": "cancel", "_selected_action": job.pk}
        )

        assert "is completed and can&#x27;t be cancelled" in html.content.decode()
        assert 'name="confirm"' not in html.content.decode()

    @pytest.mark.parametrize("text", ["soon", "2026-12-01T10:00:00", "+" + "999999d" * 5])
    def test_says_that_an_instant_is_not_understood(self, as_role, make_job, text):
        query = {
            "action": "reschedule",
            "_selected_action": make_job().pk,
            "end_time": text,
        }

        html = as_role("operator").get(PAGE, query).content.decode()

        assert "The new instant:" in html

    @pytest.mark.parametrize(
        ("text", "told"), [("+1h", "Understood:"), ("", "Say when."), ("soon", "The new")]
    )
    def test_shows_the_plan_before_a_reason_is_given(self, as_role, make_job, text, told):
        fields = {"action": "reschedule", "_selected_action": make_job().pk}

        html = as_role("operator").post(
            PAGE, {**fields, "end_time": text, "preview": "yes", "reason": ""}, follow=True
        )

        assert told in html.content.decode()
        assert "The reason must" not in html.content.decode()

    def test_says_whose_phase_it_is(self, as_role, make_job):
        job = make_job()

        html = as_role("operator").get(
            PAGE, {"action": "cancel", "_selected_action": job.pk}
        )

        assert f"project {job.project_id}" in html.content.decode()

    def test_costs_the_same_queries_however_many_are_chosen(self, as_role, make_job):
        client = as_role("operator")
        keys = [make_job().pk for _ in range(8)]
        query = {"action": "reschedule", "end_time": "+1h"}
        client.get(PAGE, query | {"_selected_action": keys[:1]})
        with CaptureQueriesContext(connection) as few:
            client.get(PAGE, query | {"_selected_action": keys[:1]})

        with CaptureQueriesContext(connection) as many:
            client.get(PAGE, query | {"_selected_action": keys})

        assert len(many) == len(few)

    def test_is_not_there_for_an_unknown_override(self, as_role, make_job):
        query = {"action": "delete", "_selected_action": make_job().pk}

        assert as_role("operator").get(PAGE, query).status_code == 404

    def test_leads_back_where_nothing_is_chosen(self, as_role, db):
        response = as_role("operator").get(PAGE, {"action": "cancel"})

        assert response.status_code == 302
        assert response.headers["Location"] == JOBS


class TestPost:
    @pytest.mark.parametrize("path", [PAGE, JOBS])
    @pytest.mark.parametrize(("action", "status", "audited"), CASES)
    def test_does_it_once_with_the_reason(
        self, as_role, make_job, path, action, status, audited
    ):
        job = make_job(status)
        fields = {
            "action": action,
            "_selected_action": str(job.pk),
            "reason": "customer asked",
            "confirm": "yes",
            "end_time": "+1h",
            "shown_end_time": "+1h",
        }
        client = as_role("operator")

        first = client.post(path, fields, follow=True)
        client.post(path, fields, follow=True)

        assert first.status_code == 200
        entries = AuditEntry.objects.filter(action=audited, actor="user:operator-1")
        (entry,) = entries
        assert entry.reason == "customer asked"
        assert entry.role == "operator"
        assert entry.request_id

    @pytest.mark.parametrize("reason", [None, "", "  ", "x" * 2_001, "a\x00b"])
    def test_demands_a_reason_as_the_api_does(self, as_role, make_job, reason):
        job = make_job()
        fields = {"action": "cancel", "_selected_action": job.pk, "confirm": "yes"}
        if reason is not None:
            fields["reason"] = reason

        response = as_role("operator").post(PAGE, fields, follow=True)

        assert "The reason " in response.content.decode()
        job.refresh_from_db()
        assert job.status == "scheduled"

    def test_demands_to_be_confirmed(self, as_role, make_job):
        job = make_job()
        fields = {"action": "cancel", "_selected_action": job.pk, "reason": "over"}

        response = as_role("operator").post(PAGE, fields, follow=True)

        assert "Nothing is done yet" in response.content.decode()
        job.refresh_from_db()
        assert job.status == "scheduled"

    @pytest.mark.parametrize("action", ["schedule", "reschedule"])
    def test_demands_an_instant_where_one_is_needed(self, as_role, make_job, action):
        job = make_job("cancelled" if action == "schedule" else "scheduled")
        fields = {"action": action, "_selected_action": job.pk, "reason": "over"}

        response = as_role("operator").post(PAGE, {**fields, "confirm": "yes"}, follow=True)

        assert "Say when." in response.content.decode()
        assert ScheduledTransition.objects.count() == 1

    @pytest.mark.parametrize("action", ["schedule", "reschedule"])
    @pytest.mark.parametrize("shown", ["", "+2h"])
    def test_moves_nothing_to_an_instant_that_it_did_not_show(
        self, as_role, make_job, action, shown
    ):
        job = make_job("cancelled" if action == "schedule" else "scheduled")
        fields = {"action": action, "_selected_action": job.pk, "reason": "late"}
        sent = {**fields, "end_time": "+1h", "shown_end_time": shown, "confirm": "yes"}
        client = as_role("operator")

        html = client.post(PAGE, sent, follow=True).content.decode()

        assert "Nothing is done yet" in html
        assert ScheduledTransition.objects.count() == 1
        shown = fields_of(html)
        end_time = {"end_time": shown["shown_end_time"]}
        client.post(PAGE, {**shown, **end_time, "reason": "late", "confirm": "yes"})
        assert ScheduledTransition.objects.count() == 2

    def test_asks_for_the_plan_before_there_is_a_button_for_the_deed(
        self, as_role, make_job
    ):
        query = {"action": "reschedule", "_selected_action": make_job().pk}

        html = as_role("operator").get(PAGE, query).content.decode()

        assert 'name="preview"' in html
        assert 'name="confirm"' not in html

    @pytest.mark.parametrize(
        "action", ["schedule", "reschedule", "cancel", "run_now", "retry"]
    )
    @pytest.mark.parametrize("path", [PAGE, JOBS])
    def test_refuses_a_viewer_and_tells_the_audit(self, as_role, make_job, action, path):
        job = make_job()
        client = as_role("viewer")
        fields = {"action": action, "_selected_action": job.pk, "reason": "x"}

        response = client.post(
            path, {**fields, "confirm": "yes", "end_time": "+1h"}, follow=True
        )

        assert response.status_code == 403
        assert AuditEntry.objects.last().action == "access.refused"
        job.refresh_from_db()
        assert job.status == "scheduled"
        assert client.get(PAGE, fields).status_code == 403

    def test_refuses_a_form_of_somebody_else(self, as_role, make_job):
        client = as_role("operator")
        client.handler.enforce_csrf_checks = True
        job = make_job()

        response = client.post(
            PAGE, {"action": "cancel", "_selected_action": job.pk}, follow=True
        )

        assert response.status_code == 403

    def test_leaves_out_what_changed_since_it_was_shown(
        self, as_role, make_job, operator, now
    ):
        client = as_role("operator")
        stale, fresh = make_job(), make_job()
        query = {"action": "reschedule", "_selected_action": [stale.pk, fresh.pk]}
        page = client.get(PAGE, {**query, "end_time": "+1h"})
        shown = fields_of(page.content.decode()) | {"end_time": "+1h"}
        later = now + timedelta(seconds=1)
        ScheduledTransition.objects.filter(pk=stale.pk).update(updated_at=later)

        response = client.post(
            PAGE, {**shown, "reason": "late", "confirm": "yes"}, follow=True
        )

        assert "it changed meanwhile" in response.content.decode()
        stale.refresh_from_db()
        fresh.refresh_from_db()
        assert (stale.status, fresh.status) == ("scheduled", "cancelled")

    def test_tells_the_second_of_two_operators(self, as_role, make_job, operator, now):
        client = as_role("operator")
        job = make_job()
        query = {"action": "cancel", "_selected_action": job.pk}
        shown = fields_of(client.get(PAGE, query).content.decode())
        later = now + timedelta(seconds=1)
        cancel_transition(job_id=job.job_id, actor=operator, reason="first", now=later)

        response = client.post(
            PAGE, {**shown, "reason": "second", "confirm": "yes"}, follow=True
        )

        html = response.content.decode()
        assert "it changed meanwhile by user:olivia, and is cancelled now" in html
        assert overrides_of(job) == []

    def test_tells_each_row_what_became_of_it(self, as_role, make_job):
        scheduled, completed = make_job(), make_job("completed")
        fields = {
            "action": "cancel",
            "_selected_action": [scheduled.pk, completed.pk, 999_999],
            "reason": "over",
            "confirm": "yes",
        }

        html = as_role("operator").post(PAGE, fields, follow=True).content.decode()

        assert "1 cancelled, 2 not" in html
        assert "is completed and can&#x27;t be cancelled" in html
        assert "there is no such job any more" in html
        assert f"action=schedule&amp;_selected_action={scheduled.pk}" in html

    def test_takes_job_ids_for_keys(self, as_role, make_job):
        job = make_job()
        fields = {"action": "cancel", "_selected_action": job.job_id}

        as_role("operator").post(
            PAGE, {**fields, "reason": "over", "confirm": "yes"}, follow=True
        )

        job.refresh_from_db()
        assert job.status == "cancelled"


class TestAddresses:
    def test_show_the_plan_and_what_was_done_as_often_as_one_looks(self, as_role, make_job):
        client, job = as_role("operator"), make_job()
        fields = {"action": "reschedule", "_selected_action": job.pk, "end_time": "+1h"}

        plan = client.post(PAGE, {**fields, "preview": "yes", "reason": "more time"})
        html = client.get(plan.headers["Location"]).content.decode()
        sent = {**fields_of(html), "end_time": "+1h", "reason": "more time"}
        result = client.post(PAGE, {**sent, "confirm": "yes"})
        shown = [client.get(result.headers["Location"]) for _ in range(2)]

        assert "1 h later" in html
        assert 'value="more time"' in html
        for page in shown:
            assert "1 rescheduled" in page.content.decode()
            assert "Move back" in page.content.decode()
        assert ScheduledTransition.objects.count() == 2

    @pytest.mark.parametrize(
        ("action", "typed", "means"),
        [
            ("reschedule", "14:30", "2030-01-01T14:30:00.000Z"),
            ("schedule", "+1h", "2030-01-01T15:29:50.000Z"),
        ],
    )
    def test_keep_the_instant_that_was_shown_however_long_one_looks(
        self, as_role, make_job, action, typed, means
    ):
        job = make_job("cancelled" if action == "schedule" else "scheduled")
        query = {"action": action, "_selected_action": job.pk, "end_time": typed}
        with time_machine.travel("2030-01-01T14:29:50Z", tick=False):
            shown = fields_of(as_role("operator").get(PAGE, query).content.decode())

        assert shown["shown_end_time"] == [means]

    def test_of_a_result_are_one_s_own_and_end(self, as_role, make_job, monkeypatch):
        monkeypatch.setattr(override_page, "RESULTS_KEPT", 1)
        client = as_role("operator")
        results = [
            client.post(
                PAGE,
                {
                    "action": "cancel",
                    "_selected_action": make_job().pk,
                    "reason": "over",
                    "confirm": "yes",
                },
            ).headers["Location"]
            for _ in range(2)
        ]

        assert client.get(results[0]).headers["Location"].startswith(JOBS)
        assert client.get(results[1]).status_code == 200
        assert as_role("admin").get(results[1]).headers["Location"].startswith(JOBS)

    def test_of_many_jobs_would_be_too_long(self, as_role, make_job, monkeypatch):
        monkeypatch.setattr(override_page, "MOST_IN_ADDRESS", 1)
        keys = [make_job().pk, make_job().pk]
        fields = {"action": "reschedule", "_selected_action": keys, "end_time": "+1h"}

        response = as_role("operator").post(PAGE, {**fields, "preview": "yes"})

        assert "Understood:" in response.content.decode()

    def test_that_schedule_again_offer_the_old_instant(self, as_role, make_job):
        client, job = as_role("operator"), make_job()
        fields = {"action": "cancel", "_selected_action": job.pk, "reason": "over"}
        html = client.post(PAGE, {**fields, "confirm": "yes"}, follow=True).content.decode()
        (url,) = re.findall(r'<a href="([^"]*)">Schedule again</a>', html)

        plan = client.get(url.replace("&amp;", "&")).content.decode()

        assert f'value="{format_instant(job.due_at)}"' in plan
        assert 'name="confirm"' in plan


class TestConflicts:
    """Of Submission (1 h to 3 h from now) with Review (3 h to 5 h), which follows it."""

    @pytest.fixture
    def plan(self, as_role, now):
        """Return what shows the plan for the live jobs of some transitions."""
        make_challenge(now)
        client = as_role("operator")

        def show(*ends, action="reschedule", to="+1h"):
            live = ScheduledTransition.objects.live()
            keys = [live.get(phase_id=one, state=kind).pk for one, kind in ends]
            query = {"action": action, "_selected_action": keys, "end_time": to}
            return client, client.get(PAGE, query).content.decode()

        return show

    @pytest.mark.parametrize(
        ("end", "to", "told"),
        [
            (("102", "END"), "-150min", "Submission (102) would end at"),
            (("102", "END"), "+1h", "before the END of its predecessor Submission"),
            (("103", "START"), "-1min", "before the END of its predecessor Submission"),
        ],
    )
    def test_are_told_with_the_plan(self, plan, end, to, told):
        _, html = plan(end, to=to)

        assert "1 conflict: done all the same" in html
        assert told in html
        assert 'name="confirm"' in html

    def test_are_none_where_all_moves_together(self, plan):
        _, html = plan(("102", "END"), ("103", "START"), ("103", "END"))

        assert 'id="ap-conflicts"' not in html
        assert html.count("1 h later") >= 3

    def test_are_none_of_what_stays(self, plan):
        _, html = plan(("102", "END"), to="2001-01-01T00:00:00Z")

        assert "will stay as it is" in html
        assert 'id="ap-conflicts"' not in html

    def test_lead_to_where_what_follows_is_moved_too(self, plan):
        client, html = plan(("102", "END"))

        (url,) = re.findall(r'<a href="([^"]*/move/102/[^"]*)">', html)
        moved = client.get(url)
        assert moved.context["understood"] == "1 h later"
        assert moved.context["plan"].count == 4

    def test_keep_nobody_from_it(self, plan):
        client, html = plan(("102", "END"))
        fields = fields_of(html) | {"end_time": "+1h", "reason": "asked", "confirm": "yes"}

        answer = client.post(PAGE, fields, follow=True).content.decode()

        assert "1 rescheduled" in answer


class TestAllThatMatch:
    def test_are_counted_first_and_then_done(self, as_role, make_job):
        client = as_role("operator")
        failed = [make_job("failed") for _ in range(3)]
        other = make_job()
        chosen = {
            "action": "cancel",
            "select_across": "1",
            "_selected_action": failed[0].pk,
        }

        leads_to = client.post(f"{JOBS}?status__exact=failed", chosen).headers["Location"]
        html = client.get(leads_to).content.decode()
        client.post(
            PAGE, {**fields_of(html), "reason": "dealt with", "confirm": "yes"}, follow=True
        )

        assert "Cancel 3 transitions" in html
        other.refresh_from_db()
        assert other.status == "scheduled"
        assert set(
            ScheduledTransition.objects.exclude(pk=other.pk).values_list(
                "status", flat=True
            )
        ) == {"cancelled"}

    def test_can_be_done_at_once_from_the_list(self, as_role, make_job):
        failed, other = make_job("failed"), make_job()
        fields = {
            "action": "cancel",
            "select_across": "1",
            "_selected_action": failed.pk,
            "reason": "dealt with",
            "confirm": "yes",
        }

        as_role("operator").post(f"{JOBS}?status__exact=failed", fields)

        failed.refresh_from_db()
        other.refresh_from_db()
        assert (failed.status, other.status) == ("cancelled", "scheduled")

    def test_are_bounded_and_the_rest_is_told(self, as_role, make_job, monkeypatch):
        monkeypatch.setattr(override_page, "MOST_JOBS", 2)
        for _ in range(3):
            make_job()
        query = {"action": "cancel", "select_across": "1", "filters": ""}

        html = as_role("operator").get(PAGE, query).content.decode()

        assert "1 more match" in html
        assert "Cancel 2 transitions" in html

    def test_that_are_not_reached_in_time_are_told(self, as_role, make_job, monkeypatch):
        monkeypatch.setattr(override_page, "LONGEST_SECONDS", -1.0)
        job = make_job()
        fields = {"action": "cancel", "_selected_action": job.pk, "reason": "x"}

        response = as_role("operator").post(PAGE, {**fields, "confirm": "yes"}, follow=True)

        html = response.content.decode()
        assert "not reached in time" in html
        assert "Go on: Cancel this transition" in html
        assert f'name="seen" value="{job.pk}.' in html
        job.refresh_from_db()
        assert job.status == "scheduled"


@pytest.mark.django_db(transaction=True)
class TestTwoAtOnce:
    def test_have_one_effect_and_the_other_is_told(self, as_role, make_job):
        client = as_role("operator")
        job = make_job()
        query = {"action": "cancel", "_selected_action": job.pk}
        shown = fields_of(client.get(PAGE, query).content.decode())
        fields = {**shown, "reason": "both", "confirm": "yes"}
        start, answers = Barrier(2), []

        def press():
            try:
                start.wait(5)
                answers.append(client.post(PAGE, fields, follow=True).content.decode())
            finally:
                connection.close()

        threads = [Thread(target=press) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        assert sorted("it changed meanwhile" in answer for answer in answers) == [
            False,
            True,
        ]
        assert overrides_of(job) == ["transition.cancelled"]


def confirmed(plan, *, reason="asked by phone"):
    """Return the fields of a plan's form as they are sent to carry it out."""
    return fields_of(plan) | {"reason": reason, "confirm": "yes"}


class TestSchedule:
    FIELDS = {
        "action": "schedule",
        "project_id": "77",
        "challenge_id": "",
        "phase_id": "88",
        "phase_type_name": "Review",
        "project_status": "ACTIVE",
        "state": "END",
        "end_time": "+2h",
    }

    @staticmethod
    def start_in_four_hours(now):
        """Return the columns of the same phase's START, later than the END asked for."""
        due_at = now + timedelta(hours=4)
        return {"project_id": "77", "phase_id": "88", "state": "START", "due_at": due_at}

    def test_by_form_is_shown_first_and_then_leads_to_the_job(self, as_role, db):
        client = as_role("operator")

        plan = client.post(SCHEDULE, self.FIELDS, follow=True).content.decode()
        jobs_before = ScheduledTransition.objects.count()
        first = client.post(SCHEDULE, confirmed(plan))
        again = client.post(SCHEDULE, {**self.FIELDS, "end_time": "+3h"})

        assert "END of Review" in plan
        assert "autopilot.phase.transition" in plan
        assert jobs_before == 0
        job = ScheduledTransition.objects.get()
        assert first.headers["Location"] == f"{JOBS}job/{job.job_id}/?done=scheduled"
        assert job.project_id == "77"
        assert job.operator == "operator-1"
        assert AuditEntry.objects.get(job_id=job.job_id).reason == "asked by phone"
        assert "scheduled already" in again.content.decode()

    def test_keeps_the_instant_that_was_shown(self, as_role, db, now):
        client = as_role("operator")
        shown = fields_of(client.post(SCHEDULE, self.FIELDS, follow=True).content.decode())

        assert now < parse_instant(shown["end_time"][0]) < now + timedelta(hours=3)

    def test_does_nothing_that_it_did_not_show(self, as_role, db):
        client = as_role("operator")

        html = client.post(
            SCHEDULE, {**self.FIELDS, "reason": "blind", "confirm": "yes"}
        ).content.decode()

        assert "Nothing is done yet" in html
        assert not ScheduledTransition.objects.exists()

    def test_shows_conflicts_and_lets_a_person_know_better(self, as_role, make_job, now):
        client = as_role("operator")
        make_job(**self.start_in_four_hours(now))

        html = client.post(SCHEDULE, self.FIELDS, follow=True).content.decode()
        done = client.post(SCHEDULE, confirmed(html))

        assert "1 conflict: scheduled all the same" in html
        assert done.status_code == 302
        assert ScheduledTransition.objects.count() == 2

    def test_shows_the_plan_again_where_it_is_another_one_now(self, as_role, make_job, now):
        client = as_role("operator")
        html = client.post(SCHEDULE, self.FIELDS, follow=True).content.decode()
        make_job(**self.start_in_four_hours(now))

        again = client.post(SCHEDULE, confirmed(html)).content.decode()

        assert "Nothing is done yet" in again
        assert "1 conflict" in again
        assert ScheduledTransition.objects.count() == 1

    def test_leads_to_the_job_that_is_there_already(self, as_role, db):
        client = as_role("operator")
        html = client.post(SCHEDULE, self.FIELDS, follow=True).content.decode()

        done = [client.post(SCHEDULE, confirmed(html)) for _ in range(2)]

        job = ScheduledTransition.objects.get()
        assert [answer.headers["Location"].partition("?done=")[2] for answer in done] == [
            "scheduled",
            "stands",
        ]
        assert job.job_id in done[1].headers["Location"]

    def test_can_be_changed_before_it_is_confirmed(self, as_role, db):
        client = as_role("operator")
        plan = client.post(SCHEDULE, self.FIELDS, follow=True).content.decode()

        html = client.post(
            SCHEDULE, {**fields_of(plan), "change": "yes"}, follow=True
        ).content.decode()

        assert 'name="phase_type_name" id="id_phase_type_name" value="Review"' in html
        assert 'name="preview"' in html

    @pytest.mark.parametrize("reason", ["", "  ", "x" * 2_001, "a\x00b"])
    def test_demands_a_reason(self, as_role, db, reason):
        client = as_role("operator")
        html = client.post(SCHEDULE, self.FIELDS, follow=True).content.decode()

        told = client.post(SCHEDULE, confirmed(html, reason=reason)).content.decode()

        assert "The reason " in told
        assert not ScheduledTransition.objects.exists()

    @pytest.mark.parametrize(
        ("field", "value", "told"),
        [
            ("project_id", "x", "Project id"),
            ("project_id", "", "Project id is required"),
            ("phase_type_name", "", "Phase is required"),
            ("state", "MIDDLE", "State must be START or END"),
            ("end_time", "soon", "The due instant"),
            ("end_time", "-1h", "The due instant"),
        ],
    )
    @pytest.mark.parametrize("more", [{}, {"reason": "why", "confirm": "yes"}])
    def test_says_what_is_wrong(self, as_role, db, field, value, told, more):
        response = as_role("operator").post(SCHEDULE, {**self.FIELDS, field: value, **more})

        assert told in response.content.decode()
        assert not ScheduledTransition.objects.exists()

    def test_says_all_that_is_wrong_at_once(self, as_role, db):
        wrong = {"project_id": "x", "phase_id": "-3", "end_time": "soon"}

        html = as_role("operator").post(SCHEDULE, {**self.FIELDS, **wrong}).content.decode()

        for label in ("Project id", "Phase id", "The due instant:"):
            assert f">{label} " in html, label

    def test_says_that_an_instant_is_past_in_the_page_s_words(self, as_role, db, now):
        past = format_instant(now - timedelta(hours=1))

        response = as_role("operator").post(SCHEDULE, {**self.FIELDS, "end_time": past})

        html = response.content.decode()
        assert re.search(
            r"The due instant: \w{3} \d+ \w{3} [\d:.]+ UTC is in the past", html
        )

    def test_is_refused_to_a_viewer(self, as_role, db):
        client = as_role("viewer")

        assert client.get(SCHEDULE).status_code == 403
        assert client.post(SCHEDULE, self.FIELDS, follow=True).status_code == 403
        assert not ScheduledTransition.objects.exists()

    def test_is_where_the_list_leads_without_a_selection(self, as_role, db):
        response = as_role("operator").post(JOBS, {"action": "schedule"})

        assert response.headers["Location"] == SCHEDULE
