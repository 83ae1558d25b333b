"""Our own tokens: given for a password, renewed once each, signed by keys that rotate."""

from datetime import timedelta

import jwt
import pytest
import time_machine
from django.conf import settings as site_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from rest_framework.test import APIClient
from rest_framework_simplejwt.token_blacklist.models import (
    BlacklistedToken,
    OutstandingToken,
)
from rest_framework_simplejwt.tokens import AccessToken as StockAccessToken

from scheduling import tasks
from scheduling.api.tokens import RolesTokenSerializer
from scheduling.models import AuditEntry, RateCount, RevokedTokenFamily
from tests.scheduling.api.forged import in_seconds, sign
from tests.scheduling.api.support import PASSWORD, TRANSITIONS, assert_problem
from tests.scheduling.api.test_access import claims_of
from tests.support.threads import run_together

OBTAIN = "/api/v1/auth/token/"
REFRESH = "/api/v1/auth/token/refresh/"
BLACKLIST = "/api/v1/auth/token/blacklist/"
OLD_KEY = "an-older-signing-key-of-more-than-32-bytes"
OLDER_KEY = "the-oldest-signing-key-of-more-than-32-bytes"


def renew(client, refresh):
    return client.post(REFRESH, {"refresh": str(refresh)}, format="json")


def log_out(client, refresh):
    return client.post(BLACKLIST, {"refresh": str(refresh)}, format="json")


def claims_in(token):
    return jwt.decode(token, options={"verify_signature": False})


def get(token):
    return APIClient(HTTP_AUTHORIZATION=f"Bearer {token}").get(TRANSITIONS)


