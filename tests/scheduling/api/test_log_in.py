"""Log-ins at both doors: how often one may fail, and what the audit says of each."""

from datetime import timedelta

import pytest
import time_machine
from axes.models import AccessAttempt
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import MD5PasswordHasher
from rest_framework.test import APIClient

from autopilot_site import admin_site
from scheduling.adapters.rate_counter import RateCounter
from scheduling.api import throttles
from scheduling.models import AuditEntry
from scheduling.services.audit import LONGEST_ACTOR
from tests.scheduling.api.support import PASSWORD, TRANSITIONS, assert_problem

OBTAIN = "/api/v1/auth/token/"
ADMIN = "/admin/login/?next=/admin/"
LIMIT = 5
WRONG = "hidden-word"


@pytest.fixture(autouse=True)
def _fresh_counts(monkeypatch):
    """Let the process forget what other tests have used up."""
    counter = RateCounter()
    for module in (throttles, admin_site):
        monkeypatch.setattr(module, "requests", counter)


@pytest.fixture
def olivia(make_user):
    return make_user("olivia", group="operator")


def obtain(name="olivia", password=PASSWORD, **extra):
    return APIClient().post(
        OBTAIN, {"username": name, "password": password}, format="json", **extra
    )


def sign_in(name="olivia", password=PASSWORD, **extra):
    return APIClient().post(ADMIN, {"username": name, "password": password}, **extra)


DOORS = {"api": (obtain, {200}, {401}), "admin": (sign_in, {302}, {200})}


def said_of(answer):
    """Return what a refusal says, without what differs between any two of them."""
    context = getattr(answer, "context", None)
    return answer.json()["detail"] if context is None else context["form"].errors


def entries():
    return list(AuditEntry.objects.order_by("id"))


@pytest.mark.parametrize("door", DOORS)
class TestLogIn:
    def test_is_audited(self, olivia, door):
        enter, entered, _ = DOORS[door]

        response = enter(headers={"X-Request-Id": "r-1"}, REMOTE_ADDR="10.1.2.3")

        assert response.status_code in entered
        (entry,) = entries()
        assert (entry.action, entry.actor, entry.role, entry.request_id, entry.job_id) == (
            "access.logged_in",
            "user:olivia",
            "operator",
            "r-1",
            "",
        )
        assert entry.changes == {"door": door, "address": "10.1.2.3"}

    def test_notes_when_the_user_was_last_here(self, olivia, door):
        DOORS[door][0]()

        assert get_user_model().objects.get().last_login is not None

    def test_that_fails_is_audited_without_the_password(self, olivia, door):
        enter, _, refused = DOORS[door]

        response = enter(password=WRONG, headers={"X-Request-Id": "r-2"})

        assert response.status_code in refused
        (entry,) = entries()
        assert (entry.action, entry.actor, entry.role, entry.request_id) == (
            "access.login_failed",
            "user:olivia",
            "",
            "r-2",
        )
        assert entry.reason == "wrong name or password, or an inactive user"
        assert WRONG not in str(AuditEntry.objects.values())
        assert WRONG not in str(AccessAttempt.objects.values())

    def test_of_an_inactive_user_fails(self, olivia, door):
        get_user_model().objects.update(is_active=False)

        assert DOORS[door][0]().status_code in DOORS[door][2]
        assert [entry.action for entry in entries()] == ["access.login_failed"]

    def test_works_as_hard_and_says_the_same_for_a_name_that_nobody_has(
        self, olivia, door, monkeypatch
    ):
        enter, hashed = DOORS[door][0], []
        encode = MD5PasswordHasher.encode

        def count(*arguments):
            hashed.append(1)
            return encode(*arguments)

        monkeypatch.setattr(MD5PasswordHasher, "encode", count)

        answers, work = [], []
        for name in ("olivia", "nobody"):
            hashed.clear()
            answer = enter(name=name, password=WRONG)
            answers.append((answer.status_code, said_of(answer)))
            work.append(len(hashed))

        assert answers[0] == answers[1]
        assert work == [1, 1]

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("x" * 149, "user:" + "x" * 149),
            ("é\U0001f600", "user:é\U0001f600"),
            ("a\nb\x1b[31m\x7f\u202e", "user:a\\nb\\x1b[31m\\x7f\\u202e"),
            ("<b>'; DROP TABLE x; --", "user:<b>'; DROP TABLE x; --"),
        ],
    )
    def test_writes_any_name_so_that_it_can_be_read(self, db, door, name, shown):
        DOORS[door][0](name=name)

        (entry,) = entries()
        assert entry.actor == shown

    def test_is_locked_out_after_so_many_failures(self, olivia, door):
        enter, _, refused = DOORS[door]

        failures = [enter(password=WRONG).status_code for _ in range(LIMIT)]
        response = enter()

        assert set(failures[:-1]) == refused
        assert failures[-1] == response.status_code == 429
        assert 290 <= int(response.headers["Retry-After"]) <= 300
        if door == "api":
            assert_problem(response, 429, "throttled")
        else:
            assert response.headers["Content-Type"].startswith("text/plain")
            assert b"Too many log-ins" in response.content
        assert [entry.action for entry in entries()] == ["access.login_failed"] * 6
        assert entries()[-1].reason == "locked out after too many failures"

    def test_is_locked_out_at_the_other_door_too(self, olivia, door):
        other = DOORS["admin" if door == "api" else "api"][0]
        for _ in range(LIMIT):
            DOORS[door][0](password=WRONG)

        assert other().status_code == 429

    def test_is_locked_out_under_this_name_and_from_this_address_alone(
        self, olivia, make_user, door
    ):
        enter, entered, _ = DOORS[door]
        make_user("adam", group="admin")
        for _ in range(LIMIT):
            enter(password=WRONG, REMOTE_ADDR="10.0.0.1")

        assert enter(REMOTE_ADDR="10.0.0.1").status_code == 429
        assert enter(REMOTE_ADDR="10.0.0.2").status_code in entered
        assert enter(name="adam", REMOTE_ADDR="10.0.0.1").status_code in entered

    def test_stays_locked_out_whatever_headers_say(self, olivia, door):
        enter = DOORS[door][0]

        statuses = [
            enter(
                password=WRONG,
                headers={"X-Forwarded-For": f"9.9.9.{n}", "User-Agent": f"agent {n}"},
            ).status_code
            for n in range(LIMIT + 3)
        ]

        assert statuses[LIMIT - 1 :] == [429] * 4

    def test_behind_a_proxy_counts_for_the_last_hop(self, olivia, door, settings):
        settings.TRUST_PROXY = True
        enter, entered, _ = DOORS[door]

        for n in range(LIMIT):
            enter(password=WRONG, headers={"X-Forwarded-For": f"1.1.1.{n}, 9.9.9.9"})

        hops = {"9.9.9.9": 429, "1.1.1.0, 9.9.9.9": 429}
        for forwarded, status in hops.items():
            assert enter(headers={"X-Forwarded-For": forwarded}).status_code == status
        assert enter(headers={"X-Forwarded-For": "9.9.9.9, 1.1.1.0"}).status_code in entered

    def test_is_free_again_when_the_time_is_over_whoever_knocked_meanwhile(
        self, olivia, door, now
    ):
        enter, entered, _ = DOORS[door]
        with time_machine.travel(now, tick=False):
            for _ in range(LIMIT):
                enter(password=WRONG)
        with time_machine.travel(now + timedelta(minutes=4), tick=False):
            waiting = enter(password=WRONG)
        with time_machine.travel(now + timedelta(minutes=5, seconds=1), tick=False):
            freed = enter()

        assert (waiting.status_code, waiting.headers["Retry-After"]) == (429, "60")
        assert freed.status_code in entered

    def test_that_succeeds_wipes_out_the_failures_before(self, olivia, door):
        enter, entered, refused = DOORS[door]

        for _ in range(3):
            for _ in range(LIMIT - 1):
                assert enter(password=WRONG).status_code in refused
            assert enter().status_code in entered


