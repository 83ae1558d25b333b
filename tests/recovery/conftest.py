"""An upstream that tests change, and runs against it."""

import uuid

import pytest

from recovery.results import COUNTERS
from recovery.services import execute_startup_recovery
from scheduling.models import AuditEntry, Challenge, Phase, ScheduledTransition
from tests.scheduling.api.conftest import (  # noqa: F401 -- fixtures
    as_operator,
    as_viewer,
    client_of,
    make_user,
)
from tests.support.challenge_service import api_challenge

# What a run writes of itself.
OWN_ACTIONS = ["recovery.started", "recovery.finished"]


def challenge_id(number):
    return str(uuid.UUID(int=number))


def phase_id(number, place=0):
    return str(uuid.UUID(int=number * 1000 + place))


class Upstream:
    """The scripted Challenge service with its challenges by number."""

    def __init__(self, service, now):
        self.service = service
        self.now = now

    def add(self, number, **fields):
        """Show a challenge; see `api_challenge`. Return what is shown, to be changed."""
        shown = api_challenge(number, now=self.now, **fields)
        self.service.challenges[shown["id"]] = shown
        return shown

    def __getitem__(self, number):
        return self.service.challenges[challenge_id(number)]

    def remove(self, number):
        del self.service.challenges[challenge_id(number)]


@pytest.fixture
def upstream(challenge_api, now):
    """Return the Challenge service in force."""
    return Upstream(challenge_api, now)


@pytest.fixture
def recovery_settings(settings):
    """Return a setter of RECOVERY_* variables."""

    def put(**values):
        settings.RECOVERY = settings.RECOVERY.model_copy(update=values)

    put(batch_delay=0)
    return put


@pytest.fixture
def recover(transactional_db, recovery_settings):
    """Return what carries a run out; by itself it has no pauses."""

    def run(**arguments):
        return execute_startup_recovery(**{"trigger": "manual", **arguments})

    return run


def counts(result):
    """Return the counters that are not zero, without their sum."""
    names = [*COUNTERS.values(), "rescuedJobs"]
    return {name: result[name] for name in names if result[name]}


def jobs():
    """Return phase, state, status and instant of every job, oldest first."""
    rows = ScheduledTransition.objects.order_by("id")
    return [(row.phase_id, row.state, row.status, row.due_at) for row in rows]


def statuses():
    """Return how many jobs there are of each status."""
    found = {}
    for row in ScheduledTransition.objects.all():
        found[row.status] = found.get(row.status, 0) + 1
    return found


def everything():
    """Return every row that recovery may change, but what it writes of itself."""
    return [
        list(ScheduledTransition.objects.order_by("id").values()),
        list(Challenge.objects.order_by("id").values()),
        list(Phase.objects.order_by("id").values()),
        list(
            AuditEntry.objects.exclude(action__in=OWN_ACTIONS).order_by("id").values("id")
        ),
    ]
