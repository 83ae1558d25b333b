"""The Challenge service's client against a real server that misbehaves in every way."""

import contextlib
import itertools
import json
import logging
import resource
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from django.conf import settings as django_settings
from django.db.models import F

from autopilot_site import demo
from scheduling.adapters import breakers
from scheduling.adapters.challenge_service import (
    ChallengeAnswerError,
    ChallengeServiceAwayError,
    ChallengeServiceError,
    challenge_service,
    close_challenge_service,
    is_challenge_service_configured,
    samples,
    warn_about_mock_mode,
)
from scheduling.adapters.challenge_service import http as client
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.messages import UnusableMessageError
from scheduling.models import CircuitBreaker, Housekeeping
from tests.support.challenge_service import (
    AUDIENCE,
    CLIENT_ID,
    CLIENT_SECRET,
    TOKEN_PATH,
    Answer,
    Drop,
    api_challenge,
    bomb,
)
from tests.support.threads import run_together

SHAPES = Path(__file__).parents[2] / "support" / "challenge_api"
ID = "0b1e7a52-6f0c-4c1d-9a53-1f2d3c4b5a60"
PATH = f"/challenges/{ID}"


def shape(name):
    return json.loads((SHAPES / f"{name}.json").read_text(encoding="utf-8"))


class NoBreaker:
    """Lets everybody through: the answers are what most of these tests are about."""

    @staticmethod
    def guarding(**_):
        return contextlib.nullcontext()


@pytest.fixture(autouse=True)
def breaker(request, monkeypatch):
    """Leave the circuit breaker out, but where a test has the database that it needs."""
    if not request.node.get_closest_marker("django_db"):
        monkeypatch.setattr(client, "shared_breaker", lambda name, *, counts: NoBreaker)


@pytest.fixture
def challenge(challenge_api):
    """Return the sample challenge, which the service knows."""
    body = shape("challenge")["response"]["body"]
    challenge_api.challenges = {ID: body}
    return body


@pytest.fixture
def patient(settings, monkeypatch):
    """Ask up to three times more, with next to no waits."""
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.01)
    settings.RECOVERY = settings.RECOVERY.model_copy(
        update={"challenge_service_retries": 3}
    )


def fill(service, number, *, now):
    made = [api_challenge(n, now=now, phases=1) for n in range(1, number + 1)]
    service.challenges = {one["id"]: one for one in made}
    return made


def read_all(project_id=None):
    """Return the ids of all ACTIVE challenges, and what could not be read."""
    pages = list(challenge_service().read_active(project_id))
    ids = [one.challenge_id for page in pages for one in page.challenges]
    return ids, [one for page in pages for one in page.unreadable]


def refusal(act, kind=ChallengeServiceError):
    with pytest.raises(kind) as caught:
        act()
    assert isinstance(caught.value, ServiceUnavailableError)
    shown = f"{caught.value} {caught.value.values} {caught.value!r}"
    assert CLIENT_SECRET not in shown
    assert "127.0.0.1" not in shown
    assert "token-" not in shown
    return caught.value


class TestChallengeService:
    def test_is_none_where_none_is_configured(self):
        assert challenge_service() is None
        assert not is_challenge_service_configured()

    def test_is_one_for_the_process(self, challenge_api):
        assert challenge_service() is challenge_service()

    def test_is_another_one_for_other_settings(self, challenge_api, settings):
        before = challenge_service()
        settings.CHALLENGE_SERVICE = {**settings.CHALLENGE_SERVICE, "audience": "other"}

        assert challenge_service() is not before

    def test_does_not_load_the_client_before_it_is_needed(self):
        code = (
            "import django, sys; django.setup(); import scheduling.tasks;"
            "heavy = {'authlib', 'stamina', 'httpcore2'} & sys.modules.keys();"
            "print(sorted(heavy))"
        )

        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=django_settings.BASE_DIR,
            env={"DJANGO_SETTINGS_MODULE": "autopilot_site.settings", "DEBUG": "1"},
            capture_output=True,
            text=True,
            timeout=40,
            check=True,
        )

        assert result.stdout.strip() == "[]"


