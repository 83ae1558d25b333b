"""`manage.py up`: the whole product on this host by one command."""

import argparse
import logging
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

import psutil
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone
from typing_extensions import override

from autopilot_site import demo
from autopilot_site.processes import (
    Printer,
    Process,
    Service,
    StopRequestedError,
    Supervisor,
    listen_for_stop,
)
from scheduling.adapters.owner import host_identity
from scheduling.adapters.topics_admin import ensure_topics
from scheduling.conf import CHECKS_AT_START
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.topics import DEFAULT_PARTITIONS

LOOPBACK: Final = "127.0.0.1"
MANAGE: Final = str(settings.BASE_DIR / "manage.py")
# Before everything was ready once, so many deaths of one process end the start: what
# stands in its way will not go away by itself.
MOST_DEATHS_AT_START: Final = 3
# How long what is asked for may take before the terminal says what is waited for.
PATIENCE_SECONDS: Final = 30.0
PROBE_SECONDS: Final = 1.0
TOPICS_RETRY_SECONDS: Final = 1.0
QUIET_CONSUMER_SECONDS: Final = 5.0
WEB_GRACE_SECONDS: Final = 5
# The cluster beside its workers: the sentinel, the due-broker's process, the monitor.
CLUSTER_PROCESSES_BESIDE_WORKERS: Final = 3
_HIGHEST_PORT: Final = 65_535
_SERVER_ERROR: Final = 500


class _ParagraphFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of the description."""


class Command(BaseCommand):
    """Prepares the database and the topics, then supervises the four processes."""

    requires_system_checks = [CHECKS_AT_START]
    help = """\
Start everything on this host: migrate the database, see to the Kafka topics, then run
web, cluster and consumer, and the embedded Kafka broker where KAFKA_BOOTSTRAP_SERVERS is
not set. Each line that one of them writes is shown with its name; whatever dies is
started again. "ready http://HOST:PORT" is printed once all of them answer.

One SIGTERM, SIGINT (Ctrl-C) or SIGHUP stops them all: exit code 0. What stands in the
way of the start is told in a line: exit code 1.

With DATABASE_URL or KAFKA_BOOTSTRAP_SERVERS set those are used, instead of the SQLite
file and the embedded broker. The embedded broker keeps its records in memory; a restart
forgets them, but no transition: those are in the database.

