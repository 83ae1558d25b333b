"""What the commands for people and scripts share: --json, --actor, errors, exit codes.

Exit codes (contract, section 9): 0 done; 1 refused or found wrong; 2 bad usage.
"""

import argparse
import getpass
import json
import os
from collections.abc import Mapping
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from django.db import InterfaceError, OperationalError, ProgrammingError
from typing_extensions import override

from scheduling.api.errors import Problem, of_scheduling_error
from scheduling.domain.actors import Actor, cli_actor
from scheduling.domain.errors import Category, SchedulingError
from scheduling.domain.phases import parse_query_id, wire_id

EXIT_CODES = """\
exit codes:
  0  done
  1  refused; the reason is on stderr, and with --json the API's problem object
     ("code", "detail", ...) is on stdout
  2  bad usage
"""
LONGEST_ACTOR_NAME = 255


class _ParagraphFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of options, and texts whose paragraphs are kept."""


class RefusedError(Exception):
    """The request is refused for a reason that only a command knows."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class ProductCommand(BaseCommand):
    """A command that does one thing by the product's rules and tells it.

    Subclasses write `act`, which returns what `--json` prints, and `show`, which prints
    the same for people.
    """

    # One call of the product needs no check of the whole site.
    requires_system_checks = []

    @override
    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        return super().create_parser(
            prog_name,
            subcommand,
            formatter_class=_ParagraphFormatter,
            epilog=EXIT_CODES,
            **kwargs,
        )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json",
            action="store_true",
            help="print one JSON document on stdout and nothing else",
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        try:
            answer = self.act(options)
        except RefusedError as error:
            self._refuse(error.problem, options)
        except SchedulingError as error:
            self._refuse(of_scheduling_error(error), options)
        # The second is what PostgreSQL says where a table is missing.
        except (OperationalError, ProgrammingError, InterfaceError) as error:
            self._refuse(_database_problem(error), options)
        else:
            if not answer:
                return
            if options["json"]:
                self._write_json(answer)
            else:
                self.show(answer)

    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Do it, and return what there is to tell, in the API's words.

        Nothing is left to tell where it has printed what was asked for itself.

        Raises:
            SchedulingError, RefusedError: It is refused.
        """
        raise NotImplementedError

    def show(self, answer: Mapping[str, Any]) -> None:
        """Print the answer for people."""
        raise NotImplementedError

    def _refuse(self, problem: Problem, options: Mapping[str, Any]) -> None:
        """End with exit code 1.

        Raises:
            CommandError: Always; Django prints it on stderr.
        """
        if options["json"]:
            self._write_json(problem.body())
        raise CommandError(problem.detail)

    def _write_json(self, document: Mapping[str, Any]) -> None:
        """Print one JSON document."""
        self.stdout.write(json.dumps(document, indent=2))


class OverrideCommand(ProductCommand):
    """A command that changes something in the name of whoever runs it."""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--actor",
            metavar="NAME",
            type=_actor_name,
            help="who does this, audited as cli:NAME (default: the shell's user)",
        )


def add_reason(parser: CommandParser, *, is_required: bool = True) -> None:
    """Let a command take the reason for what it does."""
    parser.add_argument(
        "--reason",
        required=is_required,
        default="",
        metavar="TEXT",
        help="why, in your words; kept in the audit",
    )


def actor_of(options: Mapping[str, Any]) -> Actor:
    """Return whoever runs the command, as the audit names them."""
    return cli_actor(options.get("actor") or _login_name())


def outside_id(text: str) -> int | str:
    """Return an id from the command line as the API takes it.

    What is none is passed on as it is: the product refuses it with the field's name.
    """
    try:
        return wire_id(parse_query_id(text))
    except ValueError:
        return text


def _actor_name(text: str) -> str:
    """Return an actor's name that the audit can hold."""
    if not text.strip() or len(text) > LONGEST_ACTOR_NAME or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"must be a printable text of 1 to {LONGEST_ACTOR_NAME} characters"
        )
    return text.strip()


def _login_name() -> str:
    """Return the login name of the shell's user, or the user id where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid-{os.getuid()}"


def _database_problem(error: Exception) -> Problem:
    """Return the problem of a database that is down, or not migrated."""
    # What a database says first; the rest is for its administrator.
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Problem(
        status=503,
        code="service_unavailable",
        category=Category.SYSTEM,
        detail=f"the database can't be used: {first_line} "
        "(is it running, and was `manage.py migrate` run?)",
    )
