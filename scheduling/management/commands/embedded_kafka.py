"""`manage.py embedded_kafka`: a Kafka broker for the start without one of one's own."""

import argparse
import ctypes
import errno
import json
import os
import queue
import signal
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, Final

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from typing_extensions import override

from scheduling.adapters.embedded_kafka import ApiKey, EmbeddedKafka
from scheduling.adapters.librdkafka import LibrdkafkaError
from scheduling.adapters.tcp_forwarder import LOOPBACK
from scheduling.conf import used_topics
from scheduling.topics import DEFAULT_PARTITIONS

_DEFAULT_PORT: Final = 19092
_HIGHEST_PORT: Final = 65_535
_PARENT_CHECK_SECONDS: Final = 0.5


class _ParagraphFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of options, and a description whose paragraphs are kept."""


class Command(BaseCommand):
    """Keeps an `EmbeddedKafka` alive in the foreground until told to stop."""

    help = """\
Run a Kafka broker on 127.0.0.1 with the product's topics, in the foreground, until
SIGTERM or SIGINT (exit code 0). "bootstrap 127.0.0.1:PORT" is printed once it is ready.

It is librdkafka's mock cluster: right for a first look, for development and for tests,
and no place for records that matter.

- Everything is in memory: a restart forgets topics, records and consumer offsets.
- Of each partition the last 5 MiB or 100,000 batches are kept, and older ones dropped.
- It serves this host only, without TLS, passwords or access rules.
- A producer's retry after a lost acknowledgement is written twice.

For anything else set KAFKA_BOOTSTRAP_SERVERS to a Kafka cluster."""
    # A broker needs neither a database nor sane settings of the rest.
    requires_system_checks = []

    @override
    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, formatter_class=_ParagraphFormatter, **kwargs
        )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--port",
            type=_port,
            default=_DEFAULT_PORT,
            help="port on 127.0.0.1; 0: any free one (default: %(default)s)",
        )
        parser.add_argument(
            "--exit-with-parent",
            action="store_true",
            help="stop when the process that started this one is gone",
        )
        parser.add_argument(
            "--control-port",
            type=_port,
            metavar="PORT",
            help='for tests: take faults as JSON lines on this port, {"do": "down"} or '
            '{"do": "push_errors", "args": ["PRODUCE", 7]}; 0: any free one, printed',
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        parent = os.getppid() if options["exit_with_parent"] else None
        stop_requests = _stop_requests()
        topics = dict.fromkeys(used_topics(), DEFAULT_PARTITIONS)
        with ExitStack() as running:
            with _start_errors_told(options["port"]):
                kafka = running.enter_context(
                    EmbeddedKafka(port=options["port"], topics=topics)
                )
            if options["control_port"] is not None:
                with _start_errors_told(options["control_port"]):
                    control = running.enter_context(
                        _control_server(kafka, options["control_port"])
                    )
                self.stdout.write(f"control {LOOPBACK}:{control}")
            self.stdout.write(f"bootstrap {kafka.bootstrap}")
            self.stdout.flush()
            _wait(stop_requests, parent=parent)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= _HIGHEST_PORT):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number between 0 and {_HIGHEST_PORT}"
        )
    return int(text)


def _stop_requests() -> "queue.SimpleQueue[int]":
    """Collect the signals that ask for the end, from now on."""
    # A SimpleQueue is the one primitive of the standard library that may be used
    # inside a signal handler while the same thread waits for it.
    requests: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, _: FrameType | None) -> None:
        requests.put(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return requests


def _wait(stop_requests: "queue.SimpleQueue[int]", *, parent: int | None) -> None:
    """Return when a stop is requested, or `parent` is no longer our parent."""
    while parent is None or os.getppid() == parent:
        with suppress(queue.Empty):
            stop_requests.get(timeout=_PARENT_CHECK_SECONDS)
            return


@contextmanager
def _start_errors_told(port: int) -> Iterator[None]:
    """Turn what can stop a start into one line.

    Raises:
        CommandError: The port cannot be had, or librdkafka lacks something.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandError(
                f"port {port} on {LOOPBACK} is taken by another process"
            ) from error
        raise CommandError(f"port {port} on {LOOPBACK}: {error.strerror}") from error
    except LibrdkafkaError as error:
        raise CommandError(f"the embedded broker can't start: {error}") from error


# --- Faults on request ----------------------------------------------------------------
# A line that is no JSON, no known fault, or has arguments that do not fit.
_REFUSALS: Final = (
    *(ValueError, TypeError, KeyError, ctypes.ArgumentError),
    *(LibrdkafkaError, OSError),
)


def _faults(kafka: EmbeddedKafka) -> dict[str, Callable[..., None]]:
    """Name what a control connection may do; kinds of request come by their name."""
    return {
        "down": kafka.down,
        "up": kafka.up,
        "drop_connections": kafka.drop_connections,
        "lose_replies": kafka.lose_replies,
        "return_replies": kafka.return_replies,
        "set_rtt": kafka.set_rtt,
        "push_errors": lambda api, *codes: kafka.push_errors(ApiKey[api], *codes),
        "push_delays": lambda api, *delays: kafka.push_delays(ApiKey[api], *delays),
        "clear_errors": lambda api: kafka.clear_errors(ApiKey[api]),
        "set_topic_error": kafka.set_topic_error,
        "delete_records": lambda topic, partition, offset: kafka.delete_records(
            topic, partition, before_offset=offset
        ),
    }


@contextmanager
def _control_server(kafka: EmbeddedKafka, port: int) -> Iterator[int]:
    """Serve control connections until the end of the block; yields the port."""
    faults = _faults(kafka)

    class Connection(socketserver.StreamRequestHandler):
        """Answers each line with {"ok": true}, or says what is wrong and hangs up."""

        @override
        def handle(self) -> None:
            with suppress(ConnectionError):
                for line in self.rfile:
                    answer = _carry_out(line, faults)
                    self.wfile.write(json.dumps(answer).encode() + b"\n")
                    # Whoever speaks something else (a web page trying this port) is
                    # not given a second line to try.
                    if not answer["ok"]:
                        return

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with Server((LOOPBACK, port), Connection) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _carry_out(line: bytes, faults: dict[str, Callable[..., None]]) -> dict[str, Any]:
    try:
        request = json.loads(line)
        faults[request["do"]](*request.get("args", []))
    except _REFUSALS as error:
        return {"ok": False, "error": repr(error)}
    return {"ok": True}
