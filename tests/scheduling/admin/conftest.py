"""What the admin's tests share: clients who are signed in, jobs in each status."""

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import Client

from scheduling.models import ScheduledTransition
from scheduling.services.schedule import schedule_transition


@pytest.fixture
def as_role(db):
    """Return a maker of clients: signed in as somebody who is in that group."""

    def make(role):
        user = get_user_model().objects.create_user(f"{role}-1")
        user.groups.add(Group.objects.get(name=role))
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return make


@pytest.fixture
def make_job(db, operator, phase_data, now):
    """Return a maker of jobs: scheduled ones, then put into the status asked for."""
    made = iter(range(1, 100_000))

    def make(status="scheduled", **columns):
        number = next(made)
        data = phase_data(projectId=7_000 + number, phaseId=100 + number, due_in=86_400)
        job = schedule_transition(data, actor=operator, now=now).job
        if status != "scheduled":
            columns["finalized_at"] = now
        if "due_at" in columns:
            columns.setdefault("ready_at", columns["due_at"])
        if status == "completed":
            columns = {
                "completed_at": now,
                "topic_partition": 0,
                "topic_offset": number,
                "lateness_ms": 3.5,
            } | columns
        rows = ScheduledTransition.objects.filter(pk=job.pk)
        rows.update(status=status, **columns)
        return rows.get()

    return make


@pytest.fixture
def hour():
    """Return an hour."""
    return timedelta(hours=1)
