"""dead-letters/: what could not be handled, read, handled again or given up."""

import base64
import json
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, DeadLetter, ScheduledTransition
from scheduling.queries.dead_letters import LARGEST_LISTED_BYTES
from tests.scheduling.api.support import assert_problem, losing_the_answer, queries_of

DEAD_LETTERS = "/api/v1/dead-letters/"
BYTES = b"\x00\xff {not json"


@pytest.fixture
def add_letter(db, now):
    """Return a maker of dead letters; each is older than the one before."""
    numbers = iter(range(1_000))

    def make(**fields):
        number = next(numbers)
        values = {
            "cluster_id": "c",
            "topic": "autopilot.command",
            "partition": 1,
            "offset": number,
            "key": b"12345",
            "value": BYTES,
            "code": "invalid_request",
            "category": "validation",
            "message": "the record: is no JSON",
            "errors": [{"field": "", "message": "is no JSON"}],
            "set_aside_at": now - timedelta(seconds=number),
            **fields,
        }
        return DeadLetter.objects.create(**values)

    return make


def notification(now, **payload):
    """Return the bytes of a record that asks for one job."""
    value = {
        "topic": "challenge.notification.create",
        "originator": "tests",
        "timestamp": format_instant(now),
        "mimeType": "application/json",
        "payload": {
            "id": 7,
            "projectId": 5,
            "status": "ACTIVE",
            "phases": [
                {
                    "id": 11,
                    "name": "Review",
                    "scheduledEndDate": format_instant(now + timedelta(hours=1)),
                }
            ],
            **payload,
        },
    }
    return json.dumps(value).encode()


def path_of(letter, verb=""):
    return f"{DEAD_LETTERS}{letter.pk}/{verb and verb + '/'}"


def ids(response):
    assert response.status_code == 200, response.content
    return [letter["id"] for letter in response.json()["results"]]


class TestDeadLetter:
    def test_has_the_exact_bytes_and_why_it_was_set_aside(self, as_viewer, add_letter, now):
        letter = add_letter(replay_of=UUID(int=1))

        shown = as_viewer.get(path_of(letter)).json()

        assert shown == {
            "id": str(letter.pk),
            "originalTopic": "autopilot.command",
            "originalPartition": 1,
            "originalOffset": 0,
            "originalKey": "12345",
            "originalMessage": base64.b64encode(BYTES).decode(),
            "truncated": False,
            "error": {
                "code": "invalid_request",
                "category": "validation",
                "message": "the record: is no JSON",
                "errors": [{"field": "", "message": "is no JSON"}],
            },
            "timestamp": format_instant(now),
            "status": "new",
            "replayedAt": None,
            "reason": None,
            "replayOf": str(UUID(int=1)),
        }

    def test_a_tombstone_without_a_key_has_neither(self, as_viewer, add_letter):
        letter = add_letter(key=None, value=None)

        for shown in (
            as_viewer.get(path_of(letter)).json(),
            as_viewer.get(DEAD_LETTERS).json()["results"][0],
        ):
            assert shown["originalKey"] is None
            assert shown["originalMessage"] is None
            assert shown["truncated"] is False

    def test_an_empty_record_is_no_tombstone(self, as_viewer, add_letter):
        letter = add_letter(key=b"", value=b"")

        for shown in (
            as_viewer.get(path_of(letter)).json(),
            as_viewer.get(DEAD_LETTERS).json()["results"][0],
        ):
            assert (shown["originalKey"], shown["originalMessage"]) == ("", "")

    def test_a_key_that_is_no_text_is_escaped(self, as_viewer, add_letter):
        letter = add_letter(key="ä".encode() + b"\xff")

        assert as_viewer.get(path_of(letter)).json()["originalKey"] == "ä\\xff"

    def test_of_a_megabyte_is_whole(self, as_viewer, add_letter):
        value = b"x" * 2**20
        letter = add_letter(value=value)

        shown = as_viewer.get(path_of(letter)).json()

        assert base64.b64decode(shown["originalMessage"]) == value
        assert shown["truncated"] is False

    @pytest.mark.parametrize("form", ["1", "x", "{{{0}}}", "{0.hex}", "urn:uuid:{0}"])
    @pytest.mark.parametrize("verb", ["", "replay/", "discard/"])
    def test_an_unknown_one_is_not_found(self, as_operator, add_letter, form, verb):
        self.assert_not_found(as_operator, form.format(add_letter().pk), verb)

    @pytest.mark.parametrize("verb", ["", "replay/", "discard/"])
    def test_one_that_is_not_there_is_not_found(self, as_operator, verb):
        self.assert_not_found(as_operator, uuid4(), verb)

    def assert_not_found(self, client, dead_letter_id, verb):
        path = f"{DEAD_LETTERS}{dead_letter_id}/{verb}"
        body = {"reason": "x"} if "discard" in verb else {}

        response = client.post(path, body, "json") if verb else client.get(path)

        assert_problem(response, 404, "not_found")


