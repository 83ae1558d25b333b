"""Clients of the API, one for each kind of user, with real tokens."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from rest_framework.test import APIClient

from scheduling.api.tokens import RolesTokenSerializer
from scheduling.models import ScheduledTransition
from scheduling.services.schedule import schedule_transition
from tests.scheduling.api.support import PASSWORD


@pytest.fixture
def make_user(db):
    """Return a maker of users in a group, or in none."""

    def make(name, *, group=None, **fields):
        user = get_user_model().objects.create_user(name, password=PASSWORD, **fields)
        if group:
            user.groups.add(Group.objects.get(name=group))
        return user

    return make


@pytest.fixture
def client_of():
    """Return a maker of clients that carry a user's access token."""

    def make(user):
        token = RolesTokenSerializer.get_token(user).access_token
        return APIClient(HTTP_AUTHORIZATION=f"Bearer {token}")

    return make


@pytest.fixture
def as_viewer(make_user, client_of):
    """Victor, who looks."""
    return client_of(make_user("victor", group="viewer"))


@pytest.fixture
def as_operator(make_user, client_of):
    """Olivia, who overrides."""
    return client_of(make_user("olivia", group="operator"))


@pytest.fixture
def as_admin(make_user, client_of):
    """Adam, who may do all."""
    return client_of(make_user("adam", group="admin"))


@pytest.fixture
def as_stranger(make_user, client_of):
    """Stan, who has an account and no role."""
    return client_of(make_user("stan"))


@pytest.fixture
def anonymous():
    """Whoever has no token."""
    return APIClient()


@pytest.fixture
def add_job(db, operator, phase_data, now):
    """Return a maker of jobs, scheduled by the service."""

    def make(**fields):
        data = phase_data(**fields)
        made = schedule_transition(data, actor=operator, now=now).job
        return ScheduledTransition.objects.get(job_id=made.job_id)

    return make
