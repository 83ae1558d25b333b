"""The API behind the real server: one life of a job, and bodies of every length."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection

from tests.scheduling.api.support import PASSWORD, TRANSITIONS

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]
START_SECONDS = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(process_environment, settings, tmp_path):
    """Return the port of a web process; it must stop at one SIGTERM."""
    # The process has the product's hashers, not the cheap one of tests.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    port = free_port()
    log = (tmp_path / "gunicorn.log").open("w+")
    environment = {**process_environment, "PORT": str(port)}
    environment.pop("DEBUG", None)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "-k", "asgi", "--no-control-socket"),
            *("--bind", f"127.0.0.1:{port}", "autopilot_site.asgi:application"),
        ],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_until_it_answers(port, process, log)
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
        log.close()


def wait_until_it_answers(port, process, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            call_raw(port, "/livez")
        except OSError:
            assert process.poll() is None, log.seek(0) or log.read()
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.seek(0) or log.read())


def call_raw(port, path):
    """Return the media type of a page that must be there."""
    address = f"http://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(address, timeout=20) as page:
        assert page.status == 200
        return page.headers.get_content_type()


def call(port, path, data=None, *, token=None):
    """Return status and content of a call; POST where there is data."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if data is None else json.dumps(data).encode(),
        headers=headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 -- http
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def sign_in(port):
    user = get_user_model().objects.create_user("olivia", password=PASSWORD)
    user.groups.add(Group.objects.get(name="operator"))
    status, tokens = call(
        port, "/api/v1/auth/token/", {"username": "olivia", "password": PASSWORD}
    )
    assert status == 200
    return tokens["access"]


def send_chunks(port, token, chunks):
    """Return status and content of a POST without a Content-Length."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(
            "POST",
            TRANSITIONS,
            body=iter(chunks),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {token}",
            },
            encode_chunked=True,
        )
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


def some_phase(**fields):
    return {
        "projectId": 1,
        "phaseId": 2,
        "phaseTypeName": "Review",
        "state": "START",
        "endTime": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "projectStatus": "ACTIVE",
        **fields,
    }


def count_other_connections():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return cursor.fetchone()[0]


class TestServer:
    def test_serves_the_life_of_a_job(self, server):
        token = sign_in(server)

        created, job = call(server, TRANSITIONS, some_phase(), token=token)
        listed, page = call(server, TRANSITIONS, token=token)
        path = f"{TRANSITIONS}{job['jobId']}/"
        shown, same = call(server, path, token=token)
        cancelled, done = call(server, f"{path}cancel/", {"reason": "over"}, token=token)
        audited, records = call(server, f"{path}audit/", token=token)
        refused, problem = call(server, TRANSITIONS)

        assert (created, listed, shown, cancelled, audited) == (201, 200, 200, 200, 200)
        assert page["results"] == [job]
        assert same == {**job, "archivedAt": None}
        assert done["status"] == "cancelled"
        assert [record["action"] for record in records] == [
            "transition.scheduled",
            "transition.cancelled",
        ]
        assert (refused, problem["code"]) == (401, "not_authenticated")

    def test_serves_bodies_of_every_length_with_and_without_it_told(self, server):
        token = sign_in(server)
        body = json.dumps(some_phase()).encode()
        mebibyte = b" " * 2**20

        small = send_chunks(server, token, [body[:10], body[10:]])
        at_limit = send_chunks(server, token, [body, b" " * (2**18 - len(body))])
        over = [
            send_chunks(server, token, [body, b" " * 2**18]),
            send_chunks(server, token, [mebibyte] * 10),
            call(server, TRANSITIONS, some_phase(metadata={"a": "x" * 2**18}), token=token),
            call(server, TRANSITIONS, some_phase(metadata={"a": "x" * 2**23}), token=token),
        ]

        assert small[0] == 201
        assert at_limit[0] == 200
        for status, problem in over:
            assert (status, problem["status"], problem["code"]) == (
                413,
                413,
                "payload_too_large",
            )

    def test_serves_the_documentation_with_its_files(self, server):
        for path, content_type in (
            ("/api/docs/", "text/html"),
            ("/api/schema/", "application/vnd.oai.openapi"),
            ("/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui.css", "text/css"),
            ("/static/admin/css/base.css", "text/css"),
            ("/admin/login/", "text/html"),
        ):
            assert call_raw(server, path) == content_type, path

    @pytest.mark.postgres
    def test_keeps_no_connection_for_a_thread_that_ends(self, server):
        if connection.vendor != "postgresql":
            pytest.skip("SQLite has no server to ask")
        token = sign_in(server)
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda _: call(server, TRANSITIONS, token=token), range(30)))

        # Django closes a connection just after it has answered.
        deadline = time.monotonic() + 5
        while (count := count_other_connections()) and time.monotonic() < deadline:
            time.sleep(0.1)

        assert count == 0