Where the database is empty and DEBUG is on, a demo is set up: users "viewer", "operator"
and "admin", whose passwords are printed once, and sample challenges whose phases end
within seconds and minutes."""

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
            "--host",
            default=LOOPBACK,
            help="address that web listens on (default: %(default)s)",
        )
        parser.add_argument(
            "--port",
            type=_port,
            default=8000,
            help="port that web listens on (default: %(default)s)",
        )
        parser.add_argument(
            "--kafka-port",
            type=_port,
            default=settings.SITE.kafka_embedded_port,
            help=f"port of the embedded broker on {LOOPBACK} (default: %(default)s)",
        )
        parser.add_argument(
            "--no-demo",
            action="store_false",
            dest="demo",
            help="create no users and send no challenges, even if the database is empty",
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        start = _Start(
            host=options["host"],
            port=options["port"],
            kafka_port=options["kafka_port"] if settings.KAFKA_IS_EMBEDDED else None,
        )
        try:
            start.prepare(wants_demo=options["demo"])
            start.run()
        except StopRequestedError:
            return
        finally:
            start.printer.close()


class _Start:
    """One start of the product, from the first check to the last process's end."""

    def __init__(self, *, host: str, port: int, kafka_port: int | None) -> None:
        self._host, self._port, self._kafka_port = host, port, kafka_port
        self._kafka: dict[str, str | int | bool] = dict(settings.KAFKA_CLIENT)
        if kafka_port is not None:
            self._kafka["bootstrap.servers"] = f"{LOOPBACK}:{kafka_port}"
        self._is_preparing = True
        self._stop_descriptor = listen_for_stop(may_interrupt=lambda: self._is_preparing)
        self.printer = Printer()
        self._has_demo = False
        self._topics = _Topics(self._kafka)
        self._supervisor = Supervisor(
            self._services(), printer=self.printer, stop_descriptor=self._stop_descriptor
        )

    def prepare(self, *, wants_demo: bool) -> None:
        """Do what comes before the first process.

        Raises:
            CommandError: A port is taken, or the database can't be used.
            StopRequestedError: A stop was asked for meanwhile.
        """
        _check_port(self._host, self._port, option="--port")
        if self._kafka_port is not None:
            _check_port(LOOPBACK, self._kafka_port, option="--kafka-port")
        self._prepare_database(wants_demo=wants_demo)
        self._is_preparing = False

    def _prepare_database(self, *, wants_demo: bool) -> None:
        """Migrate, and create the demo's users where they belong.

        Raises:
            CommandError: The database can't be reached or written.
        """
        try:
            call_command("migrate", interactive=False, verbosity=0)
            self._supervisor.say(f"database {_database_name()} is migrated")
            self._has_demo = wants_demo and settings.DEBUG and demo.is_database_empty()
            if self._has_demo:
                for name, password in demo.create_users():
                    self.printer.say(f"user {name} password {password}")
        except DatabaseError as error:
            raise CommandError(
                f"the database {_database_name()} can't be used: {str(error).strip()}"
            ) from error
        finally:
            connection.close()

    def run(self) -> None:
        """Run the processes until a stop is asked for.

        Raises:
            CommandError: One of them can't be started.
        """
        if self._kafka_port is None:
            self._topics.start()
        try:
            self._get_ready()
            while not self._is_over:
                self._supervisor.step()
        finally:
            self._supervisor.say("stopping")
            self._supervisor.stop()

    @property
    def _is_over(self) -> bool:
        """Whether a stop was asked for, or nobody reads what is written any more."""
        return self._supervisor.is_asked_to_stop or self.printer.is_closed

    def _get_ready(self) -> None:
        """Start everything, and say so once all of it answers.

        Raises:
            CommandError: A process died again and again, or Kafka's settings are wrong.
        """
        patience_ends_at = time.monotonic() + PATIENCE_SECONDS
        while self._supervisor.waiting_for or not self._has_topics:
            if self._is_over:
                return
            self._supervisor.step()
            self._check_start()
            self._tell_news()
            if time.monotonic() > patience_ends_at:
                patience_ends_at += PATIENCE_SECONDS
                self._supervisor.say(f"still waiting for {self._waiting_for()}")
        self._tell_news()
        if self._has_demo:
            self._send_challenges()
        self.printer.say(f"ready http://{_in_address(self._host)}:{self._port}")

    def _check_start(self) -> None:
        """Tell whether the start can still succeed.

        Raises:
            CommandError: A process died again and again, or Kafka's settings are wrong.
        """
        if self._topics.error:
            raise CommandError(self._topics.error)
        for process in self._supervisor.processes:
            if process.deaths >= MOST_DEATHS_AT_START:
                raise CommandError(
                    f"{process.service.name} can't be started: it ended "
                    f"{process.deaths} times; its lines above say why"
                )

    def _tell_news(self) -> None:
        """Write what became of the topics."""
        while self._topics.news:
            self._supervisor.say(self._topics.news.pop(0))

    def _waiting_for(self) -> str:
        """Name what is not ready."""
        missing = self._supervisor.waiting_for
        if not self._has_topics:
            missing = [f"Kafka at {self._kafka['bootstrap.servers']}", *missing]
        return ", ".join(missing)

    def _send_challenges(self) -> None:
        """Send the demo's challenges; without them the product runs all the same."""
        sent, error = demo.send_challenges(
            self._kafka, start=timezone.now(), while_waiting=lambda: not self._is_over
        )
        self._supervisor.say(f"demo: {sent} sample challenges sent {error}".rstrip())

    # --- The processes ----------------------------------------------------------------
    def _services(self) -> list[Service]:
        """Return the processes of this start."""
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": os.environ.get(
                "DJANGO_SETTINGS_MODULE", "autopilot_site.settings"
            ),
        }
        if self._kafka_port is not None:
            environment["KAFKA_EMBEDDED_PORT"] = str(self._kafka_port)
        # A consumer that died, or this command, has its partitions back at once.
        instance = re.sub(r"[^A-Za-z0-9._-]", "-", f"{host_identity()}-{self._port}")
        environment.setdefault("KAFKA_GROUP_INSTANCE_ID", instance)

        def service(
            name: str,
            command: list[str],
            is_ready: Callable[[Process], bool],
            **more: Any,
        ) -> Service:
            return Service(
                name=name,
                command=[sys.executable, *command],
                environment=environment,
                is_ready=is_ready,
                **more,
            )

        services = [
            service("web", self._web_command(), lambda _: self._web_answers()),
            service(
                "cluster",
                [MANAGE, "qcluster"],
                _is_cluster_complete,
                may_start=lambda: self._has_asked_kafka,
            ),
            service(
                "consumer",
                [MANAGE, "consume_events"],
                _is_consumer_assigned,
                may_start=lambda: self._has_topics,
            ),
        ]
        if self._kafka_port is not None:
            command = [MANAGE, "embedded_kafka", "--port", str(self._kafka_port)]
            kafka = service(
                "kafka",
                [*command, "--exit-with-parent"],
                lambda process: process.has_said(r"^bootstrap "),
                stops_last=True,
            )
            services.insert(0, kafka)
        return services

    def _web_command(self) -> list[str]:
        """Return the arguments with which Python runs the web server."""
        return [
            *("-m", "gunicorn", "autopilot_site.asgi:application", "-k", "asgi"),
            *("--bind", f"{_in_address(self._host)}:{self._port}"),
            *("--pythonpath", str(settings.BASE_DIR)),
            *("--graceful-timeout", str(WEB_GRACE_SECONDS)),
            "--no-control-socket",
        ]

    def _web_answers(self) -> bool:
        """Tell whether the web server answers a request."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self._host, self._host)  # noqa: S104
        url = f"http://{_in_address(host)}:{self._port}/livez"
        try:
            # Past any proxy: this is our own process.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(url, timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError as error:
            # Refusing our name as host (400), or sending us to HTTPS, is an answer too.
            error.close()
            return error.code < _SERVER_ERROR
        except OSError:
            return False
        return True

    @property
    def _has_topics(self) -> bool:
        """Whether the topics were seen to."""
        if self._kafka_port is None:
            return self._topics.is_done
        # The embedded broker brings them along.
        return self._supervisor.is_ready("kafka")

    @property
    def _has_asked_kafka(self) -> bool:
        """Whether the topics were seen to, or can't be seen to for the time being."""
        return self._has_topics or self._topics.is_waiting


