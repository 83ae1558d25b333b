"""Moving a challenge, and adjusting the schedule, in a real browser under our policy."""

import json
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from tests.support.browser import CHROMIUM, browser
from tests.support.challenges import make_challenge
from tests.support.web import web_process

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(150),
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason="there is no chromium: apt-get install chromium"
    ),
]
PASSWORD = "a-secret-for-tests"  # noqa: S105 -- opens nothing


@pytest.fixture
def challenge(db, now):
    return make_challenge(now)


@pytest.fixture
def address(challenge, process_environment, settings, tmp_path, monkeypatch):
    """Return the address of a web process with production settings, and its one user."""
    # Playwright's loop runs in this thread, which asks the database after it.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    # The process has the product's hashers, not the cheap one of tests.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    user = get_user_model().objects.create_user("olivia", password=PASSWORD)
    user.groups.add(Group.objects.get(name="operator"))
    with web_process(process_environment, log_path=tmp_path / "web.log") as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def visit():
    """Return what opens a visitor."""
    with browser() as visit:
        yield visit


def due(phase_id, state="END"):
    live = ScheduledTransition.objects.live()
    return live.get(phase_id=phase_id, state=state).due_at


def examine(visitor):
    """Complain of the page that stands there, also where one must scroll sideways."""
    visitor.examine()
    wide = visitor.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if wide > 0:
        visitor.complaints.append(f"{visitor.page.url}: too wide by {wide}")


def test_a_phase_and_what_follows_is_moved_by_an_hour(address, visit, challenge):
    before = due("103")
    path = f"/admin/scheduling/challenge/{challenge.pk}/change/"
    visitor, phone = visit(address, is_dark=True), visit(address, width=380)
    page = visitor.page
    visitor.sign_in("olivia", PASSWORD)

    visitor.open(path)
    examine(visitor)
    page.click("a[aria-label='Move from Submission on']")
    page.fill("#by", "1h")
    page.click("text=Show what would change")
    page.wait_for_selector("text=Understood: 1 h later")
    examine(visitor)
    ghosts = page.locator(".gantt-moved").count()
    page.fill("#reason", "two judges are ill")
    page.click("text=Move 4 transitions")
    page.wait_for_selector("text=What was done")
    examine(visitor)
    phone.sign_in("olivia", PASSWORD)
    phone.open(path)
    examine(phone)

    assert visitor.complaints == phone.complaints == []
    assert ghosts == 2
    assert phone.page.locator("text=upstream still says").count() == 4
    assert due("103") == before + timedelta(hours=1)
    told = AuditEntry.objects.filter(action="transition.updated")
    assert {entry.reason for entry in told} == {"two judges are ill"}


def test_the_schedule_is_adjusted_by_a_pasted_document(address, visit):
    at = due("102") + timedelta(minutes=30)
    document = [{"projectId": 77, "phaseId": 102, "newEndTime": format_instant(at)}]
    visitor = visit(address)
    page = visitor.page
    visitor.sign_in("olivia", PASSWORD)

    visitor.open("/admin/schedule-adjustment/")
    examine(visitor)
    page.fill("#document", json.dumps(document))
    page.click("text=Show what would change")
    page.wait_for_selector("text=There is nothing to confirm")
    examine(visitor)
    page.check("input[value=shift]")
    page.click("text=Show what would change")
    page.fill("#reason", "the venue is late")
    page.click("text=Change 3 transitions")
    page.wait_for_selector("text=What was done")
    examine(visitor)

    assert visitor.complaints == []
    assert due("102") == at
