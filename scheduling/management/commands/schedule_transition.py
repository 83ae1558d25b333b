"""`manage.py schedule_transition`: schedules the START or END of a phase."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from typing_extensions import override

from scheduling import strict_json
from scheduling.domain.errors import InvalidPhaseDataError
from scheduling.domain.lifecycle import TransitionKind
from scheduling.management.base import OverrideCommand, actor_of, outside_id
from scheduling.queries import show_job
from scheduling.services.schedule import schedule_transition


class Command(OverrideCommand):
    """Wires the options to the service and prints the job."""

    help = """\
Schedule one transition: at --end-time the event of this START or END is put on Kafka.

Prints the job's id. Asked again for the same transition at the same instant, it prints
the id of the job that stands, says so on stderr, and is done; at another instant it is
refused (duplicate_job): reschedule or cancel that job.

example:
  manage.py schedule_transition --project-id 12345 --phase-id 67890 --state END \\
      --phase-type-name Registration --project-status ACTIVE \\
      --end-time $(date -u -d '+1 hour' +%FT%TZ)"""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--project-id", required=True, metavar="ID", help="positive integer or UUID"
        )
        parser.add_argument(
            "--phase-id", required=True, metavar="ID", help="positive integer or UUID"
        )
        parser.add_argument(
            "--phase-type-name",
            required=True,
            metavar="NAME",
            help='the phase\'s name, such as "Registration"',
        )
        parser.add_argument(
            "--state",
            required=True,
            choices=[kind.value for kind in TransitionKind],
            help="which end of the phase",
        )
        parser.add_argument(
            "--end-time",
            required=True,
            metavar="INSTANT",
            help="due instant, for START too: ISO 8601 with Z or an offset",
        )
        parser.add_argument(
            "--project-status",
            required=True,
            metavar="STATUS",
            help='the challenge\'s status, such as "ACTIVE"',
        )
        parser.add_argument(
            "--operator",
            metavar="NAME",
            help="operator that the event names (default: the actor's name)",
        )
        parser.add_argument(
            "--challenge-id",
            metavar="ID",
            help="the challenge inside the project: positive integer or UUID",
        )
        parser.add_argument(
            "--metadata", metavar="JSON", help="a JSON object kept with the job"
        )
        parser.add_argument(
            "--date", metavar="INSTANT", help="an instant kept with the job as said"
        )

    @override
    def act(self, options: Mapping[str, Any]) -> dict[str, Any]:
        actor = actor_of(options)
        data: dict[str, object] = {
            "projectId": outside_id(options["project_id"]),
            "phaseId": outside_id(options["phase_id"]),
            "phaseTypeName": options["phase_type_name"],
            "state": options["state"],
            "endTime": options["end_time"],
            "projectStatus": options["project_status"],
            "operator": options["operator"] or actor.name.removeprefix("cli:"),
        }
        if options["challenge_id"] is not None:
            data["challengeId"] = outside_id(options["challenge_id"])
        if options["metadata"] is not None:
            data["metadata"] = _read_json(options["metadata"])
        if options["date"] is not None:
            data["date"] = options["date"]
        scheduled = schedule_transition(data, actor=actor, now=timezone.now())
        if not scheduled.is_new:
            self.stderr.write("already scheduled: this is the job that stands")
        return show_job(scheduled.job)

    @override
    def show(self, answer: Mapping[str, Any]) -> None:
        self.stdout.write(answer["jobId"])


def _read_json(text: str) -> object:
    """Return what JSON text on the command line says.

    Raises:
        InvalidPhaseDataError: It is no strict JSON.
    """
    try:
        # Bytes that are no UTF-8 come in as lone surrogates.
        return strict_json.loads(text.encode(errors="surrogateescape"))
    except ValueError as error:
        raise InvalidPhaseDataError([("metadata", str(error))]) from None
