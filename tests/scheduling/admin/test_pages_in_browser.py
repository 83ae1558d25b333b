"""Moving a challenge, and adjusting the schedule, in a real browser under our policy."""

import json
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from tests.support.browser import CHROMIUM, visit
from tests.support.challenges import make_challenge
from tests.support.web import web_process

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(150),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]
PASSWORD = "a-secret-for-tests"  # noqa: S105 -- opens nothing


@pytest.fixture
def challenge(db, now):
    return make_challenge(now)


@pytest.fixture
def server(challenge, process_environment, settings, tmp_path):
    """Return the port of a web process with production settings, and its one user."""
    # The process has the product's hashers, not the cheap one of tests.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    user = get_user_model().objects.create_user("olivia", password=PASSWORD)
    user.groups.add(Group.objects.get(name="operator"))
    with web_process(process_environment, log_path=tmp_path / "web.log") as (_, port):
        yield port


def due(phase_id, state="END"):
    live = ScheduledTransition.objects.live()
    return live.get(phase_id=phase_id, state=state).due_at


def faults(browser):
    """Return all that is wrong with the page that stands there."""
    return [*browser.complaints, *browser.grave_faults()] + (
        ["too wide"] if browser.is_too_wide() else []
    )


def test_a_phase_and_what_follows_is_moved_by_an_hour(server, challenge):
    before = due("103")
    path = f"/admin/scheduling/challenge/{challenge.pk}/change/"

    def move(browser):
        page, found = browser.page, {}
        browser.sign_in("olivia", PASSWORD)
        browser.complaints.clear()
        browser.go(path)
        found["challenge"] = faults(browser)
        page.click("a[aria-label='Move from Submission on']")
        page.fill("#by", "1h")
        page.click("text=Show what would change")
        found["ghosts"] = page.locator(".gantt-moved").count()
        found["plan"] = faults(browser)
        page.fill("#reason", "two judges are ill")
        page.click("text=Move 4 transitions")
        page.wait_for_selector("text=What was done")
        found["done"] = faults(browser)
        return found

    def look(browser):
        browser.sign_in("olivia", PASSWORD)
        browser.complaints.clear()
        browser.go(path)
        return faults(browser), browser.page.locator("text=upstream still says").count()

    found = visit(server, move, scheme="dark")
    on_a_phone = visit(server, look, width=380)

    assert found == {"challenge": [], "ghosts": 2, "plan": [], "done": []}
    assert on_a_phone == ([], 4)
    assert due("103") == before + timedelta(hours=1)
    told = AuditEntry.objects.filter(action="transition.updated")
    assert {entry.reason for entry in told} == {"two judges are ill"}


def test_the_schedule_is_adjusted_by_a_pasted_document(server, challenge):
    at = due("102") + timedelta(minutes=30)
    document = [{"projectId": 77, "phaseId": 102, "newEndTime": format_instant(at)}]

    def work(browser):
        page, found = browser.page, {}
        browser.sign_in("olivia", PASSWORD)
        browser.complaints.clear()
        browser.go("/admin/schedule-adjustment/")
        found["form"] = faults(browser)
        page.fill("#document", json.dumps(document))
        page.click("text=Show what would change")
        page.wait_for_selector("text=There is nothing to confirm")
        found["refused"] = faults(browser)
        page.check("input[value=shift]")
        page.click("text=Show what would change")
        page.fill("#reason", "the venue is late")
        page.click("text=Change 3 transitions")
        page.wait_for_selector("text=What was done")
        found["done"] = faults(browser)
        return found

    found = visit(server, work)

    assert found == {"form": [], "refused": [], "done": []}
    assert due("102") == at
