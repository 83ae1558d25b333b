"""Who gets in: tokens true and forged, roles, and what refusals leave behind."""

import jwt
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from rest_framework.test import APIClient

from scheduling.api.tokens import RolesTokenSerializer
from scheduling.models import AuditEntry, ScheduledTransition
from tests.scheduling.api.forged import FORGED, sign
from tests.scheduling.api.support import TRANSITIONS, assert_problem


def claims_of(user):
    """Return all that a true access token of the user says."""
    token = str(RolesTokenSerializer.get_token(user).access_token)
    return jwt.decode(token, options={"verify_signature": False})


class TestBearerToken:
    @pytest.mark.parametrize("kind", FORGED)
    def test_a_forged_token_opens_nothing(self, make_user, kind):
        claims = claims_of(make_user("adam", group="admin"))
        client = APIClient(
            HTTP_AUTHORIZATION=f"Bearer {FORGED[kind](claims, sign(claims))}"
        )

        response = client.get(TRANSITIONS)

        assert_problem(response, 401, "not_authenticated")
        assert response.headers["WWW-Authenticate"] == (
            'Bearer realm="api", error="invalid_token"'
        )

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
        # RFC 6750, section 3.1: of a token nothing is said where none was tried.
        is_told = "invalid_token" in response.headers["WWW-Authenticate"]
        assert is_told == header.startswith("Bearer")

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
