"""The API behind the real server: one life of a job, and bodies of every length."""

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection, transaction

from scheduling.api.gate import MOST_REQUESTS
from scheduling.models import AuditEntry, ScheduledTransition
from tests.scheduling.api.support import PASSWORD, TRANSITIONS
from tests.support.histories import make_job
from tests.support.web import web_process

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]
AUDIT = "/api/v1/audit/"
# Each time more clients than there are connections in the pool.
HANG_UPS = 30
HANG_UP_AFTER = (0.01, 0.02, 0.1)
# The server asks an application to give up 3 s after its client has hung up.
HELD_SECONDS = 4.0


@pytest.fixture
def server(process_environment, settings, tmp_path):
    """Return the port of a web process; it must stop at one SIGTERM."""
    # The process has the product's hashers, not the cheap one of tests.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    log_path = tmp_path / "gunicorn.log"
    with web_process(process_environment, log_path=log_path) as (_, port):
        yield port


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

    def test_serves_a_careful_client(self, server):
        headers = {
            "Authorization": f"Bearer {sign_in(server)}",
            "Content-Type": "application/json",
        }

        def ask(method, path, data=None, **more):
            link = http.client.HTTPConnection("127.0.0.1", server, timeout=20)
            try:
                body = None if data is None else json.dumps(data)
                names = {name.replace("_", "-"): value for name, value in more.items()}
                link.request(method, path, body, headers | names)
                response = link.getresponse()
                return response.status, dict(response.getheaders()), response.read()
            finally:
                link.close()

        first = ask("POST", TRANSITIONS, some_phase(phaseId=7), Idempotency_Key="k-1")
        path = f"{TRANSITIONS}{json.loads(first[2])['jobId']}/"
        tag = first[1]["ETag"]
        unread = ask("GET", path, If_None_Match=tag)
        moved = ask("PATCH", path, {"projectStatus": "DRAFT"}, If_Match=tag)
        late = ask("POST", f"{path}run-now/", {"reason": "x"}, If_Match=tag)
        new = f"{TRANSITIONS}{json.loads(moved[2])['jobId']}/"
        run = ask("POST", f"{new}run-now/", {"reason": "x"}, If_Match=moved[1]["ETag"])

        assert (first[0], unread[0], moved[0], late[0], run[0]) == (201, 304, 200, 412, 202)
        assert unread[2] == b""
        assert json.loads(moved[2])["replaces"] in path

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
            ("/api/docs/?script=", "application/javascript"),
        ):
            assert call_raw(server, path) == content_type, path

    @pytest.mark.postgres
    def test_shares_few_connections_among_the_threads_of_requests(self, server):
        if connection.vendor != "postgresql":
            pytest.skip("SQLite has no server to ask")
        token = sign_in(server)

        with ThreadPoolExecutor(40) as pool:
            answers = list(
                pool.map(lambda _: call(server, TRANSITIONS, token=token), range(120))
            )

        assert {status for status, _ in answers} == {200}
        assert 1 <= count_other_connections() <= MOST_REQUESTS + 4


@contextmanager
def asking(port, path, token):
    """Ask for something, and read nothing of the answer."""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(request.encode())
        yield


def hang_up(port, path, token, *, after):
    """Ask for something, and be gone before the answer comes."""
    with asking(port, path, token):
        time.sleep(after)


class TestSlowClients:
    @pytest.mark.parametrize("path", [f"{TRANSITIONS}?pageSize=500", f"{AUDIT}?format=csv"])
    def test_hold_up_nobody_else(self, server, now, path):
        token = sign_in(server)
        # More than what the kernel takes for a client that does not read.
        large = {"text": "x" * 60_000}
        for _ in range(100):
            make_job(now=now, metadata=large)
        AuditEntry.objects.bulk_create(
            AuditEntry(at=now, action="settings.changed", actor="user:ada", changes=large)
            for _ in range(100)
        )

        with ExitStack() as stack:
            for _ in range(MOST_REQUESTS + 10):
                stack.enter_context(asking(server, path, token))
            time.sleep(1)
            status, _ = call(server, "/api/v1/stats/", token=token)

        assert status == 200


@pytest.mark.postgres
@pytest.mark.skipif(
    connection.vendor != "postgresql", reason="DATABASE_URL names no PostgreSQL"
)
class TestHangUps:
    def test_cost_no_connection_to_the_database(self, server):
        token = sign_in(server)

        for after in HANG_UP_AFTER:
            with transaction.atomic(), connection.cursor() as cursor:
                # They are cut off while their threads wait for the database.
                cursor.execute(f"LOCK TABLE {ScheduledTransition._meta.db_table}")
                for _ in range(HANG_UPS):
                    hang_up(server, TRANSITIONS, token, after=after)
                time.sleep(HELD_SECONDS)

        # More than the pool holds were cut off; each answer needs one of its connections.
        for _ in range(30):
            status, _ = call(server, TRANSITIONS, token=token)
            assert status == 200
        assert count_other_connections() <= 24
