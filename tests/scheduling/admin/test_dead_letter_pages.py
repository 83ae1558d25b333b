"""Dead letters in the admin: why they are there, their bytes, replay and discard."""

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from scheduling.domain.errors import ServiceUnavailableError
from scheduling.models import AuditEntry, DeadLetter
from tests.support.admin_client import HOSTILE, page_of, signed_in

pytestmark = pytest.mark.django_db
LIST = "/admin/scheduling/deadletter/"


@pytest.fixture
def browser():
    return signed_in("operator")


@pytest.fixture
def make_letter(now):
    """Return a maker of dead letters."""

    def make(value=b"{oops", **fields):
        number = DeadLetter.objects.count()
        return DeadLetter.objects.create(
            **{
                "cluster_id": "c",
                "topic": "autopilot.command",
                "partition": 0,
                "offset": number,
                "value": value,
                "code": "unusable_message",
                "category": "validation",
                "message": "value: is not JSON: Expecting property name (line 1, column 2)",
                "errors": [{"field": "payload.command", "message": "is required"}],
                "set_aside_at": now - timedelta(minutes=5),
                **fields,
            }
        )

    return make


def url_of(letter, *, then=""):
    return f"{LIST}{letter.pk}/{then or 'change'}/"


class TestDeadLetterList:
    def test_groups_what_waits_by_topic_and_reason(self, browser, make_letter):
        for topic in ("autopilot.command", "autopilot.command", "challenge.x"):
            make_letter(topic=topic)
        make_letter(status="discarded")

        response = browser.get(LIST)

        page_of(response)
        assert response.context["groups"] == [
            ("autopilot.command", "unusable_message", 2),
            ("challenge.x", "unusable_message", 1),
        ]
        assert len(response.context["rows"]) == 4

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"topic": "challenge.x"}, 1),
            ({"status": "discarded"}, 0),
            ({"code": "unusable_message"}, 2),
            ({"topic": HOSTILE}, 0),
        ],
    )
    def test_filters(self, browser, make_letter, query, found):
        make_letter()
        make_letter(topic="challenge.x")

        assert len(browser.get(LIST, query).context["rows"]) == found

    def test_says_that_none_waits(self, browser):
        assert "No dead letter waits for anybody" in page_of(browser.get(LIST))

    def test_reads_no_bytes_and_asks_the_same_number_of_queries(self, browser, make_letter):
        make_letter(value=b"x" * 200_000)
        browser.get(LIST)
        with CaptureQueriesContext(connection) as one:
            browser.get(LIST)
        for _ in range(10):
            make_letter(value=b"x" * 200_000)

        with CaptureQueriesContext(connection) as many:
            browser.get(LIST)

        assert len(many) == len(one)


class TestDeadLetterPage:
    def test_shows_why_and_the_bytes_with_the_place_marked(self, browser, make_letter):
        letter = make_letter(key=b"challenge-9", headers=[["event-id", b"e-1".hex()]])

        html = page_of(browser.get(url_of(letter)))

        assert "challenge-9" in html
        assert "e-1" in html
        assert '{<mark class="ap-mark">o</mark>ops' in html
        assert "00000000  7b 6f 6f 70 73  {oops" in html
        assert "payload.command" in html
        assert "is required" in html

    def test_shows_hostile_texts_as_texts(self, browser, make_letter):
        letter = make_letter(
            value=HOSTILE.encode() + b"\x00\xff",
            key=HOSTILE.encode(),
            headers=[[HOSTILE, HOSTILE.encode().hex()], ["none", None]],
            topic=HOSTILE,
            code=HOSTILE[:40],
            message=HOSTILE,
            errors=[{"field": HOSTILE, "message": HOSTILE}, HOSTILE],
            status="discarded",
            reason=HOSTILE,
        )

        for url in (LIST, url_of(letter), url_of(letter, then="discard")):
            assert "&lt;script&gt;" in page_of(browser.get(url))

    def test_shows_a_tombstone(self, browser, make_letter):
        assert "tombstone" in page_of(browser.get(url_of(make_letter(value=None))))

    def test_has_no_buttons_for_a_viewer_or_where_it_is_settled(self, browser, make_letter):
        settled = page_of(browser.get(url_of(make_letter(status="discarded"))))
        viewed = page_of(signed_in("viewer").get(url_of(make_letter())))

        assert "Replay this" not in settled
        assert "Replay this" not in viewed

    @pytest.mark.parametrize("key", ["x", "5e1f8a0c-9b2d-4c3e-8f70-1a2b3c4d5e6f"])
    def test_says_that_there_is_none(self, browser, key):
        assert browser.get(f"{LIST}{key}/change/").status_code == 404