class TestListDeadLetters:
    def test_shows_each_as_by_itself_the_newest_first(self, as_viewer, add_letter):
        letters = [add_letter() for _ in range(3)]

        page = as_viewer.get(DEAD_LETTERS).json()

        assert page["count"] == 3
        assert page["results"] == [as_viewer.get(path_of(one)).json() for one in letters]

    @pytest.mark.parametrize(
        ("query", "fields"),
        [
            (
                {"topic": "challenge.notification.create"},
                {"topic": "challenge.notification.create"},
            ),
            ({"status": "discarded"}, {"status": "discarded"}),
            ({"code": "payload_too_large"}, {"code": "payload_too_large"}),
        ],
    )
    def test_filters_by(self, as_viewer, add_letter, query, fields):
        add_letter()
        wanted = add_letter(**fields)

        assert ids(as_viewer.get(DEAD_LETTERS, query)) == [str(wanted.pk)]

    def test_leaves_large_ones_out_and_says_so(self, as_viewer, add_letter):
        limit = LARGEST_LISTED_BYTES
        add_letter(value=b"x" * limit, key=b"k" * limit)
        add_letter(value=b"x" * (limit + 1))
        add_letter(key=b"x" * (limit + 1))

        whole, large_value, large_key = as_viewer.get(DEAD_LETTERS).json()["results"]

        assert len(base64.b64decode(whole["originalMessage"])) == limit
        assert (whole["truncated"], whole["originalKey"]) == (False, "k" * limit)
        assert (large_value["truncated"], large_value["originalMessage"]) == (True, None)
        assert large_value["originalKey"] == "12345"
        assert (large_key["truncated"], large_key["originalKey"]) == (True, None)
        assert large_key["originalMessage"] is not None

    def test_asks_the_same_number_of_queries_whatever_the_page_holds(
        self, as_viewer, add_letter
    ):
        add_letter()
        one = queries_of(as_viewer, DEAD_LETTERS)
        for _ in range(20):
            add_letter()

        assert queries_of(as_viewer, DEAD_LETTERS) == one

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("status=old", "status"),
            ("status=", "status"),
            ("topic=", "topic"),
            ("topic=%00", "topic"),
            ("topic=" + "x" * 250, "topic"),
            ("code=" + "x" * 41, "code"),
            ("originalTopic=a", "originalTopic"),
            ("page=0", "page"),
        ],
    )
    def test_names_what_is_wrong_in_the_query(self, as_viewer, query, field):
        problem = assert_problem(
            as_viewer.get(f"{DEAD_LETTERS}?{query}"), 400, "invalid_request"
        )

        assert [error["field"] for error in problem["errors"]] == [field]


