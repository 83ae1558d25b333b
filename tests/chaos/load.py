"""The clients: programs that schedule, change their minds, and send records.

What they were promised stands in the ledger. A client that gets no answer asks again, by
the same Idempotency-Key, until it has one: what a careful program does.
"""

import contextlib
import http.client
import json
import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from confluent_kafka import Producer

from scheduling.topics import CHALLENGE_UPDATE, COMMAND
from tests.support.challenge_service import api_challenge

SOON = (2.5, 15.0)
ANSWER_SECONDS = 120
RECORDS_EVERY_SECONDS = 0.5
UPSTREAM_EVERY_SECONDS = 1.0
UPSTREAM_DUE_IN = 20.0


def instant(epoch):
    """Return an instant as the API writes it."""
    text = datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@dataclass
class Promise:
    """A job that a client was told of; `fate` is what it was told last."""

    job_id: str
    due: float
    fate: str = "scheduled"


@dataclass
class Ledger:
    """All that was promised.

    wanted: by (projectId, phaseId), the due instants of records that were acknowledged.
    found: the same, of what only recovery can find, which may take it some time.
    """

    jobs: dict = field(default_factory=dict)
    wanted: dict = field(default_factory=dict)
    found: dict = field(default_factory=dict)
    commands: dict = field(default_factory=dict)
    refused: list = field(default_factory=list)
    repeats: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Api:
    """One client of the API, which outlives its server."""

    def __init__(self, port, ledger, *, name, password):
        self._port = port
        self._ledger = ledger
        self._who = {"username": name, "password": password}
        self._token = ""

    def ask(self, method, path, body=None):
        """Return status and content of the first answer that is one.

        Raises:
            TimeoutError: There was none for two minutes.
        """
        key = str(uuid.uuid4())
        end = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < end:
            status, content = self._once(method, path, body, key)
            if status == 401:
                self._log_in()
            elif status in {0, 429} or status >= 500:
                self._ledger.repeats += 1
                time.sleep(0.3)
            elif status == 409 and content.get("code") == "conflict":
                # The same request, whose answer was lost, is still at work.
                time.sleep(0.3)
            else:
                return status, content
        raise TimeoutError(f"{method} {path} was not answered")

    def _log_in(self):
        status, content = self._once("POST", "auth/token/", self._who, str(uuid.uuid4()))
        self._token = content.get("access", "") if status == 200 else ""
        if not self._token:
            time.sleep(0.5)

    def _once(self, method, path, body, key):
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Idempotency-Key": key}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request(
                method, f"/api/v1/{path}", body and json.dumps(body), headers
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        finally:
            connection.close()


class Scheduler(threading.Thread):
    """Schedules at a rate, and changes its mind about some of it."""

    def __init__(self, api, ledger, *, seed, first_project, per_second, until):
        super().__init__(daemon=True)
        self._api = api
        self._ledger = ledger
        self._random = random.Random(seed)
        self._projects = iter(range(first_project, 2**53))
        self._pause = 1 / per_second
        self._until = until
        self.error = None

    def run(self):
        try:
            while time.monotonic() < self._until:
                began = time.monotonic()
                promise = self._schedule()
                if promise and self._random.random() < 0.3:
                    self._change(promise)
                time.sleep(max(0.0, began + self._pause - time.monotonic()))
        except Exception as error:  # noqa: BLE001 -- told in the report
            self.error = repr(error)

    def _schedule(self):
        due = round(time.time() + self._random.uniform(*SOON), 3)
        body = {
            "projectId": next(self._projects),
            "phaseId": 1,
            "phaseTypeName": "Review",
            "state": "END",
            "endTime": instant(due),
            "projectStatus": "ACTIVE",
        }
        status, content = self._api.ask("POST", "transitions/", body)
        if status not in {200, 201}:
            # It came so late that its instant had passed.
            self._ledger.refused.append((status, content.get("code")))
            return None
        promise = Promise(job_id=content["jobId"], due=due)
        with self._ledger.lock:
            self._ledger.jobs[promise.job_id] = promise
        return promise

    def _change(self, promise):
        path = f"transitions/{promise.job_id}/"
        match self._random.choice(["cancel", "move", "run"]):
            case "cancel":
                status, _ = self._api.ask("POST", f"{path}cancel/", {"reason": "chaos"})
                if status == 200:
                    promise.fate = "cancelled"
            case "run":
                status, _ = self._api.ask("POST", f"{path}run-now/", {"reason": "chaos"})
                if status == 202:
                    promise.fate = "run"
            case _:
                due = round(time.time() + self._random.uniform(*SOON), 3)
                status, content = self._api.ask("PATCH", path, {"endTime": instant(due)})
                if status == 200 and content["jobId"] != promise.job_id:
                    self._replace(promise, content["jobId"], due)
                elif status == 409:
                    # The first answer may have been lost after all was done.
                    _, content = self._api.ask("GET", path)
                    if content.get("replacedBy"):
                        self._replace(promise, content["replacedBy"], due)

    def _replace(self, promise, job_id, due):
        promise.fate = "replaced"
        with self._ledger.lock:
            self._ledger.jobs[job_id] = Promise(job_id=job_id, due=due)