class TestTokens:
    def obtain(self, client, **data):
        return client.post(OBTAIN, data, format="json")

    def test_open_the_api_and_show_the_role(self, anonymous, make_user):
        make_user("olivia", group="operator")

        tokens = self.obtain(anonymous, username="olivia", password=PASSWORD).json()

        assert set(tokens) == {"access", "refresh"}
        for token in tokens.values():
            claims = jwt.decode(token, options={"verify_signature": False})
            assert claims["roles"] == ["operator"]
        client = APIClient(HTTP_AUTHORIZATION=f"Bearer {tokens['access']}")
        assert client.get(TRANSITIONS).status_code == 200

    def test_live_five_minutes_and_a_day(self, anonymous, make_user):
        make_user("olivia", group="operator")

        tokens = self.obtain(anonymous, username="olivia", password=PASSWORD).json()

        lives = {
            name: claims["exp"] - claims["iat"]
            for name, token in tokens.items()
            for claims in [jwt.decode(token, options={"verify_signature": False})]
        }
        assert lives == {"access": 300, "refresh": 86_400}

    @pytest.mark.parametrize(
        "data",
        [
            {"username": "olivia", "password": "wrong"},
            {"username": "nobody", "password": PASSWORD},
            {"username": "olivia'; --", "password": PASSWORD},
            {"username": "ina", "password": PASSWORD},
        ],
    )
    def test_need_a_true_name_and_password(self, anonymous, make_user, data):
        make_user("olivia", group="operator")
        make_user("ina", is_active=False)

        assert_problem(self.obtain(anonymous, **data), 401, "not_authenticated")

    def test_name_the_fields_that_are_missing(self, anonymous, db):
        problem = assert_problem(self.obtain(anonymous), 400, "invalid_request")

        assert [error["field"] for error in problem["errors"]] == ["username", "password"]

    def test_open_by_a_password_with_spaces_around(self, anonymous, make_user):
        user = make_user("olivia")
        user.set_password(f" {PASSWORD} ")
        user.save()

        answers = [
            anonymous.post(OBTAIN, {"username": "olivia", "password": one}, format="json")
            for one in (f" {PASSWORD} ", PASSWORD)
        ]

        assert [answer.status_code for answer in answers] == [200, 401]

    @pytest.mark.parametrize("path", [OBTAIN, REFRESH, BLACKLIST])
    @pytest.mark.parametrize("body", [b"[]", b"{", b'{"a":1,"a":1}'])
    def test_are_asked_for_in_strict_json(self, anonymous, db, path, body):
        response = anonymous.post(path, body, content_type="application/json")

        assert_problem(response, 400, "invalid_request")

    def test_are_renewed_with_the_role_of_now(self, anonymous, make_user):
        user = make_user("olivia", group="operator")
        refresh = RolesTokenSerializer.get_token(user)
        user.groups.set([Group.objects.get(name="admin")])

        first = renew(anonymous, refresh).json()
        second = renew(anonymous, first["refresh"]).json()

        for pair in (first, second):
            assert claims_in(pair["access"])["roles"] == ["admin"]
            assert claims_in(pair["refresh"])["roles"] == ["admin"]
            assert get(pair["access"]).status_code == 200

    def test_are_kept_nowhere_in_the_database(self, anonymous, make_user):
        make_user("olivia")
        pair = self.obtain(anonymous, username="olivia", password=PASSWORD).json()

        renew(anonymous, pair["refresh"])

        assert set(OutstandingToken.objects.values_list("token", flat=True)) == {""}
        assert OutstandingToken.objects.count() == 2

    def test_know_no_other_method(self, anonymous, db):
        for path in (OBTAIN, REFRESH, BLACKLIST):
            assert_problem(anonymous.get(path), 405, "method_not_allowed")

    def test_are_not_renewed_by_an_access_token(self, anonymous, make_user):
        access = str(RolesTokenSerializer.get_token(make_user("olivia")).access_token)

        response = anonymous.post(REFRESH, {"refresh": access}, format="json")

        assert_problem(response, 401, "not_authenticated")

    @pytest.mark.parametrize("change", ["deleted", "inactive", "new password"])
    def test_are_not_renewed_for_a_user_who_lost_access(self, anonymous, make_user, change):
        user = make_user("olivia", group="operator")
        refresh = str(RolesTokenSerializer.get_token(user))
        match change:
            case "deleted":
                user.delete()
            case "inactive":
                get_user_model().objects.update(is_active=False)
            case _:
                user.set_password("another")
                user.save()

        response = anonymous.post(REFRESH, {"refresh": refresh}, format="json")

        assert_problem(response, 401, "not_authenticated")

    def test_are_not_renewed_after_a_log_out(self, anonymous, make_user):
        refresh = str(RolesTokenSerializer.get_token(make_user("olivia")))

        out = anonymous.post(BLACKLIST, {"refresh": refresh}, format="json")
        response = anonymous.post(REFRESH, {"refresh": refresh}, format="json")

        assert (out.status_code, out.json()) == (200, {})
        assert_problem(response, 401, "not_authenticated")

    @pytest.mark.parametrize("path", [OBTAIN, REFRESH, BLACKLIST])
    def test_are_neither_given_nor_spent_where_a_field_is_unknown(
        self, anonymous, make_user, path
    ):
        make_user("olivia")
        log_in = {"username": "olivia", "password": PASSWORD}
        refresh = anonymous.post(OBTAIN, log_in, format="json").json()["refresh"]
        body = log_in if path == OBTAIN else {"refresh": refresh}

        answer = anonymous.post(path, body | {"x": 1}, format="json")

        assert assert_problem(answer, 400, "invalid_request")["errors"] == [
            {"field": "x", "message": "is not a known field"}
        ]
        again = anonymous.post(REFRESH, {"refresh": refresh}, format="json")
        assert again.status_code == 200

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "is required"),
            ({"refresh": None}, "is required"),
            ({"refresh": ""}, "must not be blank"),
        ],
    )
    def test_say_what_they_miss_as_all_else_does(self, anonymous, db, given, message):
        answer = anonymous.post(REFRESH, given, format="json")

        assert assert_problem(answer, 400, "invalid_request")["errors"] == [
            {"field": "refresh", "message": message}
        ]

    def test_are_not_renewed_past_their_day(self, anonymous, make_user):
        token = RolesTokenSerializer.get_token(make_user("olivia"))
        token.set_exp(lifetime=-timedelta(seconds=1))

        response = anonymous.post(REFRESH, {"refresh": str(token)}, format="json")

        assert_problem(response, 401, "not_authenticated")


