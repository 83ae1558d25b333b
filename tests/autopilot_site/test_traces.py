"""Traces of a whole system, as a collector of OpenTelemetry receives them."""

import json
import re
import threading
import urllib.request
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka import Consumer, Producer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from scheduling.topics import CHALLENGE_UPDATE, PHASE_TRANSITION
from scheduling.tracing import trace_id_of
from tests.support.up import READY_SECONDS, Up, embedded

pytestmark = [pytest.mark.processes, pytest.mark.first_start, pytest.mark.timeout(150)]

REQUEST_TRACE = "0af7651916cd43dd8448eb211c80319c"
RECORD_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECONDS = 30


class Collector:
    """Receives spans over HTTP, as OTLP has it."""

    def __init__(self):
        self.spans = []
        self._news = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()
                collector.take(self.headers.get("Content-Encoding"), body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, encoding, body):
        assert encoding is None
        request = ExportTraceServiceRequest.FromString(body)
        with self._news:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self._news.notify_all()

    def wait_for(self, trace_id, *names):
        """Return the spans of a trace by name, once all of these names are there."""

        def found():
            mine = {s.name: s for s in self.spans if s.trace_id.hex() == trace_id}
            return mine if {*names} <= {*mine} else None

        with self._news:
            assert self._news.wait_for(found, timeout=SECONDS), [
                (s.name, s.trace_id.hex()) for s in self.spans
            ]
            return found()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector():
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory, collector):
    environment = {
        **embedded(tmp_path_factory.mktemp("traces")),
        "AUTOPILOT_TRACING": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    up = Up(environment)
    try:
        up.wait_for("^ready ", seconds=READY_SECONDS)
        yield up
    finally:
        up.end()


def ask(up, path, body, **headers):
    request = urllib.request.Request(
        f"http://127.0.0.1:{up.port}/api/v1/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return json.load(answer)


def record_of(up, phase_id):
    """Return the headers of the phase's record on the topic."""
    reader = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{up.kafka_port}",
            "group.id": f"traces-{phase_id}",
            "auto.offset.reset": "earliest",
        }
    )
    reader.subscribe([PHASE_TRANSITION])
    end = datetime.now(UTC) + timedelta(seconds=SECONDS)
    try:
        while datetime.now(UTC) < end:
            message = reader.poll(0.2)
            if message is None or message.error():
                continue
            if json.loads(message.value())["payload"]["phaseId"] in {
                phase_id,
                str(phase_id),
            }:
                return {name: value.decode() for name, value in message.headers()}
    finally:
        reader.close()
    raise AssertionError(f"no record of {phase_id}")


class TestOneTrace:
    def test_leads_from_a_request_to_the_record(self, up, collector):
        users = [re.fullmatch(r"user (\S+) password (\S+)", x) for x in up.lines]
        secrets = {user[1]: user[2] for user in users if user}
        who = {"username": "operator", "password": secrets["operator"]}
        token = ask(up, "auth/token/", who)["access"]
        phase = {
            "projectId": 900001,
            "phaseId": 900101,
            "phaseTypeName": "Review",
            "state": "END",
            "operator": "anna",
            "projectStatus": "ACTIVE",
            "endTime": (datetime.now(UTC) + timedelta(seconds=2)).isoformat(),
        }

        ask(
            up,
            "transitions/",
            phase,
            Authorization=f"Bearer {token}",
            traceparent=f"00-{REQUEST_TRACE}-b7ad6b7169203331-01",
        )
        headers = record_of(up, 900101)
        spans = collector.wait_for(REQUEST_TRACE, f"send {PHASE_TRANSITION}")

        assert trace_id_of(headers["traceparent"]) == REQUEST_TRACE
        (request,) = (spans[name] for name in spans if name.startswith("POST "))
        sent = spans[f"send {PHASE_TRANSITION}"]
        assert sent.parent_span_id == request.span_id
        assert headers["traceparent"].split("-")[2] == sent.span_id.hex()

    def test_leads_from_a_record_to_the_record(self, up, collector):
        now = datetime.now(UTC)
        phase = {
            "phaseId": 900102,
            "phaseTypeName": "Review",
            "state": "START",
            "endTime": (now + timedelta(seconds=2)).isoformat(),
        }
        update = {
            "topic": CHALLENGE_UPDATE,
            "originator": "a-test",
            "timestamp": now.isoformat(),
            "mimeType": "application/json",
            "payload": {
                "projectId": 900002,
                "challengeId": 900002,
                "status": "ACTIVE",
                "operator": "admin",
                "date": now.isoformat(),
                "phases": [phase],
            },
        }
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{up.kafka_port}"})

        producer.produce(
            CHALLENGE_UPDATE,
            json.dumps(update).encode(),
            headers={"traceparent": f"00-{RECORD_TRACE}-b7ad6b7169203331-01"},
        )
        producer.flush(10)
        headers = record_of(up, 900102)
        names = (f"process {CHALLENGE_UPDATE}", f"send {PHASE_TRANSITION}")
        handled, sent = map(collector.wait_for(RECORD_TRACE, *names).get, names)

        assert trace_id_of(headers["traceparent"]) == RECORD_TRACE
        assert handled.parent_span_id.hex() == "b7ad6b7169203331"
        assert sent.parent_span_id == handled.span_id
