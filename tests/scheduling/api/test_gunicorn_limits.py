"""Limits behind the real server with two workers: they count together."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from scheduling.models import AuditEntry
from tests.scheduling.api.support import PASSWORD, TRANSITIONS
from tests.support.web import web_process

pytestmark = [
    pytest.mark.processes,
    pytest.mark.first_start,
    pytest.mark.django_db(transaction=True),
]
OBTAIN = "/api/v1/auth/token/"


@pytest.fixture
def server(process_environment, settings, tmp_path):
    """Return the port of two web processes, with limits that are soon reached."""
    # The processes have the product's hashers, not the cheap one of tests.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    environment = {
        **process_environment,
        "WEB_CONCURRENCY": "2",
        "API_THROTTLE_USER": "20/min",
        "API_THROTTLE_TOKEN": "12/min",
    }
    with web_process(environment, log_path=tmp_path / "gunicorn.log") as (_, port):
        yield port


def call(port, path, data=None, **headers):
    """Return status, headers and content of one call, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    try:
        connection.request(
            "GET" if data is None else "POST",
            path,
            body=None if data is None else json.dumps(data),
            headers={"Content-Type": "application/json", **headers},
        )
        response = connection.getresponse()
        return response.status, response.headers, json.load(response)
    finally:
        connection.close()


def log_in(port, name, password=PASSWORD, **headers):
    return call(port, OBTAIN, {"username": name, "password": password}, **headers)


class TestLimits:
    def test_of_a_user_hold_for_fifty_requests_at_once(self, server):
        user = get_user_model().objects.create_user("victor", password=PASSWORD)
        user.groups.add(Group.objects.get(name="viewer"))
        _, _, tokens = log_in(server, "victor")
        authorization = f"Bearer {tokens['access']}"

        with ThreadPoolExecutor(50) as pool:
            answers = list(
                pool.map(
                    lambda _: call(server, TRANSITIONS, Authorization=authorization),
                    range(50),
                )
            )

        statuses = sorted(status for status, _, _ in answers)
        assert statuses == [200] * 20 + [429] * 30
        refused = [answer for answer in answers if answer[0] == 429]
        assert all(0 < int(headers["Retry-After"]) <= 60 for _, headers, _ in refused)
        assert {problem["code"] for _, _, problem in refused} == {"throttled"}

    def test_of_log_ins_hold_for_many_at_once_whatever_they_say_of_themselves(self, server):
        with ThreadPoolExecutor(24) as pool:
            answers = list(
                pool.map(
                    lambda n: log_in(
                        server, f"name {n}", **{"X-Forwarded-For": f"9.9.9.{n}"}
                    ),
                    range(24),
                )
            )

        assert sorted(status for status, _, _ in answers) == [401] * 12 + [429] * 12
        assert AuditEntry.objects.filter(action="access.login_failed").count() == 12
        assert AuditEntry.objects.values_list("changes__address").distinct().get() == (
            "127.0.0.1",
        )

    def test_of_failures_hold_over_both_processes(self, server):
        get_user_model().objects.create_user("olivia", password=PASSWORD)

        statuses = [log_in(server, "olivia", "wrong")[0] for _ in range(7)]
        status, headers, problem = log_in(server, "olivia")

        assert statuses == [401] * 4 + [429] * 3
        assert (status, problem["code"]) == (429, "throttled")
        assert 270 < int(headers["Retry-After"]) <= 300
