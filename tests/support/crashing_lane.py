"""Publishes what is due in children that die without a word, each at another point.

    python -m tests.support.crashing_lane PROJECT POINT…

Each child takes over what the one before it held, makes a job of its own that is due at
once (of project PROJECT, PROJECT + 1, …), and runs a lane. The last one meets no point.
Exit code 0 where each died at its point and the last one did not.
"""

import os
import sys
from datetime import UTC, datetime

import django

from tests.support.crashing_consumer import EXIT_CODE, after, before


def arrange(point):
    """Lay the point over the product."""
    from scheduling.adapters import claims, event_publisher
    from scheduling.adapters.event_publisher import EventPublisher, _Waiting
    from scheduling.services import publish

    def is_claim(_, acknowledged, claim):
        return claim is not None and not acknowledged

    def is_completion(_, acknowledged, __):
        return bool(acknowledged)

    def has_some(_, acknowledged):
        return bool(acknowledged)

    {
        "claim-before-commit": lambda: after(claims, "_claim_on_sqlite"),
        "claimed": lambda: after(publish, "complete_and_claim", is_claim),
        "searched": lambda: before(EventPublisher, "publish"),
        "queued-not-sent": lambda: after(event_publisher, "_produce"),
        "sent-not-heard": lambda: before(_Waiting, "answer"),
        "heard": lambda: after(EventPublisher, "publish"),
        "completion-before-commit": lambda: after(claims, "_complete_on_sqlite", has_some),
        "completed": lambda: after(publish, "complete_and_claim", is_completion),
    }[point]()


def publish_one(project, point):
    """Live the life of one child."""
    from scheduling.adapters.claim_ends import rescue_abandoned
    from scheduling.domain.actors import cli_actor
    from scheduling.services.publish import publish_due
    from scheduling.services.schedule import schedule_transition

    now = datetime.now(UTC)
    phase = {
        "projectId": project,
        "phaseId": 1,
        "phaseTypeName": "Review",
        "state": "END",
        "endTime": now.replace(microsecond=now.microsecond // 1000 * 1000),
        "operator": "tests",
        "projectStatus": "ACTIVE",
    }
    schedule_transition(phase, actor=cli_actor("tests"), now=now)
    rescue_abandoned()
    if point:
        arrange(point)
    publish_due(not_before=0.0)


def main(first_project, points):
    """Let one child after the other live; complain of one that ended otherwise."""
    django.setup()
    for number, point in enumerate([*points, ""]):
        # Before a fork neither a connection nor a Kafka client may be there.
        pid = os.fork()
        if pid == 0:
            publish_one(first_project + number, point)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != (EXIT_CODE if point else 0):
            sys.exit(f"the child of {point or 'the end'!r} ended with {code}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
