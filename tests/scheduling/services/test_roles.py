import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.core.management import call_command

from scheduling.domain.actors import Role
from scheduling.services.roles import role_of


@pytest.mark.django_db
class TestFillRoleGroups:
    def test_the_groups_come_with_the_migrations(self):
        names = Group.objects.values_list("name", flat=True)
        assert {"viewer", "operator", "admin"} <= set(names)

    @pytest.mark.parametrize("name", ["viewer", "operator", "admin"])
    def test_members_may_view_jobs_and_audit_and_change_nothing(self, name):
        user = User.objects.create_user("u")
        user.groups.add(Group.objects.get(name=name))

        permissions = user.get_all_permissions()

        ours = {one for one in permissions if one.startswith("scheduling.")}
        assert {"scheduling.view_scheduledtransition", "scheduling.view_auditentry"} <= ours
        assert all(one.startswith("scheduling.view_") for one in ours)

    def test_a_second_migrate_changes_nothing(self):
        before = set(Group.objects.values_list("name", "permissions"))

        call_command("migrate", verbosity=0)

        assert set(Group.objects.values_list("name", "permissions")) == before


@pytest.mark.django_db
class TestRoleOf:
    @pytest.fixture
    def member(self):
        """Return a maker of users in groups."""

        def make(*groups, **fields):
            user = User.objects.create_user("u", **fields)
            user.groups.set(Group.objects.filter(name__in=groups))
            return user

        return make

    @pytest.mark.parametrize(
        ("groups", "role"),
        [
            ([], None),
            (["viewer"], Role.VIEWER),
            (["operator"], Role.OPERATOR),
            (["viewer", "admin"], Role.ADMIN),
            (["operator", "viewer"], Role.OPERATOR),
        ],
    )
    def test_is_the_highest_of_the_groups(self, member, groups, role):
        assert role_of(member(*groups)) is role

    def test_a_superuser_counts_as_admin(self, member):
        assert role_of(member(is_superuser=True)) is Role.ADMIN

    def test_somebody_else_s_group_gives_no_role(self, member):
        Group.objects.create(name="Operator")
        assert role_of(member("Operator")) is None

    def test_nobody_has_a_role_who_may_not_sign_in(self, member):
        assert role_of(member("admin", is_superuser=True, is_active=False)) is None
        assert role_of(AnonymousUser()) is None

    def test_is_read_anew_each_time(self, member):
        user = member("admin")
        assert role_of(user) is Role.ADMIN

        user.groups.clear()

        assert role_of(user) is None
