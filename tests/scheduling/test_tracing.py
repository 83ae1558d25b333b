"""Traces: which spans are made, what joins them, and that nothing is made while off."""

import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from scheduling import tracing
from scheduling.adapters.event_publisher import Outcome, OutgoingRecord, Verdict
from scheduling.adapters.traced_publish import publish_traced
from scheduling.domain.actors import CONSUMER
from scheduling.services.schedule import schedule_transition

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch, settings):
    """Switch traces on, and return what collects the spans."""
    settings.TRACING = True
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "provider", lambda: provider)
    return exporter


class Publisher:
    """Stands for the broker: takes what it is given, or does not."""

    def __init__(self, verdict=Verdict.ACKNOWLEDGED):
        self.verdict = verdict
        self.records = []

    def publish(self, records, **_):
        self.records += records
        return [Outcome(verdict=self.verdict, partition=2, offset=7) for _ in records]


def record(**headers):
    return OutgoingRecord(
        topic="t",
        key="k",
        value=b"{}",
        headers={"event-id": "e", **headers},
        timestamp_ms=0,
    )


def publish(publisher, *records):
    return publish_traced(
        publisher, records, deadline_seconds=1, while_waiting=lambda: True
    )


class TestTraceIdOf:
    def test_is_the_trace_of_a_well_formed_header(self):
        assert tracing.trace_id_of(PARENT) == TRACE

    @pytest.mark.parametrize(
        "given",
        ["", "00", PARENT.upper(), f"{PARENT}-x", f"00-{'0' * 32}-b7ad6b7169203331-01"],
    )
    def test_is_empty_for_anything_else(self, given):
        assert tracing.trace_id_of(given) == ""


class TestHandlingRecord:
    def test_continues_the_trace_that_the_record_came_with(self, spans):
        with tracing.handling_record("t", PARENT, {}):
            inside = tracing.current_parent()

        assert tracing.trace_id_of(inside) == TRACE
        (span,) = spans.get_finished_spans()
        assert (span.name, span.kind) == ("process t", SpanKind.CONSUMER)
        assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"

    @pytest.mark.parametrize("given", ["", "nonsense", "00-xx-yy-01"])
    def test_begins_a_trace_where_it_came_with_none(self, spans, given):
        with tracing.handling_record("t", given, {}):
            pass

        (span,) = spans.get_finished_spans()
        assert span.parent is None

    def test_does_nothing_while_off(self, settings):
        settings.TRACING = False

        with tracing.handling_record("t", PARENT, {}):
            assert tracing.current_parent() == ""


@pytest.mark.django_db
class TestScheduledJob:
    def phase(self):
        return {
            "projectId": 1,
            "phaseId": 2,
            "phaseTypeName": "Review",
            "state": "END",
            "operator": "anna",
            "projectStatus": "ACTIVE",
            "endTime": (timezone.now() + timedelta(hours=1)).isoformat(),
        }

    def schedule(self):
        now = timezone.now()
        return schedule_transition(self.phase(), actor=CONSUMER, now=now).job

    def test_keeps_the_trace_of_what_asked_for_it(self, spans):
        with tracing.handling_record("t", PARENT, {}):
            job = self.schedule()

        job.refresh_from_db()
        assert tracing.trace_id_of(job.trace_parent) == TRACE

    def test_keeps_none_while_off(self, settings):
        settings.TRACING = False

        assert self.schedule().trace_parent == ""


class TestPublishTraced:
    def test_puts_the_place_in_the_trace_on_the_record(self, spans):
        publisher = Publisher()

        publish(publisher, record(traceparent=PARENT, **{"job-id": "job-1"}))

        (span,) = spans.get_finished_spans()
        (sent,) = publisher.records
        assert sent.headers["traceparent"] == (f"00-{TRACE}-{span.context.span_id:016x}-01")
        assert (span.name, span.kind) == ("send t", SpanKind.PRODUCER)
        assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
        assert span.attributes["autopilot.job_id"] == "job-1"
        assert span.attributes["messaging.kafka.offset"] == 7

    def test_gives_each_record_of_a_batch_a_span(self, spans):
        publish(Publisher(), record(), record())

        first, second = spans.get_finished_spans()
        assert first.context.trace_id != second.context.trace_id

    def test_tells_of_a_record_that_was_not_acknowledged(self, spans):
        publish(Publisher(Verdict.UNKNOWN), record())

        (span,) = spans.get_finished_spans()
        assert span.status.status_code is StatusCode.ERROR

    def test_passes_on_what_the_job_says_while_off(self, settings):
        settings.TRACING = False
        publisher = Publisher()

        publish(publisher, record(traceparent=PARENT))

        assert publisher.records[0].headers["traceparent"] == PARENT


class TestOff:
    def test_imports_nothing_of_it(self):
        script = (
            "import sys, django; django.setup()\n"
            "import autopilot_site.asgi, scheduling.services.incoming\n"
            "assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
        )

        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
