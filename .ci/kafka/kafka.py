#!/usr/bin/env python3
"""One Apache Kafka node (KRaft) out of Maven's jars, for the tests against a real broker.

    kafka.py libs                              fetch the jars, once for each pom.xml
    kafka.py run --topic a --topic b:5 -- CMD  start, run CMD with
                                               KAFKA_BOOTSTRAP_SERVERS set, stop
    kafka.py run --port 9092                   start and stay in the foreground until
                                               SIGTERM or SIGINT
    kafka.py run --certificate FILE --user NAME:PASSWORD
                                               a second listener, over TLS with SCRAM

Needs java (17 or newer), mvn for the first run, and the project's Python (it asks the
broker with confluent-kafka). It serves 127.0.0.1 only and creates no topic by itself.
"""
# ruff: noqa: T201, S603
# A script speaks by printing, and what it starts comes from its own command line.

import argparse
import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

POM = Path(__file__).with_name("pom.xml")
FETCH_TRIES = 3
STOP_SECONDS = 20
LOG_TAIL_CHARACTERS = 3_000
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={listeners}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
log.dirs={directory}/data
# A single node: no second copy of anything.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# As a careful operator sets it: a misspelt topic is an error.
auto.create.topics.enable=false
# Tests kill consumers and wait for the next one to take over.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=5000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=500
# Small: it shares a test machine.
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
background.threads=2
controlled.shutdown.enable=false
"""
SECURED_PROPERTIES = """\
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={certificate}
# Who comes by the open listener may do everything; who comes by this one, what others
# have given him.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
LOG4J_PROPERTIES = """\
status=error
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=WARN
rootLogger.appenderRef.c.ref=C
"""


class Stopped(Exception):  # noqa: N818 -- no error: somebody asked for the end
    """SIGTERM or SIGINT has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


# --- Jars -----------------------------------------------------------------------------


def default_libs() -> Path:
    """Name the cache directory of exactly this pom.xml's jars."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    edition = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    return Path(cache) / "autopilot-kafka" / edition


def fetch(libs: Path) -> None:
    """Fill `libs` with the jars unless it has them: all of them, or none."""
    if any(libs.glob("*.jar")):
        return
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent) as unfinished:
        _copy_dependencies(Path(unfinished) / "jars")
        # Another run may have been quicker; its jars are the same.
        with contextlib.suppress(OSError):
            (Path(unfinished) / "jars").replace(libs)
    print(f"{len(list(libs.glob('*.jar')))} jars in {libs}", flush=True)


