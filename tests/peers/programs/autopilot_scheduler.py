"""Autopilot's side of scheduling: its Python API, in a process of its own."""

import os
from datetime import UTC, datetime

import django
from asking import serve


def main():
    """Schedule what is asked for."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "autopilot_site.settings"
    django.setup()
    from scheduling.domain.actors import cli_actor
    from scheduling.domain.lifecycle import TransitionKind
    from scheduling.domain.phases import PhaseData
    from scheduling.services import schedule_phase_transition
    from scheduling.services.schedule import Scheduled, schedule_many

    actor = cli_actor("peers")

    def phase(number, due_ms):
        return PhaseData(
            project_id=str(number),
            phase_id="1",
            phase_type_name="Review",
            state=TransitionKind.END,
            end_time=datetime.fromtimestamp(due_ms / 1000, UTC),
            operator="peers",
            project_status="ACTIVE",
        )

    def one(number, due_ms):
        schedule_phase_transition(phase(number, due_ms), actor=actor)

    def many(jobs):
        results = schedule_many(
            [phase(number, due_ms) for number, due_ms in jobs],
            actor=actor,
            now=datetime.now(UTC),
        )
        refused = [one for one in results if not isinstance(one, Scheduled)]
        if refused:
            raise refused[0]

    serve(one, many)


if __name__ == "__main__":
    main()
