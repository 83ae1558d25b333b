"""The audit as a file behind the real server: it streams, and needs no more memory."""

import http.client
import json

import psutil
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from scheduling.api.tokens import RolesTokenSerializer
from scheduling.models import AuditEntry
from tests.support.web import web_process

pytestmark = [
    pytest.mark.processes,
    pytest.mark.first_start,
    pytest.mark.django_db(transaction=True),
]
ROWS = 12_000
MEBIBYTE = 2**20


@pytest.fixture
def entries(transactional_db, now):
    """Fill the audit with entries of about three kilobytes each."""
    AuditEntry.objects.bulk_create(
        (
            AuditEntry(
                at=now,
                action="transition.cancelled",
                job_id=f"job-{number}-1-2",
                project_id="1",
                actor="user:olivia",
                role="operator",
                changes={"text": "x" * 3_000},
                reason=f"line {number}",
            )
            for number in range(ROWS)
        ),
        batch_size=2_000,
    )


@pytest.fixture
def server(process_environment, tmp_path):
    """Return a web process and its port."""
    log_path = tmp_path / "gunicorn.log"
    with web_process(process_environment, log_path=log_path) as running:
        yield running


@pytest.fixture
def token(transactional_db):
    """Return a viewer's access token."""
    user = get_user_model().objects.create_user("victor")
    user.groups.add(Group.objects.get(name="viewer"))
    return str(RolesTokenSerializer.get_token(user).access_token)


def ask(port, token, query):
    """Return a connection and its answer, whose body is not read yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(
        "GET", f"/api/v1/audit/?{query}", headers={"Authorization": f"Bearer {token}"}
    )
    return connection, connection.getresponse()


def memory_of(process):
    """Return the resident bytes of the server's worker."""
    (worker,) = psutil.Process(process.pid).children()
    return worker.memory_info().rss


class TestAuditAsFile:
    def test_comes_whole_in_constant_memory(self, entries, server, token):
        process, port = server
        # What a worker loads for its first answer of each kind is not the file's.
        for query in ("pageSize=500", "format=ndjson&jobId=none"):
            connection, answer = ask(port, token, query)
            answer.read()
            connection.close()
        before = memory_of(process)

        connection, answer = ask(port, token, "format=ndjson")
        size = lines = largest = 0
        while piece := answer.read(MEBIBYTE):
            size += len(piece)
            lines += piece.count(b"\n")
            largest = max(largest, memory_of(process))
        connection.close()

        assert lines == ROWS
        assert size > 34 * MEBIBYTE
        # Most of the file would show.
        assert largest - before < 26 * MEBIBYTE

    def test_begins_before_its_end_is_read(self, entries, server, token):
        _, port = server

        connection, answer = ask(port, token, "format=ndjson")
        first = json.loads(answer.readline())
        # The server waits for a slow reader; what is written now is not in the file.
        newest = AuditEntry.objects.latest("id")
        newest.pk, newest._state.adding = None, True
        newest.save()
        rest = answer.read().splitlines()
        connection.close()

        assert first["reason"] == "line 0"
        assert len(rest) == ROWS - 1
        assert json.loads(rest[-1])["reason"] == f"line {ROWS - 1}"

    def test_a_reader_who_leaves_harms_nobody(self, entries, server, token):
        _, port = server
        for _ in range(25):
            connection, answer = ask(port, token, "format=csv")
            answer.read(10)
            connection.close()

        # More of them than the gate has places.
        connection, answer = ask(port, token, "pageSize=1")
        page = json.load(answer)
        connection.close()

        assert page["count"] == ROWS