def _copy_dependencies(target: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        sys.exit("mvn is not installed, and is needed to fetch Kafka's jars")
    command = [maven, "-B", "-q", "-f", str(POM), "dependency:copy-dependencies"]
    for attempt in range(1, FETCH_TRIES + 1):
        done = subprocess.run([*command, f"-DoutputDirectory={target}"], check=False)
        if done.returncode == 0:
            return
        print(f"mvn failed, try {attempt} of {FETCH_TRIES}", file=sys.stderr)
        time.sleep(5 * (attempt < FETCH_TRIES))
    sys.exit("Kafka's jars could not be fetched")


# --- The node -------------------------------------------------------------------------


def free_port() -> int:
    """Find a port nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def java(arguments: argparse.Namespace, directory: Path, *command: str) -> list[str]:
    """Compose the command line of a Java program out of the jars."""
    home = os.environ.get("JAVA_HOME")
    return [
        str(Path(home) / "bin" / "java") if home else "java",
        f"-Xmx{arguments.heap}m",
        # Quick to start, frugal to run: it lives for minutes, beside the tests.
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Djava.awt.headless=true",
        f"-Dkafka.logs.dir={directory}/logs",
        f"-Dlog4j2.configurationFile={directory}/log4j2.properties",
        "-cp",
        f"{arguments.libs}/*",
        *command,
    ]


def prepare(
    arguments: argparse.Namespace, directory: Path, port: int, secured_port: int
) -> Path:
    """Write the configuration and format the data directory."""
    directory.mkdir(parents=True, exist_ok=True)
    properties = directory / "server.properties"
    listeners = f"PLAINTEXT://127.0.0.1:{port}"
    more, users = "", []
    if secured_port:
        listeners += f",SASL_SSL://127.0.0.1:{secured_port}"
        more = SECURED_PROPERTIES.format(certificate=arguments.certificate.resolve())
        name, _, password = arguments.user.partition(":")
        users = ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
    properties.write_text(
        SERVER_PROPERTIES.format(
            listeners=listeners, controller_port=free_port(), directory=directory
        )
        + more
    )
    (directory / "log4j2.properties").write_text(LOG4J_PROPERTIES)
    tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", *users]
    # Kafka's way to write 16 bytes; the zero keeps a leading "-" away.
    cluster_id = base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(15)).decode()
    formatted = subprocess.run(
        java(
            arguments, directory, *tool, "-t", cluster_id.rstrip("="), "-c", str(properties)
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if formatted.returncode:
        sys.exit(f"Kafka's storage can't be formatted:\n{formatted.stderr}")
    return properties


@contextlib.contextmanager
def node(arguments: argparse.Namespace, directory: Path) -> Iterator[tuple[str, str]]:
    """Run the node during the block; yields its addresses once it has the topics.

    The second is that of the listener over TLS, or empty.
    """
    port = arguments.port or free_port()
    secured_port = free_port() if arguments.certificate else 0
    properties = prepare(arguments, directory, port, secured_port)
    log = directory / "kafka.log"
    with log.open("ab") as output:
        broker = subprocess.Popen(
            java(arguments, directory, "kafka.Kafka", str(properties)),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the command first, and then us
        )
    try:
        wait_until_ready(arguments, f"127.0.0.1:{port}", broker, log)
        yield f"127.0.0.1:{port}", f"127.0.0.1:{secured_port}" if secured_port else ""
        if broker.poll() is not None:
            give_up(f"Kafka ended by itself with {broker.returncode}", log)
    finally:
        end(broker)


def wait_until_ready(
    arguments: argparse.Namespace,
    bootstrap: str,
    broker: subprocess.Popen[bytes],
    log: Path,
) -> None:
    """Return when the topics exist: a node answers before it is registered."""
    admin = AdminClient(
        {
            "bootstrap.servers": bootstrap,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,
        }
    )
    deadline = time.monotonic() + arguments.wait
    while True:
        if broker.poll() is not None:
            give_up(f"Kafka ended with {broker.returncode}", log)
        try:
            if admin.list_topics(timeout=1).brokers:
                create_topics(admin, arguments.topic)
                return
        except KafkaException as error:
            if time.monotonic() > deadline:
                give_up(f"Kafka is not ready after {arguments.wait:.0f} s: {error}", log)
        time.sleep(0.1)


def create_topics(admin: AdminClient, specifications: list[str]) -> None:
    """Create topics given as NAME or NAME:PARTITIONS."""
    wanted = []
    for specification in specifications:
        name, _, partitions = specification.partition(":")
        wanted.append(NewTopic(name, int(partitions or 1), 1))
    answers = admin.create_topics(wanted, request_timeout=20) if wanted else {}
    for answer in answers.values():
        try:
            answer.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def give_up(what: str, log: Path) -> NoReturn:
    """End with the last words of the node."""
    sys.exit(f"{what}; the end of its log:\n{log.read_text()[-LOG_TAIL_CHARACTERS:]}")


def end(process: subprocess.Popen[bytes], *, patience_seconds: float = 0) -> None:
    """Wait a while for a process to end, then ask it to, then end it."""
    for step, seconds in (
        (None, patience_seconds),
        (process.terminate, STOP_SECONDS),
        (process.kill, STOP_SECONDS),
    ):
        if step is not None and process.poll() is None:
            step()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


# --- Command line ---------------------------------------------------------------------


def run_command(command: list[str], bootstrap: str) -> int:
    """Run the command beside the node; its exit code is ours."""
    process = subprocess.Popen(
        command, env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap}
    )
    try:
        return process.wait()
    except Stopped as stopped:
        # Ctrl-C has reached the command too: let it finish its own way.
        by_terminal = stopped.number == signal.SIGINT
        end(process, patience_seconds=STOP_SECONDS if by_terminal else 0)
        raise


def run(arguments: argparse.Namespace) -> int:
    """Start the node, and stay until the command, or somebody, ends it."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        return _run(arguments)
    except Stopped as stopped:
        return 128 + stopped.number if arguments.command else 0


def _run(arguments: argparse.Namespace) -> int:
    fetch(arguments.libs)
    started = time.monotonic()
    with contextlib.ExitStack() as running:
        directory = arguments.dir or Path(
            running.enter_context(tempfile.TemporaryDirectory(prefix="kafka-"))
        )
        bootstrap, secured = running.enter_context(node(arguments, directory.resolve()))
        seconds = time.monotonic() - started
        over_tls = f" over TLS {secured}" if secured else ""
        print(f"bootstrap {bootstrap}{over_tls} (ready in {seconds:.1f} s)", flush=True)
        if arguments.command:
            return run_command(arguments.command, bootstrap)
        signal.pause()
    return 0


def _stop(number: int, _: FrameType | None) -> None:
    # Once: the clean-up that follows is not to be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Stopped(number)


def main() -> int:
    """Read the command line and do what it says."""
    words = sys.argv[1:]
    end_of_ours = words.index("--") if "--" in words else len(words)
    arguments = _parser().parse_args(words[:end_of_ours])
    arguments.command = words[end_of_ours + 1 :]
    if arguments.subcommand == "libs":
        fetch(arguments.libs)
        return 0
    if bool(arguments.certificate) != (":" in arguments.user):
        sys.exit("--certificate and --user NAME:PASSWORD go together")
    return run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jars = argparse.ArgumentParser(add_help=False)
    jars.add_argument(
        "--libs",
        type=Path,
        default=Path(os.environ.get("AUTOPILOT_KAFKA_LIBS") or default_libs()),
        help="where the jars are, or go (AUTOPILOT_KAFKA_LIBS; default: %(default)s)",
    )
    subcommands = parser.add_subparsers(dest="subcommand", required=True)
    subcommands.add_parser("libs", parents=[jars], help="fetch the jars")
    runner = subcommands.add_parser("run", parents=[jars], help="run a node")
    runner.add_argument("--port", type=int, default=0, help="default: a free one")
    runner.add_argument(
        "--dir", type=Path, help="data and log, kept (default: a temporary directory)"
    )
    runner.add_argument("--topic", action="append", default=[], metavar="NAME[:PARTITIONS]")
    runner.add_argument(
        "--certificate", type=Path, metavar="FILE", help="PEM: key, then certificate"
    )
    runner.add_argument("--user", default="", metavar="NAME:PASSWORD")
    runner.add_argument("--heap", type=int, default=512, help="megabytes")
    runner.add_argument("--wait", type=float, default=90, help="seconds to be ready")
    return parser


if __name__ == "__main__":
    sys.exit(main())
