"""Which periodic chores the due-broker hands out, and when."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django_q.signing import SignedPackage

from scheduling.adapters.due_broker import DueBroker

pytestmark = pytest.mark.django_db
FREQUENT = {"a": timedelta(seconds=5), "b": timedelta(seconds=5)}
RARE = {"c": timedelta(seconds=60), "d": timedelta(hours=1)}


class TestDueChores:
    @pytest.fixture
    def started(self, settings, now, monkeypatch):
        """Return a function that lets so many seconds pass, and tells what was started."""
        settings.CHORES = FREQUENT | RARE
        broker = DueBroker()
        clock = {"seconds": 1_000.0}
        monkeypatch.setattr(
            "scheduling.adapters.due_broker.database_now",
            lambda: now + timedelta(seconds=clock["seconds"]),
        )
        monkeypatch.setattr(
            "scheduling.adapters.due_broker.time",
            SimpleNamespace(monotonic=lambda: clock["seconds"]),
        )

        def run(seconds):
            found = []
            for _ in range(int(seconds * 4)):
                clock["seconds"] += 0.25
                tasks = broker._due_chores()
                assert len(tasks) <= 1
                found += [SignedPackage.loads(task)["func"] for _, task in tasks]
            return found

        return run

    def test_gives_each_its_turn(self, started):
        found = started(60)

        assert {"c", "d"} <= set(found)
        assert 8 <= found.count("a") <= 12
        assert 8 <= found.count("b") <= 12

    def test_starts_none_before_its_time(self, started):
        assert sorted(started(4)) == ["a", "b", "c", "d"]
