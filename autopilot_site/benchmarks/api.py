"""The REST API behind its real server: how soon it answers, and what that costs firing.

Requests are made at planned instants, whether or not the earlier ones are answered, and
each counts from its planned instant: a server that falls behind can't hide it.
"""

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser, Group
from django.core.management.base import CommandError
from django.db import connections

from autopilot_site.benchmarks.jobs import CHUNK, FIRST_PROJECT
from autopilot_site.benchmarks.machine import spread
from autopilot_site.benchmarks.measures import Bench, Figures, measure_lateness
from autopilot_site.benchmarks.processes import Process
from scheduling.adapters.clock import database_now
from scheduling.api.own_tokens import AccessToken
from scheduling.domain.actors import Role
from scheduling.domain.phases import PhaseData, format_instant, wire_id

TRANSITIONS = "/api/v1/transitions/"
HOST = "127.0.0.1"
POSTS_PER_SECOND = 50
FIRING_PER_SECOND = 20
# Enough connections that none waits for an answer that takes a fifth of a second.
CLIENTS = 10
BULK_CALLS = 10
LIST_CALLS = 50
START_SECONDS = 30.0
REQUEST_SECONDS = 30.0
_FAILURES_FROM = 400


class WebServer(Process):
    """gunicorn as `up` starts it, on a port of its own."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        # No throttle: one user makes all the requests here.
        super().__init__([], environment={"API_THROTTLE_USER": "1000000/min"})
        self._command = [
            *(sys.executable, "-m", "gunicorn", "autopilot_site.asgi:application"),
            *("-k", "asgi", "--bind", f"{HOST}:{self.port}", "--no-control-socket"),
            *("--pythonpath", str(settings.BASE_DIR)),
        ]

    def wait_until_it_answers(self) -> None:
        """Wait for the first answer.

        Raises:
            CommandError: It ended, or does not answer in time.
        """
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at:
            self.check()
            try:
                with socket.create_connection((HOST, self.port), timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise CommandError(f"the web server does not answer:\n{self.tail()}")


class Client:
    """One connection that stays open, with the token of a user."""

    def __init__(self, port: int, user: AbstractBaseUser) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=REQUEST_SECONDS)
        self._user = user
        self._headers: dict[str, str] = {}
        self._signed_at = 0.0

    def ask(self, path: str, body: bytes | None = None) -> float:
        """Make one request; POST where there is a body. Return how many ms it took.

        Raises:
            CommandError: The answer is a failure.
        """
        self._sign_in()
        began_at = time.perf_counter()
        try:
            status, content = self._exchange(path, body)
        except (http.client.RemoteDisconnected, ConnectionError):
            # The server closes a connection that was idle; that is no failure.
            self._connection.close()
            status, content = self._exchange(path, body)
        took = (time.perf_counter() - began_at) * 1000
        if status >= _FAILURES_FROM:
            raise CommandError(f"{path} was answered with {status}: {content[:300]!r}")
        return took

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _exchange(self, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Send a request and read its answer whole."""
        method = "GET" if body is None else "POST"
        self._connection.request(method, path, body=body, headers=self._headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _sign_in(self) -> None:
        """Take a new token before the old one runs out."""
        half_life = AccessToken.lifetime.total_seconds() / 2
        if self._headers and time.monotonic() - self._signed_at < half_life:
            return
        self._signed_at = time.monotonic()
        self._headers = {
            "Authorization": f"Bearer {AccessToken.for_user(self._user)}",
            "Content-Type": "application/json",
        }


def measure_api(bench: Bench, *, rows: int, seconds: float) -> Figures:
    """Measure lists, bulk and single requests at a table of so many waiting jobs.

    Firing is measured twice, at FIRING_PER_SECOND: with and without requests beside it.
    """
    jobs = max(1, round(FIRING_PER_SECOND * seconds))
    idle = measure_lateness(bench, jobs=jobs, window_seconds=seconds)
    far = bench.workload.far_ahead()
    with bench.stage(f"scheduling {rows:,} waiting jobs", rows) as tick:
        bench.workload.schedule([far] * rows, tick=tick)
    with WebServer() as server, _operator(bench) as user:
        server.start()
        server.wait_until_it_answers()
        client = Client(server.port, user)
        try:
            # A new server loads what it answers with; that is a figure of its own.
            first = client.ask(f"{TRANSITIONS}?pageSize=1")
            # Of a small table there is little to learn.
            lists = _lists(bench, client, calls=min(LIST_CALLS, max(5, rows // 10)))
            bulk = _bulk(bench, client, calls=min(BULK_CALLS, max(1, rows // 100)))
        finally:
            client.close()
        length = bench.workload.lead(jobs).total_seconds() + seconds
        with _posting(bench, server.port, user, seconds=length) as took:
            busy = measure_lateness(bench, jobs=jobs, window_seconds=seconds)
    return {
        "rows": rows,
        "firstAnswerMs": round(first, 3),
        "postMs": spread(took),
        "postsPerSecond": POSTS_PER_SECOND,
        "bulkJobs": CHUNK,
        "bulkMs": bulk,
        "listMs": lists,
        **busy,
        "idleLatenessMs": idle["latenessMs"],
        "idleControl": idle["control"],
    }


@contextmanager
def _operator(bench: Bench) -> Iterator[AbstractBaseUser]:
    """Give a user who may schedule, as long as it is needed.

    Raises:
        CommandError: An outside issuer gives the tokens here.
    """
    if settings.JWT_ISSUER:
        raise CommandError("the API can't be measured with the tokens of an outside issuer")
    user = get_user_model().objects.create_user(f"benchmark-{bench.workload.run}")
    user.groups.add(Group.objects.get(name=Role.OPERATOR.value))
    try:
        yield user
    finally:
        user.delete()


def _lists(bench: Bench, client: Client, *, calls: int) -> dict[str, Any]:
    """Return how long a page of 100 takes, by filter."""
    now = database_now()
    questions: dict[str, dict[str, str]] = {
        "none": {},
        "projectId": {"projectId": str(FIRST_PROJECT + 1)},
        "challengeId": {"challengeId": str(FIRST_PROJECT + 1)},
        "phaseId": {"phaseId": "1"},
        "state": {"state": "END"},
        "status": {"status": "scheduled"},
        "statusFailed": {"status": "failed"},
        "dueAfter": {"dueAfter": format_instant(now)},
        "dueBefore": {"dueBefore": format_instant(now + timedelta(days=60))},
        "overdue": {"overdue": "true"},
        "notOverdue": {"overdue": "false"},
        "search": {"search": str(FIRST_PROJECT + 1)},
        "searchNothing": {"search": "found nowhere"},
        "orderingCreatedAt": {"ordering": "-createdAt"},
        "orderingStatus": {"ordering": "status"},
        "orderingLatenessMs": {"ordering": "-latenessMs"},
    }
    figures = {}
    with bench.stage("listing", len(questions)) as tick:
        for name, question in questions.items():
            path = f"{TRANSITIONS}?{urlencode({**question, 'pageSize': '100'})}"
            figures[name] = spread([client.ask(path) for _ in range(calls)])
            tick(1)
    return figures


def _bulk(bench: Bench, client: Client, *, calls: int) -> dict[str, Any]:
    """Return how long it takes to schedule a thousand by one request."""
    far = bench.workload.far_ahead()
    took = []
    with bench.stage("scheduling by the API in bulk", calls) as tick:
        for _ in range(calls):
            items = [_wire(bench.workload.phase(far)) for _ in range(CHUNK)]
            body = json.dumps({"transitions": items}).encode()
            took.append(client.ask(f"{TRANSITIONS}bulk/", body))
            tick(1)
    return spread(took)


@contextmanager
def _posting(
    bench: Bench, port: int, user: AbstractBaseUser, *, seconds: float
) -> Iterator[list[float]]:
    """Schedule jobs one by one through the API meanwhile; give how many ms each took.

    Raises:
        CommandError: A request failed.
    """
    far = bench.workload.far_ahead()
    count = round(POSTS_PER_SECOND * seconds)
    # Made beforehand: what the client does meanwhile is taken from the server's CPU.
    bodies = [json.dumps(_wire(bench.workload.phase(far))).encode() for _ in range(count)]
    took: list[float] = []
    stop = threading.Event()
    began_at = time.perf_counter() + 1.5

    def work(number: int) -> None:
        client = Client(port, user)
        try:
            # Connected, as a program is that posts again and again.
            client.ask(f"{TRANSITIONS}?pageSize=1")
            _post_in_turn(
                client, bodies[number::CLIENTS], number, began_at, stop=stop, took=took
            )
        finally:
            client.close()
            connections.close_all()

    with ThreadPoolExecutor(CLIENTS, thread_name_prefix="client") as pool:
        running = [pool.submit(work, number) for number in range(CLIENTS)]
        try:
            yield took
        except BaseException:
            stop.set()
            raise
    for one in running:
        one.result()


def _post_in_turn(
    client: Client,
    bodies: Sequence[bytes],
    number: int,
    began_at: float,
    *,
    stop: threading.Event,
    took: list[float],
) -> None:
    """Post each body at its planned instant; note how long after that it was answered."""
    for turn, body in enumerate(bodies):
        planned_at = began_at + (turn * CLIENTS + number) / POSTS_PER_SECOND
        if stop.wait(max(0.0, planned_at - time.perf_counter())):
            return
        client.ask(TRANSITIONS, body)
        took.append((time.perf_counter() - planned_at) * 1000)


def _wire(phase: PhaseData) -> dict[str, Any]:
    """Return phase data as a request has it."""
    return {
        "projectId": wire_id(phase.project_id),
        "phaseId": wire_id(phase.phase_id),
        "phaseTypeName": phase.phase_type_name,
        "state": phase.state.value,
        "endTime": format_instant(phase.end_time),
        "operator": phase.operator,
        "projectStatus": phase.project_status,
        "metadata": phase.metadata,
    }
