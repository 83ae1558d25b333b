"""`manage.py replay_dead_letters`: handles records that were set aside again."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.progress import track
from typing_extensions import override

from scheduling.api.errors import of_scheduling_error
from scheduling.domain.actors import Actor
from scheduling.domain.errors import DeadLetterNotFoundError, DeadLetterSettledError
from scheduling.domain.texts import printable
from scheduling.management.base import OverrideCommand, actor_of
from scheduling.models import DeadLetter
from scheduling.models.dead_letter import NEW
from scheduling.queries.dead_letters import list_dead_letters, parse_dead_letter_id
from scheduling.services.dead_letters import replay_dead_letter

DONE, FAILED_AGAIN, REFUSED = "replayed", "failedAgain", "refused"


class Command(OverrideCommand):
    """Wires the options to the service, record by record, and tells what became of each."""

    help = """\
Handle records that were set aside again, as if they had just come in: those named, or
with --all every new one, the oldest first. What fails again is a new dead letter.

Exit code 1 where one of them failed again, or could not be replayed; the others are
replayed all the same. --json prints {"replayed", "failedAgain", "refused", "results"}.

examples:
  manage.py replay_dead_letters 7f9c24e5-8a1d-4c5e-9b1f-2d3c4b5a6978
  manage.py replay_dead_letters --all --topic autopilot.command"""

    _wrong = 0

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "ids", metavar="ID", nargs="*", type=_dead_letter_id, help="a dead letter's id"
        )
        parser.add_argument(
            "--all", action="store_true", help="every dead letter that is new"
        )
        parser.add_argument(
            "--topic", metavar="NAME", help="with --all: of this topic only"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        super().handle(*args, **options)
        if self._wrong:
            raise CommandError(f"{self._wrong} of them failed again or were refused")

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        ids, actor = _chosen(options), actor_of(options)
        watched = track(
            ids,
            "replaying",
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        results = [_replay(one, actor=actor) for one in watched]
        outcomes = Counter(result["outcome"] for result in results)
        self._wrong = outcomes[FAILED_AGAIN] + outcomes[REFUSED]
        return {
            **{outcome: outcomes[outcome] for outcome in (DONE, FAILED_AGAIN, REFUSED)},
            "results": results,
        }

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        for result in answer["results"]:
            self.stdout.write(printable(f"{result['id']} {_in_words(result)}"))
        if not answer["results"]:
            self.stdout.write("There is no new dead letter.")


def _dead_letter_id(text: str) -> UUID:
    """Return an id from the command line."""
    found = parse_dead_letter_id(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a dead letter")
    return found


def _chosen(options: Mapping[str, Any]) -> Sequence[UUID]:
    """Return the ids to replay: those named, or of all that are new, the oldest first.

    Raises:
        CommandError: Neither or both are given.
        InvalidRequestError: The topic can't be any topic's name.
    """
    ids: list[UUID] = options["ids"]
    if bool(ids) == options["all"]:
        raise CommandError("name the dead letters, or give --all", returncode=2)
    if ids:
        if options["topic"] is not None:
            raise CommandError("--topic goes with --all", returncode=2)
        return list(dict.fromkeys(ids))
    filters = {"status": NEW}
    if options["topic"] is not None:
        filters["topic"] = options["topic"]
    new = list_dead_letters(filters).order_by("set_aside_at", "id")
    return list(new.values_list("pk", flat=True))


def _replay(dead_letter_id: UUID, *, actor: Actor) -> dict[str, Any]:
    """Replay one, and return what became of it.

    Raises:
        ServiceUnavailableError: A neighbour is out of reach, so all would be in vain.
    """
    shown = {"id": str(dead_letter_id)}
    try:
        replay_dead_letter(dead_letter_id, actor=actor, now=timezone.now())
    except (DeadLetterNotFoundError, DeadLetterSettledError) as error:
        return {**shown, "outcome": REFUSED, "error": of_scheduling_error(error).body()}
    again = DeadLetter.objects.filter(replay_of=dead_letter_id).first()
    if again is None:
        return {**shown, "outcome": DONE}
    return {**shown, "outcome": FAILED_AGAIN, "deadLetterId": str(again.pk)}


def _in_words(result: Mapping[str, Any]) -> str:
    """Return what became of one, for people."""
    match result["outcome"]:
        case "replayed":
            return "is handled"
        case "failedAgain":
            return f"failed again: {result['deadLetterId']}"
        case _:
            return f"is refused: {result['error']['detail']}"
