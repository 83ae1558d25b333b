"""The names of the Kafka topics the product reads and writes (contract, section 8)."""

from typing import Final

PHASE_TRANSITION: Final = "autopilot.phase.transition"
CHALLENGE_UPDATE: Final = "autopilot.challenge.update"
NOTIFICATION_CREATE: Final = "challenge.notification.create"
NOTIFICATION_UPDATE: Final = "challenge.notification.update"
COMMAND: Final = "autopilot.command"
COMMAND_RESULT: Final = "autopilot.command.result"

# Kafka's own bound is 249, and `.dlq` comes behind.
LONGEST_CONSUMED: Final = 245


def dead_letter_topic(name: str) -> str:
    """Name the topic that takes what could not be understood on topic `name`."""
    return f"{name}.dlq"


CONSUMED_TOPICS: Final[tuple[str, ...]] = (
    PHASE_TRANSITION,
    CHALLENGE_UPDATE,
    NOTIFICATION_CREATE,
    NOTIFICATION_UPDATE,
    COMMAND,
)

# Every topic of ours that has to exist before the first process starts; see also
# `conf.used_topics`.
ALL_TOPICS: Final[tuple[str, ...]] = (
    *CONSUMED_TOPICS,
    COMMAND_RESULT,
    *(dead_letter_topic(name) for name in CONSUMED_TOPICS),
)

# How many partitions a topic gets where we create it. Never lower it, and never
# raise it on a live topic: a key would move to another partition, and its records
# would lose their order.
DEFAULT_PARTITIONS: Final = 3
