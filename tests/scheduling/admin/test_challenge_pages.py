"""Challenges in the admin: what is seen of them, and how they are moved."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import AuditEntry, Phase, ScheduledTransition
from scheduling.services.cancel import cancel_transition
from tests.support.admin_client import HOSTILE, page_of, signed_in
from tests.support.challenges import make_challenge

pytestmark = pytest.mark.django_db
LIST = "/admin/scheduling/challenge/"


@pytest.fixture
def challenge(now):
    return make_challenge(now)


@pytest.fixture
def browser():
    return signed_in("operator")


def due(phase_id, state):
    live = ScheduledTransition.objects.live()
    return live.get(phase_id=phase_id, state=state).due_at


def row_url(challenge):
    return f"{LIST}{challenge.pk}/change/"


def move_url(challenge, phase_id="102"):
    return reverse("admin:scheduling_challenge_move", args=[challenge.pk, phase_id])


def follow_url(challenge):
    return reverse("admin:scheduling_challenge_follow", args=[challenge.pk])


def confirm(browser, url, *, reason="they asked for it", **fields):
    """Look at the plan, then confirm it."""
    shown = browser.get(url, fields)
    plan = shown.context["plan"].fingerprint
    return browser.post(url, {**fields, "plan": plan, "reason": reason, "confirm": "yes"})


class TestChallengeList:
    def test_shows_each_with_what_it_waits_for(self, browser, challenge):
        html = page_of(browser.get(LIST))

        assert "Lamp" in html
        assert row_url(challenge) in html
        (row,) = browser.get(LIST).context["rows"]
        assert row.live_jobs == 5
        assert row.next_due_at == due("101", "END")

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"challengeId": "900"}, 1),
            ({"challengeId": "901"}, 0),
            ({"projectId": "77", "status": "ACTIVE"}, 1),
            ({"status": "DRAFT"}, 0),
            ({"page": "9" * 30}, 1),
            ({"page": "-1"}, 1),
        ],
    )
    def test_filters(self, browser, challenge, query, found):
        assert len(browser.get(LIST, query).context["rows"]) == found

    @pytest.mark.parametrize("query", [{"challengeId": HOSTILE}, {"projectId": "\x00"}])
    def test_says_at_the_field_what_is_wrong(self, browser, challenge, query):
        html = page_of(browser.get(LIST, query))

        assert "Nothing is shown" in html

    def test_says_what_to_do_where_there_is_none(self, browser):
        assert "once upstream has told of them" in page_of(browser.get(LIST))

    def test_asks_the_same_number_of_queries_for_any_number(self, browser, now, challenge):
        browser.get(LIST)
        with CaptureQueriesContext(connection) as one:
            browser.get(LIST)
        for number in range(5):
            make_challenge(now, challenge_id=str(910 + number), project_id=str(number + 1))

        with CaptureQueriesContext(connection) as many:
            browser.get(LIST)

        assert len(many) == len(one)


class TestChallengePage:
    def test_shows_a_picture_the_same_as_a_table_and_all_jobs(self, browser, challenge):
        html = page_of(browser.get(row_url(challenge)))

        assert html.count('class="gantt-row"') == 3
        assert html.count('class="gantt-arrow"') == 2
        for job in ScheduledTransition.objects.all():
            assert job.job_id in html
        assert "Move from here" in html
        assert "upstream still says" not in html

    def test_tells_what_was_moved_and_cancelled_by_hand(
        self, browser, challenge, operator, now
    ):
        confirm(browser, move_url(challenge, "103"), by="1h")
        job = ScheduledTransition.objects.live().get(phase_id="102", state="END")
        cancel_transition(job_id=job.job_id, actor=operator, reason=HOSTILE, now=now)

        html = page_of(browser.get(row_url(challenge)))

        assert html.count("upstream still says") == 3
        assert "moved by hand from" in html
        assert "by operator-1" in html
        assert "cancelled by olivia" in html
        assert follow_url(challenge) in html

    def test_shows_hostile_texts_as_texts(self, browser, now):
        phases = (("1", HOSTILE, -1, 1, ""), ("2", HOSTILE, 1, 2, "1"))
        challenge = make_challenge(now, phases=phases, name=HOSTILE)
        Phase.objects.update(name=HOSTILE)

        for url in (LIST, row_url(challenge), move_url(challenge, "2")):
            assert "&lt;script&gt;" in page_of(browser.get(url))

    def test_has_no_buttons_for_a_viewer(self, challenge):
        html = page_of(signed_in("viewer").get(row_url(challenge)))

        assert "Move from here" not in html
        assert "Registration" in html

    @pytest.mark.parametrize("key", ["0", "abc", "9" * 30, "1 OR 1=1"])
    def test_says_that_there_is_none(self, browser, key):
        assert browser.get(f"{LIST}{key}/change/").status_code == 404

    def test_asks_the_same_number_of_queries_for_any_number_of_phases(self, browser, now):
        few = make_challenge(now)
        many = make_challenge(
            now,
            challenge_id="901",
            project_id="78",
            phases=[(str(n), f"P{n}", n, n + 1, str(n - 1)) for n in range(1, 30)],
        )
        browser.get(row_url(few))
        with CaptureQueriesContext(connection) as one:
            browser.get(row_url(few))

        with CaptureQueriesContext(connection) as more:
            browser.get(row_url(many))

        assert len(more) == len(one)
        assert len(one) <= 9


class TestMoveFromHere:
    def test_shows_first_what_would_change_and_changes_nothing(self, browser, challenge):
        before = list(ScheduledTransition.objects.values())

        html = page_of(browser.get(move_url(challenge), {"by": "+1h"}))

        assert "Understood: 1 h later" in html
        assert "Move 4 transitions" in html
        assert html.count('class="gantt-moved"') == 2
        assert list(ScheduledTransition.objects.values()) == before

    def test_moves_the_phase_and_all_that_follow_it(self, browser, challenge):
        ends = [due(phase, state) for phase in ("102", "103") for state in ("START", "END")]
        untouched = due("101", "END")

        html = page_of(confirm(browser, move_url(challenge), by="1h"))

        assert "What was done" in html
        assert [
            due(phase, state) for phase in ("102", "103") for state in ("START", "END")
        ] == [at + timedelta(hours=1) for at in ends]
        assert due("101", "END") == untouched
        told = AuditEntry.objects.filter(action="transition.updated")
        assert {(one.actor, one.reason) for one in told} == {
            ("user:operator-1", "they asked for it")
        }

    def test_a_second_click_has_no_second_effect(self, browser, challenge):
        url = move_url(challenge)
        plan = browser.get(url, {"by": "1h"}).context["plan"].fingerprint
        form = {"by": "1h", "plan": plan, "reason": "once", "confirm": "yes"}
        browser.post(url, form)
        after_one = due("103", "END")

        html = page_of(browser.post(url, form), status=409)

        assert "changed meanwhile" in html
        assert due("103", "END") == after_one

    def test_refuses_to_move_what_would_be_past(self, browser, challenge):
        html = page_of(browser.get(move_url(challenge), {"by": "-2h"}))

        assert "is in the past" in html
        assert "There is nothing to confirm" in html

    @pytest.mark.parametrize("by", ["soon", HOSTILE, "1" * 90 + "h", "0h"])
    def test_says_what_is_wrong_with_an_amount(self, browser, challenge, by):
        html = page_of(browser.get(move_url(challenge), {"by": by}))

        assert "amount: must be" in html

    @pytest.mark.parametrize("reason", ["", "   ", "x" * 2_001])
    def test_demands_a_reason(self, browser, challenge, reason):
        before = due("103", "END")

        response = confirm(browser, move_url(challenge), reason=reason, by="1h")

        assert "reason: " in page_of(response, status=400)
        assert due("103", "END") == before

    def test_leaves_out_what_upstream_shows_as_done(self, browser, challenge, now):
        Phase.objects.filter(phase_id="102").update(actual_start_at=now)

        plan = browser.get(move_url(challenge), {"by": "1h"}).context["plan"]

        assert [(move.phase_id, move.state) for move in plan.moves] == [
            ("102", "END"),
            ("103", "START"),
            ("103", "END"),
        ]

    @pytest.mark.parametrize("method", ["get", "post"])
    def test_refuses_a_viewer_and_tells_the_audit(self, challenge, method):
        browser = signed_in("viewer")

        response = getattr(browser, method)(move_url(challenge), {"by": "1h"})

        assert response.status_code == 403
        assert AuditEntry.objects.filter(action="access.refused").count() == 1

    def test_refuses_a_forged_form(self, challenge):
        browser = signed_in("operator")
        browser.handler.enforce_csrf_checks = True

        response = browser.post(move_url(challenge), {"by": "1h", "confirm": "yes"})

        assert response.status_code == 403

    @pytest.mark.parametrize("phase_id", ["999", "abc"])
    def test_knows_the_challenge_s_own_phases_only(self, browser, challenge, phase_id):
        assert browser.get(move_url(challenge, phase_id)).status_code == 404


class TestFollowUpstream:
    def test_moves_back_what_was_moved_and_makes_again_what_was_cancelled(
        self, browser, challenge, operator, now
    ):
        upstream = {one: due("103", one) for one in ("START", "END")}
        confirm(browser, move_url(challenge, "103"), by="1h")
        job = ScheduledTransition.objects.live().get(phase_id="103", state="END")
        cancel_transition(job_id=job.job_id, actor=operator, reason="no", now=now)

        html = page_of(confirm(browser, follow_url(challenge)))

        assert "What was done" in html
        assert {one: due("103", one) for one in ("START", "END")} == upstream
        assert "upstream still says" not in page_of(browser.get(row_url(challenge)))

    def test_takes_those_that_are_chosen(self, browser, challenge):
        moved = due("103", "END") + timedelta(hours=1)
        confirm(browser, move_url(challenge, "103"), by="1h")

        confirm(browser, follow_url(challenge), transition="103:START")

        assert due("103", "END") == moved
        assert due("103", "START") == moved - timedelta(hours=3)

    def test_says_that_all_is_as_upstream_wants_it(self, browser, challenge):
        assert "Everything is as upstream" in page_of(browser.get(follow_url(challenge)))

    def test_refuses_a_viewer(self, challenge):
        assert signed_in("viewer").get(follow_url(challenge)).status_code == 403


def test_a_cancelled_status_is_a_word_too(challenge, browser):
    ScheduledTransition.objects.filter(phase_id="103", state="END").update(
        status=TransitionStatus.FAILED, finalized_at=challenge.read_at
    )

    assert "END failed, due" in page_of(browser.get(row_url(challenge)))
