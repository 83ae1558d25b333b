"""Who gets in: tokens true and forged, roles, and what refusals leave behind."""

import base64
import json
from datetime import timedelta
from unittest.mock import patch

import jwt
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import RefreshToken

from scheduling.api.tokens import RolesTokenSerializer
from scheduling.models import AuditEntry, ScheduledTransition
from tests.scheduling.api.support import PASSWORD, TRANSITIONS, assert_problem

OBTAIN = "/api/v1/auth/token/"
REFRESH = "/api/v1/auth/token/refresh/"
BLACKLIST = "/api/v1/auth/token/blacklist/"


def claims_of(user):
    """Return all that a true access token of the user says."""
    token = str(RolesTokenSerializer.get_token(user).access_token)
    return jwt.decode(token, options={"verify_signature": False})


def sign(claims, *, key=None, algorithm="HS256"):
    return jwt.encode(claims, key or settings.JWT_SIGNING_KEY, algorithm=algorithm)


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def without(claims, name):
    return {key: value for key, value in claims.items() if key != name}


# Kind: the token that a maker gives for true claims and the true token.
FORGED = {
    "none": lambda claims, _: jwt.encode(claims, None, algorithm="none"),
    "none with the signature of another": lambda _, token: ".".join(
        [part({"alg": "none", "typ": "JWT"}), *token.split(".")[1:]]
    ),
    "wrong key": lambda claims, _: sign(
        claims, key="another-key-of-more-than-thirty-two-bytes"
    ),
    "the site's secret": lambda claims, _: sign(claims, key=settings.SECRET_KEY),
    "another algorithm": lambda claims, _: sign(
        claims, key=settings.JWT_SIGNING_KEY.ljust(64, "x"), algorithm="HS512"
    ),
    "no signature": lambda _, token: token.rpartition(".")[0] + ".",
    "changed claims": lambda claims, token: ".".join(
        [token.split(".")[0], part(claims | {"jti": "x"}), token.split(".")[2]]
    ),
    "expired": lambda claims, _: sign(claims | {"exp": claims["iat"] - 1}),
    "no expiry": lambda claims, _: sign(without(claims, "exp")),
    "wrong issuer": lambda claims, _: sign(claims | {"iss": "somebody"}),
    "no issuer": lambda claims, _: sign(without(claims, "iss")),
    "wrong audience": lambda claims, _: sign(claims | {"aud": "somebody"}),
    "no audience": lambda claims, _: sign(without(claims, "aud")),
    "refresh token": lambda claims, _: sign(claims | {"token_type": "refresh"}),
    "no type": lambda claims, _: sign(without(claims, "token_type")),
    "unknown user": lambda claims, _: sign(claims | {"user_id": "999999"}),
    "no user": lambda claims, _: sign(without(claims, "user_id")),
    "user that is no number": lambda claims, _: sign(claims | {"user_id": {"$gt": 0}}),
    "garbage": lambda *_: "a.b.c",
}


class TestBearerToken:
    @pytest.mark.parametrize("kind", FORGED)
    def test_a_forged_token_opens_nothing(self, make_user, kind):
        claims = claims_of(make_user("adam", group="admin"))
        client = APIClient(
            HTTP_AUTHORIZATION=f"Bearer {FORGED[kind](claims, sign(claims))}"
        )

        response = client.get(TRANSITIONS)

        assert_problem(response, 401, "not_authenticated")
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="api"'

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_the_same_claims_unforged_do(self, scheme, make_user):
        token = sign(claims_of(make_user("adam", group="admin")))

        response = APIClient(HTTP_AUTHORIZATION=f"{scheme} {token}").get(TRANSITIONS)

        assert response.status_code == 200

    @pytest.mark.parametrize(
        "header", ["", "Bearer", "Bearer ", "Bearer a b", "Basic YTpi", "x", "Bearer \xff"]
    )
    def test_another_header_opens_nothing(self, db, header):
        response = APIClient(HTTP_AUTHORIZATION=header).get(TRANSITIONS)

        assert_problem(response, 401, "not_authenticated")

    def test_a_session_opens_nothing(self, make_user):
        client = APIClient()
        client.force_login(make_user("adam", group="admin"))

        assert_problem(client.get(TRANSITIONS), 401, "not_authenticated")

    def test_an_inactive_user_is_not_let_in(self, make_user, client_of):
        user = make_user("olivia", group="operator")
        client = client_of(user)
        get_user_model().objects.update(is_active=False)

        assert_problem(client.get(TRANSITIONS), 401, "not_authenticated")

    def test_a_changed_password_ends_the_tokens(self, make_user, client_of):
        user = make_user("olivia", group="operator")
        client = client_of(user)
        user.set_password("another")
        user.save()

        assert_problem(client.get(TRANSITIONS), 401, "not_authenticated")


