"""The admin in a real browser, against gunicorn with production's settings and policy."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.schedule import schedule_transition
from tests.support.browser import CHROMIUM, browser
from tests.support.web import web_process

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.timeout(240),
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason="there is no chromium: apt-get install chromium"
    ),
]

PASSWORD = "a-secret-for-tests"  # noqa: S105 -- opens nothing
JOBS = "/admin/scheduling/scheduledtransition/"
SCRIPT = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


@pytest.fixture
def address(process_environment, settings, tmp_path, monkeypatch):
    """Return the address of a web process."""
    # Playwright's loop runs in this thread, which asks the database between its steps.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    for role in ("viewer", "operator", "admin"):
        user = get_user_model().objects.create_user(role, password=PASSWORD)
        user.groups.add(Group.objects.get(name=role))
    with web_process(process_environment, log_path=tmp_path / "web.log") as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def visit():
    """Return what opens a visitor."""
    with browser() as visit:
        yield visit


@pytest.fixture
def make_job(operator, phase_data, now):
    """Return a maker of jobs, due in some hours, put into the status asked for."""
    made = iter(range(1, 1_000))

    def make(status="scheduled", **fields):
        number = next(made)
        data = phase_data(
            projectId=7_000 + number, phaseId=number, due_in=7_200 + 60 * number, **fields
        )
        job = schedule_transition(data, actor=operator, now=now).job
        columns = {"status": status}
        if status != "scheduled":
            columns |= {"finalized_at": now, "due_at": now - timedelta(hours=1)}
        ScheduledTransition.objects.filter(pk=job.pk).update(**columns)
        job.refresh_from_db()
        return job

    return make


class TestEveryRole:
    @pytest.mark.long
    def test_walks_every_page_without_a_complaint(self, address, visit, make_job):
        job = make_job()
        make_job("failed")
        make_job("expired", phaseTypeName=SCRIPT)
        looks = [("viewer", False, 1280), ("operator", True, 380), ("admin", False, 380)]
        for role, is_dark, width in looks:
            visitor = visit(address, is_dark=is_dark, width=width)
            visitor.sign_in(role, PASSWORD)
            pages = visitor.links("#nav-sidebar-apps a")
            assert JOBS in pages
            pages += [
                f"{JOBS}job/{job.job_id}/",
                f"{JOBS}?status__exact=failed",
                f"{JOBS}?q=nothing-has-this",
            ]
            if role != "viewer":
                pages += [
                    f"{JOBS}override/?action=reschedule&_selected_action={job.pk}",
                    f"{JOBS}schedule/",
                ]
            for page in dict.fromkeys(pages):
                visitor.open(page)
                visitor.examine()
                # Nothing is wider than the phone.
                wide = visitor.page.evaluate(
                    "document.documentElement.scrollWidth - innerWidth"
                )
                assert wide <= 0, (page, width, wide)

            assert visitor.complaints == []

    def test_is_offered_what_the_role_allows(self, address, visit, make_job):
        job = make_job()
        visitor = visit(address)
        visitor.sign_in("viewer", PASSWORD)

        for page in ("/admin/", JOBS, f"{JOBS}job/{job.job_id}/"):
            visitor.open(page)
            assert "override/" not in visitor.page.content()

        assert visitor.page.query_selector('a[href="/admin/auth/user/"]') is None
        assert visitor.complaints == []


class TestOperator:
    def test_does_each_override_in_the_browser(self, address, visit, make_job):
        visitor = visit(address)
        page = visitor.page
        visitor.sign_in("operator", PASSWORD)

        # From the job's page, by its button.
        job = make_job()
        visitor.open(f"{JOBS}job/{job.job_id}/")
        page.click("text=Reschedule this transition")
        page.fill("[name=end_time]", "+1h")
        page.click("text=Show what will change")
        page.wait_for_selector("text=1 h later")
        page.wait_for_function("document.activeElement.name === 'reason'")
        page.keyboard.type("customer asked for an hour")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=1 rescheduled")
        page.reload()
        page.wait_for_selector("text=1 rescheduled")
        page.go_back()
        page.wait_for_selector("text=None of the chosen transitions can be changed so")
        job.refresh_from_db()
        moved = ScheduledTransition.objects.get(job_id=job.replaced_by)
        assert moved.due_at - job.due_at == timedelta(hours=1)

        # From the list, a selection.
        chosen = [make_job(), make_job()]
        visitor.open(JOBS)
        for one in chosen:
            page.check(f'input[name=_selected_action][value="{one.pk}"]')
        page.click('button[name=action][value="cancel"]')
        page.wait_for_selector("text=Cancel 2 transitions")
        visitor.examine()
        page.fill("[name=reason]", SCRIPT)
        page.click("[name=confirm]")
        page.wait_for_selector("text=2 cancelled")
        visitor.examine()
        assert {ScheduledTransition.objects.get(pk=one.pk).status for one in chosen} == {
            "cancelled"
        }

        # Undone by the link beside it.
        page.click("text=Schedule again >> nth=0")
        page.fill("[name=end_time]", "+3h")
        page.click("text=Show what will change")
        page.wait_for_selector("text=3 h from now")
        page.fill("[name=reason]", "was wrong")
        page.click("[name=confirm]")
        page.wait_for_selector("text=1 scheduled again")

        assert visitor.complaints == []

    def test_does_one_thing_once(self, address, visit, make_job):
        visitor = visit(address)
        page = visitor.page
        visitor.sign_in("operator", PASSWORD)
        moved = make_job()

        # From the row's menu.
        failed = make_job("failed")
        visitor.open(f"{JOBS}?q={failed.job_id}")
        page.click(".ap-menu-open")
        page.click("[popover] >> text=Retry this transition")
        page.fill("[name=reason]", "broker is back")
        page.dblclick("[name=confirm]")
        page.wait_for_selector("text=1 retried")
        retries = AuditEntry.objects.filter(action="transition.retried")
        assert retries.count() == 1

        # By address.
        visitor.open(f"{JOBS}override/?action=run_now&_selected_action={moved.pk}")
        page.fill("[name=reason]", "now please")
        page.click("[name=confirm]")
        page.wait_for_selector("text=1 put to run now")
        page.go_back()
        page.wait_for_selector("text=somebody ran it already")
        assert page.query_selector("[name=confirm]") is None

        # By the form.
        visitor.open(f"{JOBS}schedule/")
        for name, value in {
            "project_id": "4711",
            "phase_id": "12",
            "phase_type_name": SCRIPT,
            "project_status": "ACTIVE",
            "end_time": "+2h",
        }.items():
            page.fill(f"[name={name}]", value)
        page.click("[name=preview]")
        page.wait_for_selector("text=What will happen")
        visitor.examine()
        page.fill("[name=reason]", SCRIPT)
        page.click("[name=confirm]")
        page.wait_for_selector("text=Scheduled: the event goes out")
        assert ScheduledTransition.objects.get(project_id="4711").phase_type_name == SCRIPT
        visitor.examine()

        assert visitor.complaints == []


class TestKeyboardAndTime:
    def test_do_not_call_late_what_was_ahead_when_it_was_shown(
        self, address, visit, make_job
    ):
        make_job()
        visitor = visit(address)
        page = visitor.page
        visitor.sign_in("viewer", PASSWORD)
        page.clock.install()
        visitor.open(JOBS)
        page.wait_for_selector(".ap-relative >> text=in 2 h")

        page.clock.fast_forward("03:00:00")

        page.wait_for_selector("text=ago: reload to see")
        assert page.query_selector(".ap-is-late") is None

    def test_lead_where_they_say(self, address, visit, make_job):
        job = make_job()
        visitor = visit(address)
        page = visitor.page
        visitor.sign_in("viewer", PASSWORD)

        page.keyboard.press("g")
        page.keyboard.press("t")
        page.wait_for_url(f"{address}{JOBS}")
        page.keyboard.press("/")
        page.keyboard.type(job.job_id)
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"\?q="))
        page.wait_for_load_state("load")
        page.keyboard.press("g")
        page.keyboard.press("h")
        page.wait_for_url(f"{address}/admin/")
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open] >> text=search by any id")
        page.keyboard.press("Escape")

        assert page.query_selector("dialog[open]") is None
        assert page.query_selector("time.ap-instant").get_attribute("title")
        assert visitor.complaints == []

    def test_home_says_since_when_there_is_no_answer(self, address, visit):
        visitor = visit(address)
        page = visitor.page
        visitor.sign_in("viewer", PASSWORD)

        with page.expect_response(re.compile("/admin/home/")):
            pass
        page.route("**/admin/home/", lambda route: route.abort())
        page.wait_for_selector("text=No answer since", timeout=15_000)
        page.unroute("**/admin/home/")

        page.wait_for_function(
            "document.getElementById('ap-no-answer').textContent === ''", timeout=15_000
        )
