"""Users and groups in the admin: the role admin's alone, and in the audit."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import Client

from scheduling.models import AuditEntry

USERS = "/admin/auth/user/"
GROUPS = "/admin/auth/group/"


@pytest.fixture
def as_role(db):
    """Return a maker of signed-in clients."""

    def make(role):
        user = get_user_model().objects.create_user(
            f"{role}-1", is_superuser=role == "super"
        )
        if role != "super":
            user.groups.add(Group.objects.get(name=role))
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return make


@pytest.fixture
def user(db):
    """Return somebody without a role."""
    return get_user_model().objects.create_user("norma", password="a-secret-for-tests")  # noqa: S106


def form(user, **fields):
    return {"username": user.username, "is_active": "on", "groups": [], **fields}


class TestUsers:
    def test_get_a_role_from_an_admin_and_the_audit_is_told(self, as_role, user):
        group = Group.objects.get(name="operator")

        response = as_role("admin").post(
            f"{USERS}{user.pk}/change/", form(user, groups=[group.pk])
        )

        assert response.status_code == 302
        assert list(user.groups.all()) == [group]
        entry = AuditEntry.objects.get(action="account.changed")
        assert entry.actor == "user:admin-1"
        assert entry.changes["user"] == "norma"
        assert entry.changes["groups"] == ["operator"]

    @pytest.mark.parametrize("role", ["viewer", "operator"])
    @pytest.mark.parametrize("path", [USERS, GROUPS, f"{USERS}add/"])
    def test_are_nobody_elses(self, as_role, user, role, path):
        client = as_role(role)

        assert client.get(path).status_code == 403
        assert client.post(f"{USERS}{user.pk}/change/", form(user)).status_code == 403
        assert (
            f'href="{USERS}"'
            not in client.get("/admin/scheduling/auditentry/").content.decode()
        )

    def test_do_not_become_superusers_by_a_forged_field(self, as_role, user):
        as_role("admin").post(
            f"{USERS}{user.pk}/change/", form(user, is_superuser="on", is_staff="on")
        )

        user.refresh_from_db()
        assert not user.is_superuser
        assert not user.is_staff

    def test_that_are_superusers_are_not_an_admins(self, as_role, db):
        as_role("super")
        boss = get_user_model().objects.get(username="super-1")
        client = as_role("admin")

        assert client.post(f"{USERS}{boss.pk}/change/", form(boss)).status_code == 403
        assert client.get(f"{USERS}{boss.pk}/password/").status_code == 403
        assert client.post(f"{USERS}{boss.pk}/delete/", {"post": "yes"}).status_code == 403

    def test_are_added_and_deleted_with_a_trace(self, as_role, user):
        client = as_role("admin")
        secret = "long-enough-for-the-checks"  # noqa: S105
        added = {"username": "nelly", "password1": secret, "password2": secret}

        client.post(f"{USERS}add/", {**added, "usable_password": "true"})
        client.post(f"{USERS}{user.pk}/delete/", {"post": "yes"})

        actions = AuditEntry.objects.filter(action__startswith="account.")
        assert [(e.action, e.changes["user"]) for e in actions] == [
            ("account.added", "nelly"),
            ("account.deleted", "norma"),
        ]


class TestGroups:
    def test_that_are_roles_stay(self, as_role, db):
        client = as_role("admin")
        group = Group.objects.get(name="operator")

        renamed = client.post(f"{GROUPS}{group.pk}/change/", {"name": "boss"})
        deleted = client.post(f"{GROUPS}{group.pk}/delete/", {"post": "yes"})

        assert (renamed.status_code, deleted.status_code) == (403, 403)
        assert Group.objects.filter(name="operator").exists()
