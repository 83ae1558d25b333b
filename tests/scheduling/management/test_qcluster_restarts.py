"""How long `manage.py qcluster` waits before it starts the cluster afresh."""

import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from django.core.management import call_command

from scheduling.management.commands import qcluster

pytestmark = pytest.mark.django_db


@pytest.fixture
def waits(monkeypatch):
    """Return a function that lets clusters live for so long, and returns the waits."""

    def run(*lives):
        left, found = list(lives), []

        def start():
            lived = left.pop(0) if left else 0.0
            return SimpleNamespace(started_at=time.monotonic() - lived, exit_code=70)

        def select(readers, writers, troubled, seconds):
            found.append(seconds)
            # The stop comes in the last one's wait.
            return (readers if len(found) == len(lives) else [], [], [])

        monkeypatch.setattr(qcluster, "RunningCluster", start)
        monkeypatch.setattr(qcluster, "Companions", Mock())
        monkeypatch.setattr(qcluster, "_listen_for_stop", lambda: 0)
        monkeypatch.setattr(qcluster, "_watch", lambda *_, **__: False)
        monkeypatch.setattr(qcluster.select, "select", select)
        call_command("qcluster")
        return found

    return run


class TestRestart:
    def test_waits_the_longer_the_sooner_it_crashes_again(self, waits):
        found = waits(*[1.0] * 10)

        assert found[:4] == [0.05, 0.1, 0.2, 0.4]
        assert found[-1] == qcluster.LONGEST_WAIT_SECONDS

    def test_is_immediate_for_what_has_fired_for_a_while(self, waits):
        assert waits(1.0, 1.0, 6.0, 6.0) == [0.05, 0.1, 0.05, 0.05]