class TestApiLogIn:
    def test_of_a_user_without_a_role_succeeds_and_opens_nothing(self, make_user):
        make_user("stan")

        token = obtain("stan").json()["access"]

        client = APIClient(HTTP_AUTHORIZATION=f"Bearer {token}")
        assert_problem(client.get(TRANSITIONS), 403, "permission_denied")
        assert (entries()[0].action, entries()[0].role) == ("access.logged_in", "")

    def test_with_a_name_beyond_every_column_is_cut(self, db):
        assert_problem(obtain("\x01" * 20_000), 401, "not_authenticated")

        (entry,) = entries()
        assert len(entry.actor) == LONGEST_ACTOR
        assert entry.actor.startswith("user:\\x01\\x01")

    @pytest.mark.parametrize(
        "data",
        [
            {"username": "a\x00b", "password": "x"},
            {"username": ["a"], "password": "x"},
            {"username": {"$gt": ""}, "password": "x"},
            {"username": None, "password": "x"},
            {"username": "", "password": "x"},
            {"username": "a"},
        ],
    )
    def test_that_is_no_attempt_is_not_audited(self, db, data):
        response = APIClient().post(OBTAIN, data, format="json")

        assert_problem(response, 400, "invalid_request")
        assert not entries()


class TestAdminLogIn:
    def test_of_a_user_without_a_role_fails_and_says_why(self, make_user):
        make_user("stan", is_staff=True)

        assert sign_in("stan").status_code == 200

        (entry,) = entries()
        assert (entry.action, entry.actor, entry.reason) == (
            "access.login_failed",
            "user:stan",
            "none of the roles",
        )

    def test_without_a_password_is_no_attempt(self, db):
        assert sign_in("stan", "").status_code == 200
        assert not entries()

    def test_is_tried_so_many_times_a_minute_by_one_address(self, db, settings):
        settings.ADMIN_THROTTLE_LOG_IN = "7/min"

        statuses = [sign_in(f"name {n}").status_code for n in range(9)]

        assert statuses == [200] * 7 + [429] * 2
        assert sign_in(REMOTE_ADDR="10.0.0.9").status_code == 200
        # Looking at the form is no attempt.
        assert APIClient().get(ADMIN).status_code == 200
