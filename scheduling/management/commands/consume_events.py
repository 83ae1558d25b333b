"""`manage.py consume_events`: reads upstream's records from Kafka and applies them."""

import signal
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.db import connection
from typing_extensions import override

from scheduling.conf import CHECKS_AT_START
from scheduling.consumers.loop import ConsumerLoop, StopRequest
from scheduling.services.routes import routes


class Command(BaseCommand):
    """Runs the consumer until SIGTERM or SIGINT."""

    requires_system_checks = [CHECKS_AT_START]
    help = (
        "Read the Kafka topics on which upstream tells of challenges, programs give "
        "commands, and transitions are published; keep the scheduled transitions as "
        "they want them, and answer each command. Each record is handled exactly once, "
        "however often it is delivered; one that can't be understood becomes a dead "
        "letter with the reason. While the database or the brokers are out of reach the "
        "consumer waits, and goes on by itself. One SIGTERM or SIGINT stops it in order; "
        "exit code 0. Any number of consumers may run, on any host: they share the "
        "partitions as the group KAFKA_CONSUMER_GROUP."
    )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        self._check_database()
        stop = StopRequest()
        _set_on_signals(stop)
        try:
            ConsumerLoop(
                client_config=settings.KAFKA_CLIENT,
                topics=list(routes()),
                group=settings.KAFKA_CONSUMER_GROUP,
                instance_id=settings.KAFKA_GROUP_INSTANCE_ID,
                stop=stop,
            ).run()
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def _check_database(self) -> None:
        """Refuse to start where the tables can't be used.

        Raises:
            CommandError: The database is missing, or not migrated.
        """
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM scheduling_inboxmessage LIMIT 1")
        except DatabaseError as error:
            raise CommandError(
                f"the database can't be used: {str(error).strip()}\n"
                "Is it running, and was `manage.py migrate` run?"
            ) from error


def _set_on_signals(stop: StopRequest) -> None:
    """Ask for the end at SIGTERM and SIGINT; what is in hand is finished first."""

    def note(_: int, __: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