class TestRead:
    def test_returns_the_challenge_as_the_api_shows_it(self, challenge_api, challenge):
        read = challenge_service().read(ID)

        assert (read.challenge_id, read.project_id, read.status) == (ID, "12345", "ACTIVE")
        assert (read.name, read.operator) == ("Conformance sample challenge", "sample-m2m")
        registration, submission = read.phases[:2]
        assert registration.phase_id == "5c1d2e3f-0a4b-4c6d-8e7f-9a0b1c2d3e40"
        assert registration.predecessor == ""
        assert registration.scheduled_end_at == datetime(2026, 3, 7, 17, tzinfo=UTC)
        assert registration.actual_end_at is None
        assert read.find_predecessor(submission) == registration

    def test_takes_nulls_as_absent(self, challenge_api, challenge):
        challenge["phases"] = shape("phases")["response"]["body"]
        challenge["updatedBy"] = challenge["name"] = None

        read = challenge_service().read(ID)

        assert read.phases[0].predecessor == ""
        assert read.phases[1].actual_start_at is None
        assert read.operator == "sample-copilot"

    def test_finds_a_predecessor_by_row_or_by_template(self, challenge_api, challenge):
        first, second = challenge["phases"][:2]
        for name in (first["id"], first["phaseId"]):
            second["predecessor"] = name

            read = challenge_service().read(ID)

            assert read.find_predecessor(read.phases[1]).phase_id == first["id"]

    def test_is_none_where_the_service_says_there_is_none(self, challenge_api):
        assert challenge_service().read(ID) is None

    def test_concludes_nothing_from_a_404_that_is_not_the_service_s_own(
        self, challenge_api, settings
    ):
        settings.CHALLENGE_SERVICE = {
            **settings.CHALLENGE_SERVICE,
            "url": f"{challenge_api.origin}/v6/nowhere",
        }

        error = refusal(lambda: challenge_service().read(ID), ChallengeAnswerError)

        assert "404" in error.detail

    def test_concludes_nothing_from_a_404_without_the_api_s_words(
        self, challenge_api, challenge
    ):
        for body in (b"", b"[]", b"null"):
            challenge_api.script(PATH, [Answer(status=404, body=body)])

            refusal(lambda: challenge_service().read(ID), ChallengeAnswerError)

    @pytest.mark.parametrize("name", ["a/b", "?status=ACTIVE", "..", "ä %#\n"])
    def test_keeps_an_id_in_its_place_in_the_path(self, challenge_api, name):
        assert challenge_service().read(name) is None

        (seen,) = [one for one in challenge_api.requests if one.path != TOKEN_PATH]
        assert seen.path.count("/") == 3
        assert seen.query == {}

    def test_needs_an_id(self, challenge_api):
        with pytest.raises(ValueError, match="id is needed"):
            challenge_service().read("")

    def test_refuses_another_challenge_than_it_asked_for(self, challenge_api, challenge):
        challenge["id"] = "11111111-1111-4111-8111-111111111111"

        with pytest.raises(UnusableMessageError, match="another challenge"):
            challenge_service().read(ID)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("projectId", None), ("status", 5), ("id", True), ("phases", [{"id": 1}])],
    )
    def test_names_what_can_t_be_understood(self, challenge_api, challenge, field, value):
        challenge[field] = value

        with pytest.raises(UnusableMessageError, match=field):
            challenge_service().read(ID)