class TestRolePermission:
    READ = (TRANSITIONS, f"{TRANSITIONS}job-1-2-3/", f"{TRANSITIONS}job-1-2-3/audit/")

    @pytest.mark.parametrize("path", READ)
    @pytest.mark.parametrize("client", ["as_viewer", "as_operator", "as_admin"])
    def test_every_role_reads(self, request, client, path):
        response = request.getfixturevalue(client).get(path)

        assert response.status_code == (200 if path == TRANSITIONS else 404)

    @pytest.mark.parametrize("path", READ)
    def test_a_user_without_a_role_reads_nothing(self, as_stranger, path):
        assert_problem(as_stranger.get(path), 403, "permission_denied")

    @pytest.mark.parametrize("path", READ)
    def test_nobody_reads_without_a_token(self, anonymous, db, path):
        assert_problem(anonymous.get(path), 401, "not_authenticated")

    def test_a_superuser_needs_no_group(self, make_user, client_of, phase_data):
        client = client_of(make_user("root", is_superuser=True))

        response = client.post(TRANSITIONS, phase_data(), format="json")

        assert response.status_code == 201
        assert AuditEntry.objects.get().role == "admin"

    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    def test_operators_schedule(self, request, client, phase_data):
        client = request.getfixturevalue(client)

        assert client.post(TRANSITIONS, phase_data(), format="json").status_code == 201

    @pytest.mark.parametrize("client", ["as_viewer", "as_stranger"])
    @pytest.mark.parametrize("data", ["good", "empty"])
    def test_others_schedule_nothing(self, request, client, phase_data, data):
        data = phase_data() if data == "good" else {}

        response = request.getfixturevalue(client).post(TRANSITIONS, data, format="json")

        assert_problem(response, 403, "permission_denied")
        assert not ScheduledTransition.objects.exists()

    @pytest.mark.parametrize("client", ["as_viewer", "as_stranger"])
    def test_others_cancel_nothing(self, request, client, add_job):
        job = add_job()

        response = request.getfixturevalue(client).post(
            f"{TRANSITIONS}{job.job_id}/cancel/", {"reason": "x"}, format="json"
        )

        assert_problem(response, 403, "permission_denied")
        job.refresh_from_db()
        assert job.status == "scheduled"

    @pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
    def test_nobody_writes_without_a_token(self, anonymous, db, method):
        assert_problem(getattr(anonymous, method)(TRANSITIONS), 401, "not_authenticated")

    def test_a_withdrawn_role_ends_at_once_whatever_the_token_says(
        self, make_user, client_of, phase_data
    ):
        user = make_user("olivia", group="operator")
        client = client_of(user)
        user.groups.set([Group.objects.get(name="viewer")])

        assert client.get(TRANSITIONS).status_code == 200
        response = client.post(TRANSITIONS, phase_data(), format="json")
        assert_problem(response, 403, "permission_denied")

        user.groups.clear()
        assert_problem(client.get(TRANSITIONS), 403, "permission_denied")

    def test_a_claim_of_roles_gives_none(self, make_user, phase_data):
        claims = claims_of(make_user("victor", group="viewer")) | {"roles": ["admin"]}
        client = APIClient(HTTP_AUTHORIZATION=f"Bearer {sign(claims)}")

        response = client.post(TRANSITIONS, phase_data(), format="json")

        assert_problem(response, 403, "permission_denied")


class TestRefusal:
    @pytest.mark.parametrize(
        ("client", "name", "role"),
        [("as_viewer", "victor", "viewer"), ("as_stranger", "stan", "")],
    )
    def test_is_audited(self, request, client, name, role):
        request.getfixturevalue(client).post(
            f"{TRANSITIONS}job-1/cancel/",
            {"reason": "x"},
            format="json",
            headers={"X-Request-Id": "r-9"},
        )

        entry = AuditEntry.objects.get()
        assert (entry.action, entry.actor, entry.role, entry.job_id, entry.request_id) == (
            "access.refused",
            f"user:{name}",
            role,
            "",
            "r-9",
        )
        assert entry.changes == {"method": "POST", "path": f"{TRANSITIONS}job-1/cancel/"}

    def test_is_audited_whatever_the_path_holds(self, as_stranger):
        as_stranger.get(f"{TRANSITIONS}%00%ff%F0%9F%98%80'/?secret=1")

        path = AuditEntry.objects.get().changes["path"]
        assert path.startswith(f"{TRANSITIONS}%00")
        assert "secret" not in path

    def test_without_a_token_leaves_no_trace(self, anonymous, db):
        anonymous.post(TRANSITIONS, {}, format="json")

        assert not AuditEntry.objects.exists()


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

    @pytest.mark.parametrize("path", [OBTAIN, REFRESH, BLACKLIST])
    @pytest.mark.parametrize("body", [b"[]", b"{", b'{"a":1,"a":1}'])
    def test_are_asked_for_in_strict_json(self, anonymous, db, path, body):
        response = anonymous.post(path, body, content_type="application/json")

        assert_problem(response, 400, "invalid_request")

    def test_are_renewed_once_with_the_role_of_now(self, anonymous, make_user):
        user = make_user("olivia", group="operator")
        refresh = str(RolesTokenSerializer.get_token(user))
        user.groups.set([Group.objects.get(name="admin")])

        first = anonymous.post(REFRESH, {"refresh": refresh}, format="json")
        second = anonymous.post(REFRESH, {"refresh": refresh}, format="json")

        claims = jwt.decode(first.json()["access"], options={"verify_signature": False})
        assert claims["roles"] == ["admin"]
        assert_problem(second, 401, "not_authenticated")
        renewed = anonymous.post(
            REFRESH, {"refresh": first.json()["refresh"]}, format="json"
        )
        assert renewed.status_code == 200

    def test_are_renewed_once_also_by_two_requests_at_a_time(self, anonymous, make_user):
        refresh = str(RolesTokenSerializer.get_token(make_user("olivia")))

        # Both have looked before either has spent it.
        with patch.object(RefreshToken, "check_blacklist"):
            answers = [
                anonymous.post(REFRESH, {"refresh": refresh}, format="json")
                for _ in range(2)
            ]

        assert [answer.status_code for answer in answers] == [200, 401]

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

    def test_are_not_renewed_past_their_day(self, anonymous, make_user):
        token = RolesTokenSerializer.get_token(make_user("olivia"))
        token.set_exp(lifetime=-timedelta(seconds=1))

        response = anonymous.post(REFRESH, {"refresh": str(token)}, format="json")

        assert_problem(response, 401, "not_authenticated")