class TestAccessToken:
    def test_that_has_expired_says_so(self, make_user):
        token = RolesTokenSerializer.get_token(make_user("olivia")).access_token
        token.set_exp(lifetime=-timedelta(seconds=1))

        response = get(token)

        problem = assert_problem(response, 401, "not_authenticated")
        assert problem["detail"] == "The access token has expired: renew it."
        assert response.headers["WWW-Authenticate"].endswith('error="invalid_token"')

    @pytest.mark.parametrize("kind", ["garbage", "refresh"])
    def test_is_told_from_what_is_none(self, make_user, kind):
        refresh = RolesTokenSerializer.get_token(make_user("olivia"))

        problem = assert_problem(
            get("a.b.c" if kind == "garbage" else refresh), 401, "not_authenticated"
        )

        assert problem["detail"] == "This is no access token of this API."

    def test_is_asked_for_where_there_is_none(self, anonymous, db):
        response = anonymous.get(TRANSITIONS)

        assert response.headers["WWW-Authenticate"] == 'Bearer realm="api"'


class TestSpentToken:
    @pytest.fixture
    def tokens(self, anonymous, make_user):
        """Return three refresh tokens of one log-in; only the last is not spent."""
        first = str(RolesTokenSerializer.get_token(make_user("olivia", group="operator")))
        second = renew(anonymous, first).json()["refresh"]
        third = renew(anonymous, second).json()["refresh"]
        return first, second, third

    def test_is_refused(self, anonymous, tokens):
        response = renew(anonymous, tokens[0])

        problem = assert_problem(response, 401, "not_authenticated")
        assert problem["detail"].endswith("log in again.")
        assert response.headers["Cache-Control"] == "no-store"

    def test_is_kept_by_nobody_on_the_way(self, anonymous, tokens):
        answer = renew(anonymous, tokens[2])

        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("spent", [0, 1])
    @pytest.mark.parametrize("use", [renew, log_out])
    def test_ends_the_whole_log_in(self, anonymous, tokens, spent, use):
        assert use(anonymous, tokens[spent]).status_code == 401

        assert_problem(renew(anonymous, tokens[2]), 401, "not_authenticated")
        assert_problem(log_out(anonymous, tokens[2]), 401, "not_authenticated")

    @pytest.mark.parametrize("ended", ["stolen", "logged out"])
    def test_ends_the_access_tokens_too(self, anonymous, make_user, ended):
        user = make_user("olivia", group="operator")
        other = RolesTokenSerializer.get_token(user)
        first = RolesTokenSerializer.get_token(user)
        tokens = renew(anonymous, first).json()
        opens = [str(first.access_token), tokens["access"]]
        assert [get(one).status_code for one in opens] == [200, 200]

        if ended == "stolen":
            renew(anonymous, first)
        else:
            log_out(anonymous, tokens["refresh"])

        for one in opens:
            problem = assert_problem(get(one), 401, "not_authenticated")
            assert "log-in of this token has ended" in problem["detail"]
        assert get(str(other.access_token)).status_code == 200

    def test_ends_no_other_log_in_of_the_user(self, anonymous, tokens):
        user = get_user_model().objects.get()
        other = RolesTokenSerializer.get_token(user)

        renew(anonymous, tokens[0])

        assert renew(anonymous, other).status_code == 200

    def test_is_audited_once(self, anonymous, tokens):
        for token in tokens:
            anonymous.post(
                REFRESH,
                {"refresh": token},
                format="json",
                headers={"X-Request-Id": "stolen-1"},
            )

        entry = AuditEntry.objects.get(action="access.token_reused")
        assert (entry.actor, entry.role, entry.request_id, entry.changes) == (
            "user:olivia",
            "operator",
            "stolen-1",
            {"door": "api", "address": "127.0.0.1"},
        )

    def test_after_a_log_out_is_no_theft(self, anonymous, make_user):
        refresh = RolesTokenSerializer.get_token(make_user("olivia"))
        log_out(anonymous, refresh)

        assert_problem(renew(anonymous, refresh), 401, "not_authenticated")
        assert not AuditEntry.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestParallelRenewals:
    def test_one_of_ten_wins_and_the_log_in_ends(self, make_user):
        refresh = RolesTokenSerializer.get_token(make_user("olivia"))

        answers = run_together(10, lambda _: renew(APIClient(), refresh))

        assert sorted(answer.status_code for answer in answers) == [200] + [401] * 9
        won = next(answer for answer in answers if answer.status_code == 200)
        assert renew(APIClient(), won.json()["refresh"]).status_code == 401
        assert AuditEntry.objects.filter(action="access.token_reused").count() == 1


