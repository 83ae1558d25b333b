"""A host's clock may be an hour wrong: nothing goes out early for it."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.db import connection

from scheduling.adapters import event_publisher, lanes
from scheduling.adapters.clock import ClockGuard, DatabaseClock
from scheduling.models import ScheduledTransition
from scheduling.services.publish import publish_due
from tests.support.histories import make_job


@pytest.fixture
def run_lane(kafka, monkeypatch, transactional_db):
    """Return a lane as in a process of its own, with clocks of its own."""
    monkeypatch.setattr(event_publisher, "_publisher", None)
    monkeypatch.setattr(lanes, "board", lanes.LaneBoard(lanes=1))
    clock, guard = DatabaseClock(), ClockGuard()
    for module in ("publish", "batch"):
        monkeypatch.setattr(f"scheduling.services.{module}.process_clock", clock)
    monkeypatch.setattr("scheduling.services.publish.process_guard", guard)
    return lambda: publish_due(not_before=0.0)


class TestHostAnHourAhead:
    def test_fires_nothing_early(self, run_lane, now, topic):
        """PostgreSQL's clock decides; on SQLite the host's does, so that nothing fires."""
        due, in_half_an_hour = (make_job(now=now, due_in=s) for s in (-1.0, 1800.0))
        run_lane()
        late = make_job(now=now, due_in=-1.0)

        with time_machine.travel(datetime.now(UTC) + timedelta(hours=1), tick=True):
            run_lane()

        expected = {due.job_id: "completed", in_half_an_hour.job_id: "scheduled"}
        is_decided_elsewhere = connection.vendor == "postgresql"
        expected[late.job_id] = "completed" if is_decided_elsewhere else "scheduled"
        rows = ScheduledTransition.objects.filter(job_id__in=expected)
        assert dict(rows.values_list("job_id", "status")) == expected
        fired = {job_id for job_id, status in expected.items() if status == "completed"}
        assert {record.job_id for record in topic.records()} & expected.keys() == fired