class _Topics(threading.Thread):
    """Sees to the topics of a Kafka cluster, however long it takes to answer."""

    def __init__(self, client: dict[str, str | int | bool]) -> None:
        super().__init__(daemon=True, name="topics")
        self._client = client
        self.is_done = False
        self.is_waiting = False
        # What the start can't go on with.
        self.error = ""
        # Lines for the terminal, oldest first.
        self.news: list[str] = []

    @override
    def run(self) -> None:
        """Ask until the cluster answers."""
        while not self.is_done and not self.error:
            try:
                report = ensure_topics(self._client, partitions=DEFAULT_PARTITIONS)
            except ServiceUnavailableError as error:
                if not self.is_waiting:
                    self.news.append(f"{error}: going on without it until it does")
                self.is_waiting = True
                time.sleep(TOPICS_RETRY_SECONDS)
            except ImproperlyConfigured as error:
                self.error = str(error)
            else:
                self.news += [
                    f"topic {name} is missing: {report.refusals[name]}"
                    for name in report.missing
                ]
                self.is_done = True


def _is_cluster_complete(process: Process) -> bool:
    """Tell whether the cluster's processes are all there."""
    beside = CLUSTER_PROCESSES_BESIDE_WORKERS + len(settings.CLUSTER_COMPANIONS)
    wanted = settings.SITE.cluster_workers + beside
    try:
        return len(psutil.Process(process.pid).children(recursive=True)) >= wanted
    except psutil.NoSuchProcess:
        return False


def _is_consumer_assigned(process: Process) -> bool:
    """Tell whether the consumer has its partitions.

    It says so at level INFO; where less is written, a life of some seconds has to do.
    """
    is_quiet = logging.getLevelName(settings.SITE.log_level) > logging.INFO
    is_old = process.age_seconds > QUIET_CONSUMER_SECONDS
    return process.has_said(r"partitions assigned") or (is_quiet and is_old)


def _check_port(host: str, port: int, *, option: str) -> None:
    """Refuse a port that can't be had.

    Raises:
        CommandError: Another process has it, or it may not be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as door:
        # As the servers do: what only waits for a closed connection's end is free.
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
            door.listen()
        except OSError as error:
            raise CommandError(
                f"port {port} on {host} can't be had: {error.strerror}; "
                f"{option} names another"
            ) from error


def _in_address(host: str) -> str:
    """Return a host as an address has it before its port."""
    return f"[{host}]" if ":" in host else host


def _database_name() -> str:
    """Return what a person calls the database, without its password."""
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        return str(database["NAME"])
    return f"{database['NAME']} at {database['HOST']}:{database['PORT'] or 5432}"


def _port(text: str) -> int:
    """Return a port's number."""
    if not (text.isdecimal() and 1 <= int(text) <= _HIGHEST_PORT):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number between 1 and {_HIGHEST_PORT}"
        )
    return int(text)
