"""Traces: from a request or a record to the job it makes, and from the job to its record.

Off unless AUTOPILOT_TRACING is on; nothing of OpenTelemetry is imported before. The context
goes by the W3C's header `traceparent`, over HTTP, on Kafka and in the job's row, so that a
transition fired weeks later stands in the trace of whoever asked for it. Nothing else is
passed on: baggage may hold secrets. Where spans go, and how many, the variables say that
all programs with OpenTelemetry know (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …).

Source: W3C, "Trace Context"; OpenTelemetry, "Semantic conventions for Kafka".
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

HEADER: Final = "traceparent"
LONGEST: Final = 55
_FORM: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# What the variables say by default. A collector that does not answer must not hold up the
# end of a process for long.
_DEFAULTS: Final = {"OTEL_SERVICE_NAME": "autopilot", "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}


def is_on() -> bool:
    """Tell whether spans are made."""
    return bool(settings.TRACING)


def trace_id_of(trace_parent: str) -> str:
    """Return the id of the trace that a `traceparent` names; empty where it is none."""
    found = _FORM.fullmatch(trace_parent)
    return found[1] if found else ""


def trace_headers(trace_parent: str) -> dict[str, str]:
    """Return the header of a record that belongs to a trace; none where it does not."""
    return {HEADER: trace_parent} if trace_parent else {}


def current_parent() -> str:
    """Return the `traceparent` of what goes on here; empty where no trace is made."""
    if not is_on():
        return ""
    from opentelemetry.trace.propagation import (  # noqa: PLC0415 -- free where off
        tracecontext,
    )

    carrier: dict[str, str] = {}
    tracecontext.TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(HEADER, "")


def current_trace_id() -> str:
    """Return the id of the trace of what goes on here; empty where none is made."""
    return trace_id_of(current_parent())


@contextmanager
def handling_record(
    topic: str, trace_parent: str, attributes: Mapping[str, str | int]
) -> Iterator[None]:
    """Trace the handling of a record, as a part of the trace that it came with."""
    if not is_on():
        yield
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 -- free where off

    with _tracer().start_as_current_span(
        f"process {topic}",
        context=_context(trace_parent),
        kind=SpanKind.CONSUMER,
        attributes={**_conventional("process", topic), **attributes},
    ):
        yield


class SentRecord:
    """The span of one record on its way to the topic."""

    def __init__(
        self, topic: str, trace_parent: str, attributes: Mapping[str, str | int]
    ) -> None:
        """Begin it, as a part of the trace that `trace_parent` names, or of a new one."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 -- free where off

        self._span: Span = _tracer().start_span(
            f"send {topic}",
            context=_context(trace_parent),
            kind=SpanKind.PRODUCER,
            attributes={**_conventional("send", topic), **attributes},
        )

    @property
    def trace_parent(self) -> str:
        """What the record says of its place in the trace."""
        seen = self._span.get_span_context()
        flags = int(seen.trace_flags)
        return f"00-{seen.trace_id:032x}-{seen.span_id:016x}-{flags:02x}"

    def end(self, *, partition: int, offset: int) -> None:
        """End it: the broker has the record."""
        self._span.set_attribute("messaging.destination.partition.id", str(partition))
        self._span.set_attribute("messaging.kafka.offset", offset)
        self._span.end()

    def fail(self, error: str) -> None:
        """End it: the broker is not known to have the record."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 -- free where off

        self._span.set_status(StatusCode.ERROR, error)
        self._span.end()


def trace_requests() -> None:
    """Make a span of every request that Django answers from now on, where traces are on."""
    if not is_on():
        return
    from opentelemetry.instrumentation.django import (  # noqa: PLC0415 -- free where off
        DjangoInstrumentor,
    )

    # Probes and scrapes would be most of all traces.
    os.environ.setdefault("OTEL_PYTHON_DJANGO_EXCLUDED_URLS", "livez,health,metrics,static")
    DjangoInstrumentor().instrument(tracer_provider=provider())


def _conventional(operation: str, topic: str) -> dict[str, str]:
    """Return what every span about a record says."""
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
    }


def _context(trace_parent: str) -> "Context":
    """Return the context that a `traceparent` names; without one, that of a new trace."""
    from opentelemetry.context import Context  # noqa: PLC0415 -- free where off
    from opentelemetry.trace.propagation import (  # noqa: PLC0415 -- free where off
        tracecontext,
    )

    propagator = tracecontext.TraceContextTextMapPropagator()
    return propagator.extract({HEADER: trace_parent}, context=Context())


def _tracer() -> "Tracer":
    """Return what makes the spans."""
    tracer: Tracer = provider().get_tracer("autopilot")
    return tracer


@functools.cache
def provider() -> Any:
    """Return this process's provider, which sends spans from a thread of its own.

    Made on first use, which must come after the fork. What waits is sent when the process
    ends; the SDK's own hook is not called in processes of `multiprocessing`.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 -- free where off
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 -- free where off
        BatchSpanProcessor,
    )

    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    Finalize(None, made.shutdown, exitpriority=10)
    return made
