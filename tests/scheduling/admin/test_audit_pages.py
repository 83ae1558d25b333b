"""The audit in the admin: searched, filtered, told in prose, exported, never changed."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from tests.support.admin_client import HOSTILE, page_of, signed_in
from tests.support.challenges import make_challenge

pytestmark = pytest.mark.django_db
AUDIT = "/admin/scheduling/auditentry/"


@pytest.fixture
def browser():
    return signed_in("viewer")


@pytest.fixture
def cancelled(now, operator):
    """Return a job of a challenge that olivia cancelled."""
    make_challenge(now)
    job = ScheduledTransition.objects.live().get(phase_id="103", state="END")
    return cancel_transition(
        job_id=job.job_id, actor=operator, reason="customer asked", now=now
    )


def lines(response):
    return [told.line for told in response.context["rows"]]


class TestAuditList:
    def test_tells_each_entry_in_prose_and_what_lies_behind_it(self, browser, cancelled):
        response = browser.get(AUDIT, {"action": "transition.cancelled"})

        html = page_of(response)
        line = f"olivia cancelled END of Review ({cancelled.job_id}): customer asked"
        assert lines(response) == [line]
        assert "transition.cancelled" in html
        assert "user:olivia" in html

    @pytest.mark.parametrize(
        "query",
        [
            {"actor": "olivia"},
            {"actor": "user:olivia"},
            {"action": "transition.cancelled"},
            {"search": "olivia"},
            {"search": "customer ASKED"},
            {"search": "77", "action": "transition.cancelled"},
            {"challengeId": "900", "actor": "olivia"},
            {"projectId": "77", "action": "transition.cancelled"},
        ],
    )
    def test_finds_it_by(self, browser, cancelled, query):
        assert len(lines(browser.get(AUDIT, query))) == 1

    def test_finds_a_job_s_history(self, browser, cancelled):
        by_search = lines(browser.get(AUDIT, {"search": cancelled.job_id}))
        by_filter = lines(browser.get(AUDIT, {"jobId": cancelled.job_id}))

        assert by_search == by_filter
        assert len(by_filter) == 2

    def test_filters_by_a_span_in_utc(self, browser, cancelled, now):
        def found(**query):
            texts = {
                name: at.astimezone(UTC).isoformat(timespec="seconds").partition("+")[0]
                for name, at in query.items()
            }
            return len(lines(browser.get(AUDIT, {**texts, "actor": "olivia"})))

        minute = timedelta(minutes=1)
        assert found(after=now - minute, before=now + minute) == 1
        assert found(after=now + minute) == found(before=now - minute) == 0

    @pytest.mark.parametrize(
        ("query", "told"),
        [
            ({"search": "x" * 101}, "Search must be at most"),
            ({"search": "\x00"}, "Search "),
            ({"projectId": HOSTILE}, "Project id "),
            ({"challengeId": "1.5"}, "Challenge id "),
            ({"action": "x"}, "action must be an action"),
            ({"after": "yesterday"}, "From, in UTC "),
            ({"jobId": "x" * 200}, "Job id "),
        ],
    )
    def test_says_at_the_field_what_is_wrong(self, browser, cancelled, query, told):
        assert told in page_of(browser.get(AUDIT, query))

    def test_finds_nothing_of_an_unknown_challenge(self, browser, cancelled):
        assert lines(browser.get(AUDIT, {"challengeId": "12"})) == []

    def test_shows_hostile_texts_as_texts(self, browser, now):
        entry = AuditEntry.objects.create(
            at=now,
            action=HOSTILE[:40],
            actor=HOSTILE,
            role="x",
            reason=HOSTILE,
            job_id=HOSTILE.replace("/", ""),
            request_id=HOSTILE[:64],
            changes={HOSTILE: [HOSTILE, {"a": HOSTILE}]},
        )

        for url in (AUDIT, f"{AUDIT}{entry.pk}/change/"):
            assert "&lt;script&gt;" in page_of(browser.get(url))

    def test_turns_its_leaves(self, browser, now):
        AuditEntry.objects.bulk_create(
            AuditEntry(at=now, action="command.done", actor=f"kafka:{n}", role="operator")
            for n in range(120)
        )
        query = {"action": "command.done"}

        pages = [browser.get(AUDIT, {**query, "page": n}) for n in (1, 2, 3)]

        assert [len(lines(page)) for page in pages] == [50, 50, 20]
        assert pages[0].context["count"] == 120
        assert len({line for page in pages for line in lines(page)}) == 120
        assert 'rel="next"' in page_of(pages[1])
        assert 'rel="next"' not in page_of(pages[2])

    def test_asks_the_same_number_of_queries_for_any_number(self, browser, cancelled, now):
        browser.get(AUDIT)
        with CaptureQueriesContext(connection) as few:
            browser.get(AUDIT)
        make_challenge(now, challenge_id="901", project_id="78")

        with CaptureQueriesContext(connection) as many:
            browser.get(AUDIT)

        assert len(many) == len(few)
        assert len(few) <= 8

    def test_sends_what_matches_as_a_file(self, browser, cancelled):
        response = browser.get(AUDIT, {"actor": "olivia", "format": "csv"})

        head, *rows = b"".join(response.streaming_content).decode().splitlines()
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert head.startswith("id,at,action,jobId")
        assert len(rows) == 1
        assert "customer asked" in rows[0]

    def test_sends_no_file_of_a_wrong_filter(self, browser):
        response = browser.get(AUDIT, {"projectId": "x", "format": "csv"})

        assert "Nothing is shown" in page_of(response)


class TestAuditPage:
    def test_shows_all_that_an_entry_holds(self, browser, cancelled):
        entry = AuditEntry.objects.get(action="transition.cancelled")

        html = page_of(browser.get(f"{AUDIT}{entry.pk}/change/"))

        for text in ("customer asked", cancelled.job_id, "scheduled", "cancelled"):
            assert text in html

    @pytest.mark.parametrize("key", ["0", "x", "9" * 30])
    def test_says_that_there_is_none(self, browser, key):
        assert browser.get(f"{AUDIT}{key}/change/").status_code == 404

    @pytest.mark.parametrize("group", ["viewer", "operator", "admin"])
    @pytest.mark.parametrize("verb", ["change", "delete", "history"])
    def test_changes_nothing_for_anybody(self, now, group, verb):
        browser = signed_in(group, name="someone")
        entry = AuditEntry.objects.create(
            at=datetime.now(UTC), action="command.done", actor="kafka:x", role="operator"
        )

        response = browser.post(
            f"{AUDIT}{entry.pk}/{verb}/", {"reason": "x", "post": "yes"}
        )

        assert response.status_code == 403
        assert AuditEntry.objects.get(pk=entry.pk).reason == ""
