"""The command `recover`, which comes in as a record."""

import pytest

from recovery.models import RecoveryRun
from scheduling.messages import read_given_command
from scheduling.services.commands import handle_command
from tests.support.histories import columns, make_job


@pytest.fixture
def give(now):
    """Give the command by the admin."""

    def one(**fields):
        payload = {"command": "Recover", "operator": "admin", **fields}
        return handle_command(read_given_command(payload), now=now)

    return one


@pytest.mark.django_db
class TestRecover:
    def test_has_a_cluster_begin_a_run_and_names_it(self, give, now):
        old = make_job(now=now, due_in=-73 * 3600)

        result = give(projectId=5)

        run = RecoveryRun.objects.get()
        assert result.is_success
        assert result.message == f"run {run.run_id} is NOT_STARTED"
        assert (run.status, run.trigger, run.project_id) == ("NOT_STARTED", "manual", "5")
        assert run.actor == "kafka:admin"
        # Nothing of it is done in the command's own transaction.
        assert columns(old)["status"] == "scheduled"

    def test_names_the_run_that_is_open(self, give):
        give()

        result = give()

        assert str(RecoveryRun.objects.get().run_id) in result.message

    def test_is_refused_where_recovery_is_disabled(self, give, settings):
        settings.RECOVERY = settings.RECOVERY.model_copy(update={"enabled": False})

        result = give()

        assert (result.code, result.is_success) == ("conflict", False)
        assert "RECOVERY_ENABLED" in result.message

    def test_is_refused_to_whom_the_operators_do_not_name(self, give):
        assert give(operator="eve").code == "permission_denied"
        assert not RecoveryRun.objects.exists()
