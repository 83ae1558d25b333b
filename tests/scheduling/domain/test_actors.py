import pytest

from scheduling.domain.actors import (
    CONSUMER,
    RECOVERY,
    SCHEDULER,
    Operation,
    Role,
    authorize,
    cli_actor,
    is_permitted,
    kafka_actor,
    user_actor,
)
from scheduling.domain.errors import OperationNotPermittedError

OVERRIDES = [
    Operation.SCHEDULE,
    Operation.UPDATE,
    Operation.CANCEL,
    Operation.RUN_NOW,
    Operation.RETRY,
]


class TestIsPermitted:
    def test_a_viewer_may_only_look(self):
        assert [op for op in Operation if is_permitted(Role.VIEWER, op)] == [Operation.VIEW]

    @pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN, Role.SYSTEM])
    @pytest.mark.parametrize("operation", OVERRIDES)
    def test_operators_and_above_may_override(self, role, operation):
        assert is_permitted(role, operation)

    def test_an_admin_may_all_that_an_operator_may(self):
        for operation in Operation:
            if is_permitted(Role.OPERATOR, operation):
                assert is_permitted(Role.ADMIN, operation)

    def test_only_the_system_expires(self):
        may = [role for role in Role if is_permitted(role, Operation.EXPIRE)]
        assert may == [Role.SYSTEM]


class TestAuthorize:
    def test_refuses_with_the_role_and_the_operation(self):
        with pytest.raises(OperationNotPermittedError) as caught:
            authorize(user_actor("victor", role=Role.VIEWER), Operation.RUN_NOW)

        assert caught.value.code == "permission_denied"
        assert str(caught.value) == (
            "the role viewer may not run now: that takes the role operator"
        )

    def test_returns_quietly_when_permitted(self):
        authorize(kafka_actor("admin"), Operation.SCHEDULE)


class TestActor:
    def test_is_named_as_the_audit_writes_it(self):
        assert user_actor("ada", role=Role.ADMIN).name == "user:ada"
        assert cli_actor("ada").name == "cli:ada"
        assert kafka_actor("system-1").name == "kafka:system-1"
        assert [one.name for one in (SCHEDULER, RECOVERY, CONSUMER)] == [
            "system:scheduler",
            "system:recovery",
            "system:consumer",
        ]

    def test_people_are_told_from_the_system(self):
        assert user_actor("ada", role=Role.ADMIN).is_person
        assert cli_actor("ada").is_person
        assert not SCHEDULER.is_person