class TestTokens:
    def test_come_by_client_credentials_and_are_kept(self, challenge_api, challenge):
        for _ in range(3):
            challenge_service().read(ID)

        assert challenge_api.tokens_given == 1
        (asked,) = challenge_api.asked(TOKEN_PATH)
        assert f"client_id={CLIENT_ID}" in asked.body.decode()
        assert "grant_type=client_credentials" in asked.body.decode()
        assert dict(parse_qsl(asked.body.decode()))["audience"] == AUDIENCE
        used = {one.headers["authorization"] for one in challenge_api.asked(PATH)}
        assert used == {"Bearer token-1"}

    def test_are_not_asked_for_where_there_is_no_token_url(
        self, challenge_api, challenge, settings
    ):
        challenge_api.needs_token = False
        settings.CHALLENGE_SERVICE = {**settings.CHALLENGE_SERVICE, "token_url": ""}

        assert challenge_service().read(ID) is not None

        assert challenge_api.tokens_given == 0
        assert "authorization" not in challenge_api.asked(PATH)[0].headers

    def test_are_renewed_before_they_end(self, challenge_api, challenge):
        challenge_api.token_lifetime = 2
        challenge_service().read(ID)
        assert challenge_api.tokens_given == 1

        time.sleep(1.6)
        challenge_service().read(ID)

        assert challenge_api.tokens_given == 2
        assert [one.headers["authorization"] for one in challenge_api.asked(PATH)] == [
            "Bearer token-1",
            "Bearer token-2",
        ]

    def test_are_used_until_refused_where_no_lifetime_is_told(
        self, challenge_api, challenge
    ):
        body = {"access_token": "x", "token_type": "bearer"}
        challenge_api.script(TOKEN_PATH, [Answer(body=body)])

        challenge_service().read(ID)
        challenge_service().read(ID)

        assert challenge_api.tokens_given == 2

    def test_are_renewed_once_where_one_is_refused(self, challenge_api, challenge):
        challenge_service().read(ID)
        challenge_api.forget_tokens()

        assert challenge_service().read(ID) is not None

        assert challenge_api.tokens_given == 2

    def test_are_not_renewed_for_ever(self, challenge_api, challenge, patient):
        challenge_api.script(PATH, itertools.repeat(Answer(status=401)))

        error = refusal(lambda: challenge_service().read(ID), ChallengeServiceAwayError)

        assert "401" in error.detail
        assert len(challenge_api.asked(PATH)) == 2
        assert challenge_api.tokens_given == 2

    def test_are_asked_for_by_one_thread_at_a_time(self, challenge_api, challenge):
        challenge_api.script(TOKEN_PATH, [Answer(delay=0.2)])
        service = challenge_service()

        results = run_together_without_database(8, lambda: service.read(ID))

        assert {one.challenge_id for one in results} == {ID}
        assert challenge_api.tokens_given == 1

    def test_refused_to_many_threads_at_once_are_renewed_once(
        self, challenge_api, challenge
    ):
        service = challenge_service()
        service.read(ID)
        challenge_api.forget_tokens()

        results = run_together_without_database(8, lambda: service.read(ID))

        assert {one.challenge_id for one in results} == {ID}
        assert challenge_api.tokens_given == 2

    def test_refused_to_us_are_told_by_the_error_s_code_alone(
        self, challenge_api, challenge, settings, patient
    ):
        settings.CHALLENGE_SERVICE = {
            **settings.CHALLENGE_SERVICE,
            "client_id": "somebody",
        }

        error = refusal(lambda: challenge_service().read(ID), ChallengeServiceAwayError)

        assert error.detail == "the token service refuses us (invalid_client)"
        assert challenge_api.tokens_given == 1
        assert challenge_api.asked(PATH) == []

    @pytest.mark.parametrize(
        "step",
        [
            Answer(body=b"<html>", headers={"Content-Type": "text/html"}),
            Answer(body=b"[]"),
            Answer(body={"access_token": 5}),
            Answer(body={"access_token": "a\nb"}),
            Answer(body={"access_token": "a b", "token_type": "Bearer"}),
            Answer(body={"access_token": "a", "token_type": "mac"}),
            Answer(body={"access_token": "a", "expires_in": "soon"}),
            Answer(body={"access_token": "a", "expires_in": []}),
            Answer(body=b'{"access_token": "a", "access_token": "b"}'),
            Answer(body={"error": {"x": 1}}, status=400),
            Answer(body={"error": "<script>" + CLIENT_SECRET}, status=400),
            Answer(status=500),
            Answer(status=429, headers={"Retry-After": "7"}),
            Answer(status=302, headers={"Location": "http://127.0.0.1:1/"}),
            Answer(body=bomb(16 * 1024 * 1024), headers={"Content-Encoding": "gzip"}),
            Answer(cut=3),
            Answer(delay=3),
            Drop(),
        ],
    )
    def test_that_can_t_be_had_make_the_service_unavailable(
        self, challenge_api, hasty, challenge, step
    ):
        challenge_api.script(TOKEN_PATH, [step])

        error = refusal(lambda: challenge_service().read(ID))

        assert "token service" in error.detail
        assert challenge_service().read(ID) is not None

    def test_of_a_service_that_is_gone_are_waited_for_no_longer_than_allowed(
        self, challenge_api, challenge, settings
    ):
        settings.CHALLENGE_SERVICE = {
            **settings.CHALLENGE_SERVICE,
            "token_url": f"http://127.0.0.1:{closed_port()}/token",
        }

        error = refusal(lambda: challenge_service().read(ID), ChallengeServiceAwayError)

        assert error.detail == "the token service can't be reached (Connection refused)"


def run_together_without_database(number, act):
    barrier, results = threading.Barrier(number), [None] * number

    def one(index):
        barrier.wait(5)
        try:
            results[index] = act()
        except Exception as error:  # noqa: BLE001 -- the test judges it
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# What the service may do instead of answering; whether it may pass.
FAULTS = {
    "a time-out": (Answer(delay=3), True),
    "a dripping body": (Answer(drip=0.01), True),
    "a dripping head": (Answer(drip_headers=0.02), True),
    "a closed connection": (Drop(), True),
    "a half-sent body": (Answer(cut=100), True),
    "a half-sent body of no length": (
        Answer(cut=100, headers={"Content-Length": None}),
        True,
    ),
    "500": (Answer(status=500), True),
    "502": (Answer(status=502), True),
    "503": (Answer(status=503), True),
    "504": (Answer(status=504), True),
    "429": (Answer(status=429), True),
    "408": (Answer(status=408), True),
    "400": (Answer(status=400), False),
    "403": (Answer(status=403), False),
    "409": (Answer(status=409), False),
    "204": (Answer(status=204, body=b""), False),
    "206": (Answer(status=206), False),
    "301": (Answer(status=301, headers={"Location": "/v6/challenges"}), False),
    "302": (Answer(status=302, headers={"Location": "http://127.0.0.1:1/"}), False),
    "307": (Answer(status=307, headers={"Location": "/v6/challenges"}), False),
    "a gateway's page": (
        Answer(body=b"<html>gateway</html>", headers={"Content-Type": "text/html"}),
        True,
    ),
    "no content type": (Answer(headers={"Content-Type": None}), True),
    "no JSON": (Answer(body=b"<html>gateway</html>"), True),
    "an empty body": (Answer(body=b""), True),
    "NaN": (Answer(body=b'{"id": NaN}'), True),
    "a key twice": (Answer(body=b'{"id": 1, "id": 1}'), True),
    "a lone surrogate": (Answer(body=b'{"id": "\\ud800"}'), True),
    "other bytes than UTF-8": (Answer(body=b'{"id": "\xff"}'), True),
    "too deep a nesting": (Answer(body=b"[" * 100_000), True),
    "text behind the JSON": (Answer(body=b'{"id": 1} x'), True),
    "a broken gzip": (
        Answer(body=b"no gzip", headers={"Content-Encoding": "gzip"}),
        True,
    ),
    "a half gzip": (
        Answer(body=bomb(1024 * 1024)[:500], headers={"Content-Encoding": "gzip"}),
        True,
    ),
    "garbage for a head": (Answer(headers={"X-A": "b\r\n\x00c"}), True),
}


