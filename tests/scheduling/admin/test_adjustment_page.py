"""The schedule changed by a document, in the admin."""

import json
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from tests.support.admin_client import HOSTILE, page_of, signed_in
from tests.support.challenges import make_challenge

pytestmark = pytest.mark.django_db
URL = "/admin/schedule-adjustment/"


@pytest.fixture
def browser():
    return signed_in("operator")


@pytest.fixture(autouse=True)
def challenge(now):
    return make_challenge(now)


def job_of(phase_id, state="END"):
    return ScheduledTransition.objects.live().get(phase_id=phase_id, state=state)


def change(phase_id="102", *, by=timedelta(minutes=30), **fields):
    at = format_instant(job_of(phase_id).due_at + by)
    return {"projectId": 77, "phaseId": int(phase_id), "newEndTime": at, **fields}


def look(browser, document, *, on_conflict="reject", **fields):
    text = document if isinstance(document, str) else json.dumps(document)
    form = {"document": text, "on_conflict": on_conflict, "atomic": "yes", **fields}
    return browser.post(URL, form)


def confirm(browser, document, *, reason="the venue is late", **fields):
    plan = look(browser, document, **fields).context["plan"]
    return look(
        browser, document, plan=plan.fingerprint, reason=reason, confirm="yes", **fields
    )


class TestScheduleAdjustment:
    def test_shows_a_form_with_an_example(self, browser):
        html = page_of(browser.get(URL))

        assert "newEndTime" in html
        assert "Show what would change" in html

    def test_shows_the_plan_of_a_list_and_changes_nothing(self, browser):
        before = list(ScheduledTransition.objects.values())

        html = page_of(look(browser, [change(by=timedelta(minutes=-30))]))

        assert "Change 1 transition" in html
        assert list(ScheduledTransition.objects.values()) == before

    def test_takes_a_whole_body_of_the_api_and_an_upload(self, browser):
        body = {"changes": [change()], "updateReason": "x", "onConflict": "skip"}
        content = b"\xef\xbb\xbf" + json.dumps(body).encode()
        upload = SimpleUploadedFile("changes.json", content)

        response = look(browser, "", on_conflict="shift", file=upload)

        page_of(response)
        assert response.context["plan"].count == 3
        assert json.loads(response.context["document"]) == body

    def test_tells_conflicts_in_words_and_what_each_choice_would_do(self, browser):
        response = look(browser, [change()])

        html = page_of(response)
        assert "would come before the END of its predecessor" in html
        assert "There is nothing to confirm" in html
        assert [outcome for _, outcome in response.context["other_choices"]] == [
            "nothing would change, with 1 conflict",
            "nothing would change, with 1 conflict",
            "3 transitions would change, with 1 conflict",
        ]

    def test_carries_out_what_was_chosen_with_its_reason(self, browser):
        ends = {one: job_of(one).due_at for one in ("102", "103")}

        html = page_of(confirm(browser, [change()], on_conflict="shift"))

        assert "What was done" in html
        later = timedelta(minutes=30)
        assert {one: job_of(one).due_at for one in ends} == {
            one: at + later for one, at in ends.items()
        }
        told = AuditEntry.objects.filter(action="transition.updated")
        assert {one.reason for one in told} == {"the venue is late"}

    def test_does_nothing_where_the_plan_has_changed_meanwhile(self, browser):
        document = [change()]
        plan = look(browser, document, on_conflict="shift").context["plan"]
        confirm(browser, [change("103")])
        before = job_of("102").due_at

        response = look(
            browser,
            document,
            on_conflict="shift",
            plan=plan.fingerprint,
            reason="x",
            confirm="yes",
        )

        assert "changed meanwhile" in page_of(response, status=409)
        assert job_of("102").due_at == before

    @pytest.mark.parametrize(
        ("document", "told"),
        [
            ("", "paste or upload"),
            ("{", "is not JSON"),
            ("[NaN]", "document: "),
            ('{"changes": [], "changes": []}', "document: "),
            ("[" * 100 + "]" * 100, "document: "),
            ('"text"', "changes: must be a list"),
            ('[{"projectId": 77}]', "changes[0].phaseId: is required"),
            (HOSTILE, "is not JSON"),
            (json.dumps([{"projectId": HOSTILE}]), "changes[0].projectId"),
            (json.dumps({"changes": [], HOSTILE: 1}), "is not a known field"),
            (json.dumps([{"a": 1}] * 1_001), "at most 1,000 changes"),
            (" " * (1024 * 1024 + 1), "must be at most"),
        ],
    )
    def test_says_what_is_wrong_with_a_document(self, browser, document, told):
        html = page_of(look(browser, document))

        assert told in html

    def test_refuses_an_unknown_choice(self, browser):
        assert "must be one of" in page_of(look(browser, [change()], on_conflict=HOSTILE))

    @pytest.mark.parametrize("reason", ["", " ", "x" * 2_001])
    def test_demands_a_reason(self, browser, reason):
        before = job_of("103").due_at

        response = confirm(browser, [change("103")], reason=reason)

        assert "reason: " in page_of(response, status=400)
        assert job_of("103").due_at == before

    @pytest.mark.parametrize("method", ["get", "post"])
    def test_is_not_a_viewer_s(self, method):
        browser = signed_in("viewer")

        assert getattr(browser, method)(URL).status_code == 403
        assert URL not in browser.get("/admin/").content.decode()
