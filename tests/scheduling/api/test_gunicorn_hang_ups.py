"""Clients that hang up while they are served: what they held is given back."""

import http.client
import json
import socket
import time

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection, transaction

from scheduling.models import ScheduledTransition
from tests.scheduling.api.support import PASSWORD, TRANSITIONS
from tests.support.web import web_process

pytestmark = [
    pytest.mark.processes,
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="DATABASE_URL names no PostgreSQL"
    ),
]
# Each time more than there are connections in the pool.
HANG_UPS = 30
HANG_UP_AFTER = (0.01, 0.02, 0.1)
# The server asks an application to give up 3 s after its client has hung up.
HELD_SECONDS = 4.0


@pytest.fixture
def server(process_environment, settings, tmp_path):
    """Return the port of a web process."""
    # The process has the product's hashers, not the cheap one of tests.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    environment = {
        **process_environment,
        "API_THROTTLE_USER": "9999/min",
        "API_THROTTLE_TOKEN": "9999/min",
    }
    with web_process(environment, log_path=tmp_path / "gunicorn.log") as (_, port):
        yield port


def call(port, method, path, data=None, **headers):
    """Return the status and the JSON of one call."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        body = None if data is None else json.dumps(data)
        headers = {"Content-Type": "application/json", **headers}
        client.request(method, path, body=body, headers=headers)
        response = client.getresponse()
        return response.status, json.load(response)
    finally:
        client.close()


def hang_up(port, path, authorization, *, after):
    """Ask for something, and be gone before the answer comes."""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {authorization}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request.encode())
        time.sleep(after)


def sessions():
    """Return how many other sessions there are on this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return cursor.fetchone()[0]


class TestHangUps:
    def test_cost_no_connection_to_the_database(self, server):
        user = get_user_model().objects.create_user("victor", password=PASSWORD)
        user.groups.add(Group.objects.get(name="viewer"))
        _, tokens = call(
            server,
            "POST",
            "/api/v1/auth/token/",
            {"username": "victor", "password": PASSWORD},
        )
        authorization = f"Bearer {tokens['access']}"

        for after in HANG_UP_AFTER:
            with transaction.atomic(), connection.cursor() as cursor:
                # They are cut off while their threads wait for the database.
                cursor.execute(f"LOCK TABLE {ScheduledTransition._meta.db_table}")
                for _ in range(HANG_UPS):
                    hang_up(server, TRANSITIONS, authorization, after=after)
                time.sleep(HELD_SECONDS)

        # More than the pool holds were cut off; each answer needs one of its connections.
        for _ in range(30):
            status, _ = call(server, "GET", TRANSITIONS, Authorization=authorization)
            assert status == 200
        assert sessions() <= 24