@pytest.mark.usefixtures("hasty")
class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_make_the_service_unavailable_in_time(self, challenge_api, challenge, fault):
        step, is_passing = FAULTS[fault]
        challenge_service().read(ID)
        challenge_api.script(PATH, [step])
        started_at = time.monotonic()

        error = refusal(lambda: challenge_service().read(ID))

        assert error.is_passing is is_passing
        assert time.monotonic() - started_at < 1.5
        assert challenge_service().read(ID).challenge_id == ID

    @pytest.mark.parametrize("fault", [name for name, (_, may) in FAULTS.items() if may])
    def test_that_pass_are_overcome_by_asking_again(
        self, challenge_api, challenge, patient, fault
    ):
        challenge_api.script(PATH, [FAULTS[fault][0]] * 2)

        assert challenge_service().read(ID).challenge_id == ID

        assert len(challenge_api.asked(PATH)) == 3

    @pytest.mark.parametrize(
        "fault", [name for name, (_, may) in FAULTS.items() if not may]
    )
    def test_that_don_t_pass_are_not_asked_for_again(
        self, challenge_api, challenge, patient, fault
    ):
        challenge_api.script(PATH, [FAULTS[fault][0]] * 2)

        refusal(lambda: challenge_service().read(ID))

        assert len(challenge_api.asked(PATH)) == 1

    def test_are_tried_as_often_as_the_settings_say(
        self, challenge_api, challenge, patient
    ):
        challenge_api.script(PATH, itertools.repeat(Answer(status=500)))

        refusal(lambda: challenge_service().read(ID))

        assert len(challenge_api.asked(PATH)) == 4

    def test_take_no_longer_than_all_attempts_and_waits(
        self, challenge_api, challenge, patient
    ):
        challenge_api.script(PATH, itertools.repeat(Answer(delay=5)))
        started_at = time.monotonic()

        refusal(lambda: challenge_service().read(ID))

        assert 3.9 < time.monotonic() - started_at < 5.5

    def test_take_no_longer_than_the_caller_has(self, challenge_api, challenge, patient):
        challenge_api.script(PATH, itertools.repeat(Answer(delay=5)))
        started_at = time.monotonic()

        refusal(lambda: challenge_service().read(ID, within_seconds=0.3))

        assert time.monotonic() - started_at < 0.8

    def test_follow_no_redirect(self, challenge_api, challenge):
        other = f"{challenge_api.origin}/v6/elsewhere"
        challenge_api.script(PATH, [Answer(status=302, headers={"Location": other})])

        refusal(lambda: challenge_service().read(ID))

        assert challenge_api.asked("/elsewhere") == []

    def test_use_no_memory_where_the_answer_is_a_bomb(self, challenge_api, challenge):
        challenge_service().read(ID)
        packed = bomb()
        challenge_api.script(
            PATH, [Answer(body=packed, headers={"Content-Encoding": "gzip"})]
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tracemalloc.start()
        try:
            error = refusal(lambda: challenge_service().read(ID), ChallengeAnswerError)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert "more than 8 MiB" in error.detail
        assert peak < 24 * 1024 * 1024
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 48 * 1024

    def test_use_no_memory_where_the_answer_never_ends(self, challenge_api, challenge):
        endless = Answer(body=b" " * (32 * 1024 * 1024))
        challenge_api.script(PATH, [endless])

        error = refusal(lambda: challenge_service().read(ID), ChallengeAnswerError)

        assert "more than 8 MiB" in error.detail

    def test_that_refuse_connections_are_told_in_the_system_s_words(
        self, challenge_api, challenge
    ):
        challenge_service().read(ID)
        challenge_api.stop()

        error = refusal(lambda: challenge_service().read(ID), ChallengeServiceAwayError)

        assert error.detail == "the Challenge service can't be reached (Connection refused)"

    def test_of_a_name_that_nobody_knows_are_told_too(self, challenge_api, settings):
        settings.CHALLENGE_SERVICE = {
            **settings.CHALLENGE_SERVICE,
            "url": "http://no-such-host.invalid",
            "token_url": "",
        }

        error = refusal(lambda: challenge_service().read(ID), ChallengeServiceAwayError)

        assert error.detail.startswith("the Challenge service can't be reached (")

    def test_of_a_certificate_are_told_without_the_address(self, challenge_api, settings):
        settings.CHALLENGE_SERVICE = {
            **settings.CHALLENGE_SERVICE,
            "url": challenge_api.url.replace("http://", "https://"),
            "token_url": "",
        }

        refusal(lambda: challenge_service().read(ID), ChallengeServiceAwayError)

    def test_write_nothing_to_stdout_and_no_secret_to_the_log(
        self, challenge_api, challenge, patient, caplog, capfd
    ):
        caplog.set_level(logging.DEBUG)
        challenge_api.script(PATH, [Answer(status=500), Answer(status=401)])

        challenge_service().read(ID)

        assert capfd.readouterr().out == ""
        assert CLIENT_SECRET not in caplog.text
        assert "token-1" not in caplog.text


class TestRetryAfter:
    def test_is_waited_for_within_the_time_there_is(
        self, challenge_api, challenge, patient
    ):
        challenge_api.script(PATH, [Answer(status=429, headers={"Retry-After": "1"})])
        started_at = time.monotonic()

        assert challenge_service().read(ID) is not None

        assert 1.0 <= time.monotonic() - started_at < 2.0

    def test_may_be_a_date(self, challenge_api, challenge, patient):
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        challenge_api.script(PATH, [Answer(status=503, headers={"Retry-After": soon})])
        started_at = time.monotonic()

        assert challenge_service().read(ID) is not None

        assert 0.5 < time.monotonic() - started_at < 3.0

    def test_is_passed_on_where_it_is_longer_than_that(
        self, challenge_api, challenge, patient
    ):
        challenge_api.script(
            PATH, itertools.repeat(Answer(status=429, headers={"Retry-After": "120"}))
        )
        started_at = time.monotonic()

        error = refusal(lambda: challenge_service().read(ID), ChallengeServiceAwayError)

        assert error.retry_after_seconds == 120
        assert time.monotonic() - started_at < 1.0
        assert len(challenge_api.asked(PATH)) == 1

    @pytest.mark.parametrize("text", ["soon", "-5", "", "9" * 40, "Wed, 99 Foo"])
    def test_that_says_nothing_is_ignored(self, challenge_api, challenge, patient, text):
        challenge_api.script(PATH, [Answer(status=429, headers={"Retry-After": text})])

        assert challenge_service().read(ID) is not None


class TestErrorShapes:
    def test_of_the_api_conclude_nothing_but_the_404(self, challenge_api):
        for case in shape("errors")["cases"]:
            if "transport" in case:
                continue
            body = case.get("body") or case["body_raw"].encode()
            kind = "text/html" if "body_raw" in case else "application/json"
            headers = {"Content-Type": kind, **case.get("headers", {})}
            step = Answer(status=case["status"], body=body, headers=headers)
            challenge_api.script(PATH, [step, step])

            if case["status"] == 404:
                assert challenge_service().read(ID) is None
            else:
                refusal(lambda: challenge_service().read(ID))


class TestReadActive:
    def test_returns_the_list_as_the_api_sends_it(self, challenge_api):
        sent = shape("list")["response"]
        challenge_api.script(
            "/challenges", [Answer(body=sent["body"], headers=sent["headers"])]
        )

        (page,) = challenge_service().read_active()

        assert (page.number, page.last, page.total) == (1, 1, 1)
        assert [one.challenge_id for one in page.challenges] == [ID]
        assert page.unreadable == ()
        (asked,) = challenge_api.asked("/challenges")
        assert asked.query["status"] == "ACTIVE"
        assert (asked.query["page"], asked.query["perPage"]) == ("1", "100")

    def test_walks_all_pages(self, challenge_api, now):
        made = fill(challenge_api, 250, now=now)

        ids, unreadable = read_all()

        assert ids == [one["id"] for one in made]
        assert unreadable == []
        pages = [one.query["page"] for one in challenge_api.asked("/challenges")]
        assert pages == ["1", "2", "3"]

    def test_takes_pages_of_another_size_than_it_asked_for(self, challenge_api, now):
        challenge_api.most_per_page = 20
        made = fill(challenge_api, 41, now=now)

        assert read_all() == ([one["id"] for one in made], [])

    def test_of_nothing_is_empty(self, challenge_api):
        assert read_all() == ([], [])

    def test_leaves_out_what_is_not_active(self, challenge_api, now):
        first, second = fill(challenge_api, 2, now=now)
        first["status"] = "DRAFT"

        assert read_all()[0] == [second["id"]]

    def test_of_one_project_asks_for_it(self, challenge_api, now):
        fill(challenge_api, 5, now=now)

        ids, _ = read_all("70003")

        assert ids == [f"{3:032x}"[:8] + "-0000-0000-0000-" + f"{3:012x}"]
        assert challenge_api.asked("/challenges")[0].query["projectId"] == "70003"

    def test_of_one_project_leaves_out_others_that_are_shown_all_the_same(
        self, challenge_api, now
    ):
        made = fill(challenge_api, 3, now=now)
        headers = {"X-Page": "1", "X-Total": "3", "X-Total-Pages": "1"}
        challenge_api.script("/challenges", [Answer(body=made, headers=headers)])

        assert read_all("70002")[0] == [made[1]["id"]]


def listing(items, *, page=1, total=None, pages=1, **headers):
    return Answer(
        body=items,
        headers={
            "X-Page": str(page),
            "X-Total": str(len(items) if total is None else total),
            "X-Total-Pages": str(pages),
            **headers,
        },
    )


class TestContradictions:
    @pytest.mark.parametrize(
        "headers",
        [
            {"X-Total": None},
            {"X-Page": None},
            {"X-Total-Pages": None},
            {"X-Total": "-1"},
            {"X-Total": "many"},
            {"X-Total": "9" * 400},
            {"X-Total": "٣"},
            {"X-Page": "2"},
            {"X-Total": "4"},
            {"X-Total": "2"},
            {"X-Total": "0"},
            {"X-Total-Pages": "0"},
            {"X-Total-Pages": "2"},
            {"X-Total": "999999999", "X-Total-Pages": "333333333"},
        ],
    )
    def test_of_a_page_with_itself_are_an_error(self, challenge_api, now, headers):
        made = [api_challenge(n, now=now) for n in (1, 2, 3)]
        encoded = {
            name: value.encode().decode("latin-1") if value else value
            for name, value in headers.items()
        }
        challenge_api.script("/challenges", [listing(made, **encoded)])

        refusal(read_all, ChallengeAnswerError)

    def test_of_an_empty_list_with_its_total_are_an_error(self, challenge_api):
        challenge_api.script("/challenges", [listing([], total=5)])

        error = refusal(read_all, ChallengeAnswerError)

        assert "sent 0 challenges as page 1 of 1, with 5 in all" in error.detail

    def test_of_one_page_are_overcome_by_asking_again(self, challenge_api, now, patient):
        made = fill(challenge_api, 3, now=now)
        challenge_api.script("/challenges", [listing([], total=3)])

        assert read_all()[0] == [one["id"] for one in made]

    def test_of_a_short_page_in_the_middle_are_an_error(self, challenge_api, now):
        made = [api_challenge(n, now=now) for n in range(1, 7)]
        challenge_api.script(
            "/challenges",
            [
                listing(made[:2], total=6, pages=3),
                listing(made[2:3], page=2, total=6, pages=3),
            ],
        )

        refusal(read_all, ChallengeAnswerError)

    def test_of_a_page_that_fails_are_an_error_after_what_was_read(
        self, challenge_api, now
    ):
        made = [api_challenge(n, now=now) for n in range(1, 5)]
        challenge_api.script(
            "/challenges", [listing(made[:2], total=4, pages=2), Answer(status=500)]
        )
        pages = challenge_service().read_active()

        first = next(pages)

        assert [one.challenge_id for one in first.challenges] == [
            one["id"] for one in made[:2]
        ]
        refusal(lambda: next(pages))

    def test_of_totals_that_never_agree_are_an_error(self, challenge_api, now):
        made = [api_challenge(n, now=now) for n in range(1, 7)]
        step = itertools.cycle(
            [
                listing(made[:2], total=4, pages=2),
                listing(made[2:4], page=2, total=6, pages=3),
            ]
        )
        challenge_api.script("/challenges", step)

        error = refusal(read_all, ChallengeAnswerError)

        assert "another list with each page" in error.detail
        assert len(challenge_api.asked("/challenges")) < 10

    def test_of_the_same_challenge_on_two_pages_are_an_error(self, challenge_api, now):
        made = [api_challenge(n, now=now) for n in range(1, 5)]
        step = itertools.cycle(
            [
                listing(made[:2], total=4, pages=2),
                listing(made[1:3], page=2, total=4, pages=2),
            ]
        )
        challenge_api.script("/challenges", step)

        refusal(read_all, ChallengeAnswerError)

    def test_of_a_list_that_changed_once_are_overcome(self, challenge_api, now):
        made = fill(challenge_api, 101, now=now)
        gone = made[0]["id"]

        def complete_one(_):
            del challenge_api.challenges[gone]
            return Answer()

        challenge_api.script("/challenges", [Answer(), complete_one])

        ids, _ = read_all()

        assert len(ids) == len(set(ids)) == 101
        assert set(ids) == {one["id"] for one in made}

    def test_of_something_else_than_a_list_are_an_error(self, challenge_api):
        challenge_api.script("/challenges", [listing({"message": "no"}, total=0)])

        refusal(read_all, ChallengeAnswerError)


class TestUnreadable:
    def test_challenges_are_told_beside_the_others(self, challenge_api, now):
        made = fill(challenge_api, 4, now=now)
        del made[0]["projectId"]
        made[1]["id"] = True
        made[3]["phases"] = "none"

        ids, unreadable = read_all()

        assert ids == [made[2]["id"]]
        told = [(one.challenge_id, one.reason) for one in unreadable]
        assert told == [
            (made[0]["id"], "projectId: is required"),
            ("", unreadable[1].reason),
            (made[3]["id"], "phases: must be a list"),
        ]
        assert unreadable[1].reason.startswith("id: must be a positive integer")

    def test_things_that_are_no_challenges_are_told_too(self, challenge_api, now):
        made = api_challenge(1, now=now)
        challenge_api.script(
            "/challenges", [listing([None, 5, "x", [], {}, made], total=6)]
        )

        ids, unreadable = read_all()

        assert ids == [made["id"]]
        assert len(unreadable) == 5

    def test_one_of_ten_thousand_spoils_none_of_the_others(self, challenge_api, now):
        challenge_api.most_per_page = 100
        made = fill(challenge_api, 10_000, now=now)
        made[5_000]["phases"][0]["scheduledEndDate"] = "31 June"
        made[7_000]["status"] = None
        challenge_api.challenges[made[7_000]["id"]] = {**made[7_000], "status": "ACTIVE"}
        del challenge_api.challenges[made[7_000]["id"]]["projectId"]

        ids, unreadable = read_all()

        assert len(ids) == 9_999
        assert {one.challenge_id for one in unreadable} == {
            made[5_000]["id"],
            made[7_000]["id"],
        }

    def test_phases_leave_the_rest_of_their_challenge(self, challenge_api, now):
        one = api_challenge(1, now=now, phases=6)
        phases = one["phases"]
        phases[0]["scheduledEndDate"] = "2026-06-31T00:00:00Z"
        phases[1]["id"] = "not-an-id"
        phases[3]["id"] = phases[2]["id"]
        phases[4] = "no phase"
        challenge_api.challenges = {one["id"]: one}

        (page,) = challenge_service().read_active()

        (challenge,) = page.challenges
        assert [phase.phase_id for phase in challenge.phases] == [phases[5]["id"]]
        assert [(u.challenge_id, u.phase_id) for u in page.unreadable] == [
            (one["id"], phases[0]["id"]),
            (one["id"], ""),
            (one["id"], phases[2]["id"]),
            (one["id"], phases[2]["id"]),
            (one["id"], ""),
        ]
        assert all(one.is_phase for one in page.unreadable)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b'{"id": 7, "name": "\\u0000"}', "NUL"),
            (b'{"id": 7, "name": "\\ud83d"}', "surrogate"),
            (b'{"id": 7, "id": 8}', "twice"),
            (b'{"id": 7, "n": NaN}', "NaN"),
            (b"[" * 70 + b"]" * 70, "nests"),
        ],
    )
    def test_json_of_one_challenge_spoils_only_that_one(
        self, challenge_api, now, text, reason
    ):
        good = [api_challenge(n, now=now) for n in (1, 2)]
        first, second = (json.dumps(one).encode() for one in good)
        body = b" [ " + first + b" ,\n" + text + b", " + second + b" ] "
        step = listing([], total=3)
        challenge_api.script("/challenges", [Answer(body=body, headers=step.headers)])

        ids, unreadable = read_all()

        assert ids == [one["id"] for one in good]
        assert [reason in one.reason for one in unreadable] == [True]

    @pytest.mark.parametrize("end", [b"", b",", b",]", b"] x", b"} ]", b" 5]"])
    def test_json_of_the_list_itself_is_an_error(self, challenge_api, end):
        body = b'[{"id": NaN}' + end
        step = listing([], total=1)
        challenge_api.script("/challenges", [Answer(body=body, headers=step.headers)])

        refusal(read_all, ChallengeAnswerError)


