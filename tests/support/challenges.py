"""A challenge as it was read, with the jobs that its phases want."""

from datetime import timedelta

from scheduling.domain.actors import CONSUMER
from scheduling.domain.challenges import Challenge, Phase, Reading
from scheduling.models import Challenge as ChallengeRow
from scheduling.services.apply_challenge import apply_challenge

# Phase, name, begins and ends in so many hours, follows.
PHASES = (
    ("101", "Registration", -2, 1, ""),
    ("102", "Submission", 1, 3, "101"),
    ("103", "Review", 3, 5, "102"),
)


def make_challenge(now, *, phases=PHASES, **fields):
    """Return the row of an ACTIVE challenge; its jobs are made as a reading makes them."""
    values = {"challenge_id": "900", "project_id": "77", "name": "Lamp", "status": "ACTIVE"}
    apply_challenge(
        Reading(
            challenge=Challenge(
                **values | fields,
                phases=tuple(
                    Phase(
                        phase_id=phase_id,
                        name=name,
                        scheduled_start_at=now + timedelta(hours=begins),
                        scheduled_end_at=now + timedelta(hours=ends),
                        actual_start_at=(
                            now + timedelta(hours=begins) if begins < 0 else None
                        ),
                        predecessor=predecessor,
                    )
                    for phase_id, name, begins, ends, predecessor in phases
                ),
            ),
            source="a test",
        ),
        actor=CONSUMER,
        now=now,
    )
    return ChallengeRow.objects.get(challenge_id=(values | fields)["challenge_id"])
