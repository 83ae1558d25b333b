"""`manage.py ensure_topics`: creates the product's topics where the cluster lets it."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from typing_extensions import override

from scheduling.adapters.topics_admin import BROKER_DEFAULT, TopicsReport, ensure_topics
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.topics import DEFAULT_PARTITIONS


class Command(BaseCommand):
    """Wires the settings to `ensure_topics` and prints its report."""

    help = (
        "Create the product's topics on the Kafka cluster (KAFKA_BOOTSTRAP_SERVERS, or "
        "the embedded broker's address), those of AUTOPILOT_EVENT_HANDLERS and each "
        "one's .dlq included. Existing topics are left as they are. Where "
        "the cluster does not let this client create topics, the missing ones are "
        "named, for an administrator of the cluster to create. Exit code 0: all topics "
        "exist now; 1: some are missing, or no broker answers within 7 seconds."
    )
    # Needs the cluster and nothing else of the product.
    requires_system_checks = []

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--partitions",
            type=_count,
            default=DEFAULT_PARTITIONS,
            metavar="N",
            help="partitions of each topic created (default: %(default)s)",
        )
        parser.add_argument(
            "--replication-factor",
            type=_count_or_default,
            default=BROKER_DEFAULT,
            metavar="N",
            help="copies of each partition (default: %(default)s: as the broker likes)",
        )
        parser.add_argument(
            "--json", action="store_true", help="print the report as one JSON document"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = ensure_topics(
                settings.KAFKA_CLIENT,
                partitions=options["partitions"],
                replication_factor=options["replication_factor"],
            )
        except (ServiceUnavailableError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            json.dumps(asdict(report)) if options["json"] else _as_lines(report)
        )
        if report.missing:
            raise CommandError(f"missing topics: {', '.join(report.missing)}")


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _count_or_default(text: str) -> int:
    return BROKER_DEFAULT if text == str(BROKER_DEFAULT) else _count(text)


def _as_lines(report: TopicsReport) -> str:
    return "\n".join(
        [
            *(f"created   {name}" for name in report.created),
            *(f"existing  {name}" for name in report.existing),
            *(f"missing   {name}: {report.refusals[name]}" for name in report.missing),
        ]
    )