class Records(threading.Thread):
    """Sends challenge updates and commands, two of each in a second."""

    def __init__(self, bootstrap, ledger, *, seed, first_project, until):
        super().__init__(daemon=True)
        self._ledger = ledger
        self._random = random.Random(seed)
        self._projects = iter(range(first_project, 2**53))
        self._until = until
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 120_000,
                "log_level": 0,
            }
        )

    def run(self):
        while time.monotonic() < self._until:
            self._update()
            self._command()
            self._producer.poll(0)
            time.sleep(RECORDS_EVERY_SECONDS)
        self._producer.flush(120)

    def _send(self, topic, project, payload, acknowledged):
        envelope = {
            "topic": topic,
            "originator": "chaos",
            "timestamp": instant(time.time()),
            "mimeType": "application/json",
            "payload": payload,
        }

        def note(error, _):
            if error is None:
                with self._ledger.lock:
                    acknowledged()

        self._producer.produce(
            topic, json.dumps(envelope), key=str(project), on_delivery=note
        )

    def _update(self):
        project = next(self._projects)
        dues = {
            phase: round(time.time() + self._random.uniform(*SOON), 3) for phase in (1, 2)
        }
        payload = {
            "projectId": project,
            "challengeId": project,
            "status": "ACTIVE",
            "operator": "admin",
            "phases": [
                {"phaseId": phase, "phaseTypeName": "Review", "endTime": instant(due)}
                for phase, due in dues.items()
            ],
        }
        wanted = {(project, phase): due for phase, due in dues.items()}
        self._send(
            CHALLENGE_UPDATE, project, payload, lambda: self._ledger.wanted.update(wanted)
        )

    def _command(self):
        project = next(self._projects)
        correlation_id = str(uuid.uuid4())
        # Far enough ahead to be accepted, however late it is read.
        due = round(time.time() + 3600, 3)
        payload = {
            "command": "schedule_phase_transition",
            "operator": "admin",
            "correlationId": correlation_id,
            "projectId": project,
            "phaseId": 1,
            "phaseTypeName": "Review",
            "state": "END",
            "endTime": instant(due),
            "projectStatus": "ACTIVE",
        }

        def acknowledged():
            self._ledger.commands[correlation_id] = project

        self._send(COMMAND, project, payload, acknowledged)


class Upstream(threading.Thread):
    """Shows challenges that nobody tells of: only recovery finds what they ask for."""

    def __init__(self, service, ledger, *, until):
        super().__init__(daemon=True)
        self._service = service
        self._ledger = ledger
        self._until = until

    def run(self):
        number = 0
        while time.monotonic() < self._until:
            number += 1
            now = datetime.fromtimestamp(round(time.time(), 3), UTC)
            shown = api_challenge(number, now=now, due_in=UPSTREAM_DUE_IN, phases=1)
            (phase,) = shown["phases"]
            with self._ledger.lock:
                self._service.challenges[shown["id"]] = shown
                due = now.timestamp() + UPSTREAM_DUE_IN
                self._ledger.found[shown["projectId"], phase["id"]] = due
            time.sleep(UPSTREAM_EVERY_SECONDS)


def wait_for_all(threads, *, seconds):
    """Wait for the clients' ends."""
    end = time.monotonic() + seconds
    for thread in threads:
        with contextlib.suppress(RuntimeError):
            thread.join(max(0.1, end - time.monotonic()))