@pytest.mark.django_db
class TestMockMode:
    @pytest.fixture(autouse=True)
    def on(self, settings):
        close_challenge_service()
        settings.RECOVERY = settings.RECOVERY.model_copy(
            update={"challenge_service_mock_mode": True}
        )

    def test_is_a_service_without_an_address(self):
        assert is_challenge_service_configured()

        ids, unreadable = read_all()

        assert sorted(ids) == sorted(
            one["id"] for one in demo.challenges(start=_some_day())
        )
        assert unreadable == []

    def test_counts_the_instants_from_the_start(self, now):
        (page,) = challenge_service().read_active("5001")

        (challenge,) = page.challenges
        end = challenge.phases[0].scheduled_end_at
        assert timedelta(0) < end - now < timedelta(seconds=15)

    def test_reads_one_by_its_id(self):
        ids, _ = read_all()

        assert challenge_service().read(ids[0]).challenge_id == ids[0]
        assert challenge_service().read(ID) is None

    def test_shows_the_same_instants_to_every_process(self):
        first = challenge_service().read_active()
        before = next(iter(first)).challenges
        close_challenge_service()

        assert next(iter(challenge_service().read_active())).challenges == before

    def test_starts_anew_for_a_process_that_begins_after_the_end(self, now):
        Housekeeping.objects.create(
            name=samples.START, last_run_at=now - timedelta(hours=1)
        )

        (page,) = challenge_service().read_active("5001")

        assert page.challenges[0].phases[0].scheduled_end_at > now

    def test_ends_for_a_process_that_was_there(self, now):
        service = challenge_service()
        list(service.read_active())
        service._begun_at = now - timedelta(hours=1)
        Housekeeping.objects.update(last_run_at=now - timedelta(minutes=59))

        (page,) = service.read_active("5001")

        assert page.challenges[0].phases[-1].scheduled_end_at < now