class TestReplay:
    def test_handles_the_original_bytes_as_if_just_received(
        self, as_operator, add_letter, now
    ):
        letter = add_letter(topic="challenge.notification.create", value=notification(now))

        response = as_operator.post(path_of(letter, "replay"))

        assert response.status_code == 202
        shown = response.json()
        assert shown["status"] == "replayed"
        assert shown["replayedAt"] is not None
        assert as_operator.get(path_of(letter)).json() == shown
        assert ScheduledTransition.objects.get().phase_id == "11"
        entry = AuditEntry.objects.get(action="dead_letter.replayed")
        assert (entry.actor, entry.role) == ("user:olivia", "operator")
        assert entry.changes["deadLetterId"] == str(letter.pk)

    def test_what_fails_again_is_a_new_dead_letter(self, as_operator, add_letter):
        letter = add_letter()

        response = as_operator.post(path_of(letter, "replay"), {}, format="json")

        assert response.json()["status"] == "replayed"
        (new,) = as_operator.get(DEAD_LETTERS, {"status": "new"}).json()["results"]
        assert new["replayOf"] == str(letter.pk)
        assert new["originalMessage"] == base64.b64encode(BYTES).decode()
        assert new["originalOffset"] == letter.offset

    @pytest.mark.parametrize("status", ["replayed", "discarded"])
    def test_one_that_was_dealt_with_is_a_conflict(self, as_operator, add_letter, status):
        letter = add_letter(status=status)

        problem = assert_problem(
            as_operator.post(path_of(letter, "replay")), 409, "conflict"
        )

        assert status in problem["detail"]
        assert DeadLetter.objects.count() == 1

    def test_takes_no_field(self, as_operator, add_letter):
        letter = add_letter()

        response = as_operator.post(
            path_of(letter, "replay"), {"reason": "x"}, format="json"
        )

        assert_problem(response, 400, "invalid_request")
        assert DeadLetter.objects.get().status == "new"

    @pytest.mark.parametrize("verb", ["replay", "discard"])
    def test_a_viewer_may_not(self, as_viewer, add_letter, verb):
        letter = add_letter()

        response = as_viewer.post(path_of(letter, verb), {}, format="json")

        problem = assert_problem(response, 403, "permission_denied")
        assert problem["operation"] == verb
        assert DeadLetter.objects.get().status == "new"


class TestDiscard:
    def test_keeps_it_with_the_reason(self, as_operator, add_letter):
        letter = add_letter()

        response = as_operator.post(
            path_of(letter, "discard"), {"reason": "a test record"}, format="json"
        )

        assert response.status_code == 202
        shown = response.json()
        assert (shown["status"], shown["reason"]) == ("discarded", "a test record")
        assert as_operator.get(path_of(letter)).json() == shown
        entry = AuditEntry.objects.get(action="dead_letter.discarded")
        assert (entry.actor, entry.reason) == ("user:olivia", "a test record")

    @pytest.mark.parametrize(
        "body",
        [{}, {"reason": ""}, {"reason": "  "}, {"reason": 1}, {"reason": "x" * 2001}],
    )
    def test_asks_for_a_reason(self, as_operator, add_letter, body):
        letter = add_letter()

        response = as_operator.post(path_of(letter, "discard"), body, format="json")

        problem = assert_problem(response, 400, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == ["reason"]
        assert DeadLetter.objects.get().status == "new"

    def test_one_that_was_dealt_with_is_a_conflict(self, as_operator, add_letter):
        letter = add_letter(status="discarded", reason="first")

        response = as_operator.post(
            path_of(letter, "discard"), {"reason": "second"}, format="json"
        )

        problem = assert_problem(response, 409, "conflict")
        assert problem["deadLetterStatus"] == "discarded"
        assert DeadLetter.objects.get().reason == "first"


class TestRepeatedRequest:
    @pytest.mark.parametrize(
        ("verb", "body", "status"),
        [("replay", {}, "replayed"), ("discard", {"reason": "x"}, "discarded")],
    )
    def test_whose_first_try_died_is_answered_by_its_effect(
        self, as_operator, add_letter, verb, body, status
    ):
        path = f"{DEAD_LETTERS}{add_letter().pk}/{verb}/"

        def ask():
            return as_operator.post(
                path, body, format="json", headers={"Idempotency-Key": "k"}
            )

        losing_the_answer(ask)
        letters = DeadLetter.objects.count()

        again = ask()

        assert (again.status_code, again.json()["status"]) == (202, status)
        assert DeadLetter.objects.count() == letters