class TestKeys:
    def test_an_older_key_opens_the_api_and_renews_while_it_is_listed(
        self, anonymous, make_user, settings
    ):
        claims = claims_of(make_user("olivia", group="operator"))
        access = sign(claims, key=OLD_KEY)
        refresh = sign(claims | {"token_type": "refresh"}, key=OLDER_KEY)

        assert get(access).status_code == 401
        settings.JWT_VERIFYING_KEYS = (OLD_KEY, OLDER_KEY)

        assert get(access).status_code == 200
        renewed = renew(anonymous, refresh)
        assert renewed.status_code == 200
        # What is given is signed by the present key.
        settings.JWT_VERIFYING_KEYS = ()
        assert get(renewed.json()["access"]).status_code == 200

    @pytest.mark.parametrize(
        "change",
        [{"exp": -1}, {"nbf": 60}, {"iss": "x"}, {"aud": "x"}, {"token_type": "refresh"}],
    )
    def test_an_older_key_excuses_nothing_else(self, make_user, settings, change):
        settings.JWT_VERIFYING_KEYS = (OLD_KEY,)
        claims = claims_of(make_user("olivia", group="operator"))
        changed = {
            name: in_seconds(value) if isinstance(value, int) else value
            for name, value in change.items()
        }

        assert get(sign(claims | changed, key=OLD_KEY)).status_code == 401

    def test_a_token_without_a_family_is_one_of_its_own(self, anonymous, make_user):
        claims = claims_of(make_user("olivia")) | {"token_type": "refresh"}
        del claims["family"]
        refresh = sign(claims)

        renewed = renew(anonymous, refresh)
        assert renewed.status_code == 200
        assert renew(anonymous, refresh).status_code == 401

    def test_simplejwt_s_own_access_token_is_one_of_ours(self, make_user):
        token = StockAccessToken.for_user(make_user("olivia", group="viewer"))

        assert get(token).status_code == 200

    def test_a_clock_that_is_ahead_elsewhere_refuses_nothing(self, make_user):
        claims = claims_of(make_user("olivia", group="viewer"))

        assert get(sign(claims | {"iat": in_seconds(2)})).status_code == 200


class TestFlushTokens:
    def test_forgets_what_has_expired_and_nothing_else(self, anonymous, make_user, now):
        user = make_user("olivia")
        with time_machine.travel(now - timedelta(days=2), tick=False):
            old = RolesTokenSerializer.get_token(user)
            renew(anonymous, old)
            renew(anonymous, old)
        young = RolesTokenSerializer.get_token(user)
        renew(anonymous, young)
        RateCount.objects.create(key="old", started_at=now.timestamp() - 90_000, count=1)
        before = (OutstandingToken.objects.count(), RevokedTokenFamily.objects.count())

        tasks.flush_tokens()

        assert before == (4, 1)
        assert OutstandingToken.objects.count() == 2
        assert BlacklistedToken.objects.get().token.jti == young["jti"]
        assert not RevokedTokenFamily.objects.exists()
        assert not RateCount.objects.filter(key="old").exists()

    def test_keeps_an_ended_log_in_ended(self, anonymous, make_user):
        first = RolesTokenSerializer.get_token(make_user("olivia"))
        second = renew(anonymous, first).json()["refresh"]
        renew(anonymous, first)

        tasks.flush_tokens()

        assert renew(anonymous, second).status_code == 401

    def test_is_a_chore(self):
        assert site_settings.CHORES["scheduling.tasks.flush_tokens"] <= timedelta(days=1)