def _some_day():
    return datetime(2026, 1, 1, tzinfo=UTC)


class TestWarnAboutMockMode:
    @pytest.mark.parametrize(
        ("is_on", "debug", "lines"), [(True, False, 1), (True, True, 0), (False, False, 0)]
    )
    def test_speaks_up_in_production_only(self, settings, caplog, is_on, debug, lines):
        settings.DEBUG = debug
        settings.RECOVERY = settings.RECOVERY.model_copy(
            update={"challenge_service_mock_mode": is_on}
        )

        warn_about_mock_mode()

        assert [record.levelname for record in caplog.records] == ["CRITICAL"] * lines


@pytest.mark.django_db(transaction=True)
class TestStartOfTheSamples:
    def test_is_agreed_on_by_processes_that_begin_together(self, now):
        Housekeeping.objects.create(
            name=samples.START, last_run_at=now - timedelta(hours=1)
        )

        def read(_):
            service = samples.SampleChallenges(demo.challenges)
            return next(iter(service.read_active("5001"))).challenges

        shown = run_together(4, read)

        assert len({one[0].phases[0].scheduled_end_at for one in shown}) == 1


@pytest.mark.django_db(transaction=True)
class TestCircuitBreaker:
    """The breaker named challenge; five failures open it."""

    @pytest.mark.parametrize(
        "failure",
        [
            Answer(status=500),
            Answer(status=503),
            Answer(status=429),
            Drop(),
            Answer(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        ],
        ids=["500", "503", "429", "broken off", "redirect"],
    )
    def test_leaves_a_failing_service_alone(self, challenge_api, challenge, failure):
        challenge_api.script("/challenges", [failure] * 5)
        service = challenge_service()
        for _ in range(5):
            with pytest.raises(ChallengeServiceError):
                list(service.read_active())

        with pytest.raises(ChallengeServiceAwayError, match="circuit breaker is open"):
            service.read(ID)

        assert len(challenge_api.asked("/challenges")) == 5
        assert challenge_api.asked(PATH) == []
        assert CircuitBreaker.objects.get(name="challenge").state == "open"

    def test_is_no_matter_of_one_challenge_at_which_the_service_fails(
        self, challenge_api, challenge
    ):
        challenge_api.script(PATH, itertools.repeat(Answer(status=500)))
        for _ in range(8):
            with pytest.raises(ChallengeAnswerError):
                challenge_service().read(ID)

        assert len(list(challenge_service().read_active())) == 1
        assert not CircuitBreaker.objects.exclude(failure_count=0).exists()

    def test_lets_threads_wait_for_a_trial(self, challenge_api, challenge, monkeypatch):
        monkeypatch.setattr(breakers, "TROUBLE_TTL_SECONDS", 0.0)
        challenge_api.script("/challenges", [Answer(status=500)] * 5)
        for _ in range(5):
            with pytest.raises(ChallengeServiceError):
                list(challenge_service().read_active())
        CircuitBreaker.objects.update(opened_at=F("opened_at") - timedelta(seconds=31))

        read = run_together(6, lambda _: challenge_service().read(ID).challenge_id)

        assert read == [ID] * 6

    def test_is_not_retried_while_it_is_open(self, challenge_api, challenge, patient):
        challenge_api.script(PATH, [Answer(status=503)] * 20)
        started = time.monotonic()

        for _ in range(6):
            with pytest.raises(ChallengeServiceError):
                challenge_service().read(ID)

        assert len(challenge_api.asked(PATH)) == 5
        assert time.monotonic() - started < 10

    def test_counts_no_challenge_that_is_unknown_or_unreadable(
        self, challenge_api, challenge
    ):
        challenge_api.challenges = {ID: {**challenge, "phases": "many"}}

        for _ in range(6):
            with pytest.raises(UnusableMessageError):
                challenge_service().read(ID)
            assert challenge_service().read(ID.replace("0b", "0c")) is None

        assert not CircuitBreaker.objects.exclude(failure_count=0).exists()

    def test_is_closed_again_by_what_is_read(self, challenge_api, challenge, monkeypatch):
        monkeypatch.setattr(breakers, "TROUBLE_TTL_SECONDS", 0.0)
        challenge_api.script(PATH, [Answer(status=503)] * 5)
        for _ in range(5):
            with pytest.raises(ChallengeServiceError):
                challenge_service().read(ID)
        CircuitBreaker.objects.update(opened_at=F("opened_at") - timedelta(seconds=31))

        assert challenge_service().read(ID) is not None
        assert challenge_service().read(ID) is not None

        assert CircuitBreaker.objects.get(name="challenge").state == "closed"