class TestReplayDeadLetter:
    def test_asks_first_and_changes_nothing(self, browser, make_letter):
        letter = make_letter()

        html = page_of(browser.get(url_of(letter, then="replay")))

        assert "Replay this dead letter" in html
        letter.refresh_from_db()
        assert letter.status == "new"

    def test_handles_the_record_and_says_that_it_failed_again(self, browser, make_letter):
        letter = make_letter()

        response = browser.post(url_of(letter, then="replay"), follow=True)

        html = page_of(response)
        assert "failed again" in html
        again = DeadLetter.objects.get(replay_of=letter.pk)
        assert str(again.pk) in html
        assert AuditEntry.objects.get(action="dead_letter.replayed").actor == (
            "user:operator-1"
        )

    def test_says_that_the_record_was_handled(self, browser, make_letter, now):
        envelope = {
            "topic": "autopilot.command",
            "originator": "x",
            "timestamp": now.isoformat(),
            "mime-type": "application/json",
            "payload": {
                "command": "list_scheduled_transitions",
                "operator": "admin",
                "projectId": 1,
            },
        }
        letter = make_letter(json.dumps(envelope).encode())

        html = page_of(browser.post(url_of(letter, then="replay"), follow=True))

        assert "the record was handled" in html

    def test_of_two_clicks_one_has_an_effect_and_the_other_is_told(
        self, browser, make_letter
    ):
        letter = make_letter()
        browser.post(url_of(letter, then="replay"))

        response = browser.post(url_of(letter, then="replay"))

        assert "is replayed already" in page_of(response, status=409)
        assert DeadLetter.objects.count() == 2

    def test_says_that_a_neighbour_is_away(self, browser, make_letter, monkeypatch):
        def refuse(*args, **kwargs):
            raise ServiceUnavailableError("the topic can't be searched now")

        monkeypatch.setattr("scheduling.admin.dead_letters.replay_dead_letter", refuse)

        response = browser.post(url_of(make_letter(), then="replay"))

        assert "be searched now" in page_of(response, status=503)


class TestDiscardDeadLetter:
    def test_gives_it_up_with_a_reason(self, browser, make_letter):
        letter = make_letter()

        page_of(
            browser.post(url_of(letter, then="discard"), {"reason": "a test"}, follow=True)
        )

        letter.refresh_from_db()
        assert (letter.status, letter.reason) == ("discarded", "a test")
        assert AuditEntry.objects.get(action="dead_letter.discarded").reason == "a test"

    @pytest.mark.parametrize("reason", ["", "  ", "x" * 2_001, "\x00"])
    def test_demands_a_reason(self, browser, make_letter, reason):
        letter = make_letter()

        response = browser.post(url_of(letter, then="discard"), {"reason": reason})

        assert "reason: " in page_of(response, status=400)
        letter.refresh_from_db()
        assert letter.status == "new"


@pytest.mark.parametrize("verb", ["replay", "discard"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_viewer_deals_with_none(make_letter, verb, method):
    letter = make_letter()

    response = getattr(signed_in("viewer"), method)(
        url_of(letter, then=verb), {"reason": "x"}
    )

    assert response.status_code == 403
    letter.refresh_from_db()
    assert letter.status == "new"
