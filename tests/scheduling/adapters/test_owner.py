"""A claim's owner is called dead only on proof."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from scheduling.adapters.owner import Owner

NOW = datetime.now(UTC)


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def owner_of(process, **fields):
    from scheduling.adapters.owner import _process_identity, host_identity

    values = {"host": host_identity(), "process": _process_identity(process.pid)}
    return Owner(**{**values, "session": "", **fields})


@pytest.mark.django_db
class TestOwner:
    def test_of_this_process_lives_and_survives_its_text_form(self):
        me = Owner.current()

        assert Owner.parse(str(me)) == me
        assert not me.is_dead(claimed_at=NOW)

    def test_is_dead_once_its_process_on_this_host_is_gone(self, sleeper):
        owner = owner_of(sleeper)
        assert not owner.is_dead(claimed_at=NOW)

        sleeper.kill()
        sleeper.wait()

        assert owner.is_dead(claimed_at=NOW)

    def test_is_dead_as_a_zombie(self, sleeper):
        owner = owner_of(sleeper)

        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

        assert owner.is_dead(claimed_at=NOW)

    def test_is_dead_where_its_pid_belongs_to_another_process_now(self):
        owner = Owner(host=Owner.current().host, process=f"{os.getpid()}@1", session="")

        assert owner.is_dead(claimed_at=NOW)

    def test_of_another_host_is_not_proven_dead_without_a_session(self):
        owner = Owner(host="elsewhere/x/1", process="1@1", session="")

        assert not owner.is_dead(claimed_at=NOW)


@pytest.mark.postgres
@pytest.mark.django_db
class TestOwnerOnAnotherHost:
    @pytest.fixture(autouse=True)
    def _only_on_postgres(self):
        if connection.vendor != "postgresql":
            pytest.skip("DATABASE_URL names no PostgreSQL")

    def test_lives_while_its_session_does(self):
        owner = Owner(host="elsewhere/x/1", process="1@1", session=Owner.current().session)

        assert not owner.is_dead(claimed_at=NOW)

    def test_is_dead_once_its_session_is_gone(self):
        owner = Owner(host="elsewhere/x/1", process="1@1", session="999999999@1")

        assert owner.is_dead(claimed_at=NOW)

    def test_is_not_proven_dead_by_a_session_lost_in_a_restart_of_the_server(self):
        before_the_server_started = NOW - timedelta(days=4000)
        owner = Owner(host="elsewhere/x/1", process="1@1", session="999999999@1")

        assert not owner.is_dead(claimed_at=before_the_server_started)
