"""The variables of the product: names, defaults, ranges and what each one does.

The environment speaks milliseconds (contract, section 10); the code below speaks
`timedelta`. `settings.SCHEDULER` holds the one instance, read at start.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Final, cast

from django.conf import settings
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from scheduling.domain.retry import RetryPolicy
from scheduling.live_settings import LiveGroup, in_force
from scheduling.topics import (
    ALL_TOPICS,
    CONSUMED_TOPICS,
    LONGEST_CONSUMED,
    dead_letter_topic,
)

_TOPIC = re.compile(rf"(?!\.{{1,2}}$)[a-zA-Z0-9._-]{{1,{LONGEST_CONSUMED}}}")
# Ten years: more is a typing error, and larger values overflow timedelta arithmetic.
LONGEST_MS = 315_360_000_000
SHORTEST_INTERVAL_MS = 1_000
# The system checks of what stands here, which every process that runs on makes at its
# start. Django's own look at pages too, which a cluster or a consumer has not even loaded.
CHECKS_AT_START: Final = "autopilot"


class _Settings(LiveGroup):
    """A group of variables that stands in Django's settings."""

    # Django looks for it at each access, and pydantic is slow to say that it is missing.
    _mask_wrapped: ClassVar[bool] = True


class SchedulerSettings(_Settings):
    """What decides how jobs are scheduled, published, retried and cleaned up."""

    model_config = SettingsConfigDict(
        env_prefix="SCHEDULER_", frozen=True, extra="ignore", hide_input_in_errors=False
    )
    # The producer's and django-q2's own timeouts are made from it.
    restart_only = frozenset({"job_timeout"})

    job_timeout: int = Field(
        60_000,
        ge=1_000,
        le=3_600_000,
        description="An attempt without an answer from the broker ends after this many "
        "milliseconds and counts as failed.",
    )
    max_retries: int = Field(
        3,
        ge=0,
        le=100,
        description="Attempts after the first; only a refused record or a job timeout "
        "uses one up.",
    )
    retry_delay: int = Field(
        5_000,
        ge=100,
        le=3_600_000,
        description="Wait in milliseconds before the second attempt; doubles each "
        "time, with jitter, up to five minutes.",
    )
    max_concurrent_jobs: int = Field(
        50,
        ge=1,
        le=10_000,
        description="How many jobs are running at any instant, all hosts together.",
    )
    cleanup_interval: int = Field(
        300_000,
        ge=1_000,
        le=LONGEST_MS,
        description="Milliseconds between two clean-ups, over all hosts.",
    )
    max_completed_job_age: int = Field(
        3_600_000,
        ge=1_000,
        le=LONGEST_MS,
        description="Completed and cancelled jobs leave the live table after this many "
        "milliseconds; the audit keeps them whole.",
    )
    max_failed_job_age: int = Field(
        86_400_000,
        ge=1_000,
        le=LONGEST_MS,
        description="Failed jobs that somebody dealt with leave the live table after "
        "this many milliseconds.",
    )
    min_schedule_advance: int = Field(
        1_000,
        ge=0,
        le=LONGEST_MS,
        description="A job must be due at least this many milliseconds ahead.",
    )
    max_schedule_advance: int = Field(
        7_776_000_000,
        ge=1_000,
        le=LONGEST_MS,
        description="A job must be due at most this many milliseconds ahead.",
    )
    allow_past_scheduling: bool = Field(
        default=False,
        description="Whether a job may be due in the past; it then fires at once.",
    )
    enable_debug_logging: bool = Field(
        default=False,
        description="Whether Autopilot's own loggers write debug lines.",
    )
    log_job_details: bool = Field(
        default=True,
        description="Whether each firing writes a line with its lateness.",
    )

    @field_validator("max_schedule_advance")
    @classmethod
    def _after_the_least(cls, value: int, info: ValidationInfo) -> int:
        """Refuse a window in which nothing could be scheduled.

        Raises:
            ValueError: It ends before SCHEDULER_MIN_SCHEDULE_ADVANCE.
        """
        least = info.data.get("min_schedule_advance", 0)
        if value < least:
            raise ValueError(
                f"SCHEDULER_MAX_SCHEDULE_ADVANCE, {value}, must not be below "
                f"SCHEDULER_MIN_SCHEDULE_ADVANCE, {least}"
            )
        return value

    @property
    def max_attempts(self) -> int:
        """How many attempts a job has in all."""
        return 1 + self.max_retries

    @property
    def retry_policy(self) -> RetryPolicy:
        """The wait between attempts."""
        return RetryPolicy(delay=timedelta(milliseconds=self.retry_delay))

    def period(self, name: str) -> timedelta:
        """Return a millisecond variable as a duration."""
        return timedelta(milliseconds=cast("int", getattr(self, name)))


class RecoverySettings(_Settings):
    """What decides how recovery compares what should exist with what does.

    They stand here, since scheduling needs some of them too: a row older than the age
    limit is never fired by itself (contract, section 6).
    """

    model_config = SettingsConfigDict(env_prefix="RECOVERY_", frozen=True, extra="ignore")
    # Which processes and chores there are hangs on two of them; and what is run as code
    # is named by whoever owns the hosts.
    restart_only = frozenset(
        {
            "enabled",
            "challenge_service_mock_mode",
            "overdue_strategy",
            "too_old_strategy",
            "unprocessed_strategy",
        }
    )

    enabled: bool = Field(
        default=True,
        description="Whether recovery runs at all: at the start, periodically and by hand.",
    )
    startup_timeout: int = Field(
        120_000,
        ge=1_000,
        le=LONGEST_MS,
        description="The run at the clusters' start ends after this many milliseconds; "
        "what it has not reached is left to the next run.",
    )
    sync_interval: int = Field(
        180_000,
        ge=0,
        le=LONGEST_MS,
        description="Milliseconds between two periodic runs, over all hosts; 0: none.",
        json_schema_extra={"allowed": f"0, 1000 to {LONGEST_MS}"},
    )
    max_concurrent_phases: int = Field(
        10,
        ge=1,
        le=100,
        description="How many challenges are read singly at the same time, which are "
        "those that have jobs and are not in the list of ACTIVE ones.",
    )
    phase_timeout: int = Field(
        30_000,
        ge=1_000,
        le=3_600_000,
        description="What is done for one phase's challenge, or for a batch of them, "
        "counts as failed where the database or the Challenge service does not answer "
        "within this many milliseconds.",
    )
    max_batch_size: int = Field(
        50,
        ge=1,
        le=1_000,
        description="How many challenges are compared, and changed, together.",
    )
    batch_delay: int = Field(
        100,
        ge=0,
        le=60_000,
        description="Pause in milliseconds after each batch that changed something, for "
        "the jobs that fire meanwhile.",
    )
    process_overdue_phases: bool = Field(
        default=True,
        description="Whether a transition found overdue without a job fires at once; "
        "otherwise its job is expired, for a person to decide.",
    )
    skip_invalid_phases: bool = Field(
        default=True,
        description="Whether a phase that can't be understood, or contradicts itself, is "
        "left out and named; otherwise nothing is done for its whole challenge, which "
        "counts as failed.",
    )
    overdue_strategy: str = Field(
        "recovery.strategies.fire",
        min_length=1,
        description="Decides on a transition found overdue without a job, within the age "
        "limit; a function by dotted path.",
    )
    too_old_strategy: str = Field(
        "recovery.strategies.expire",
        min_length=1,
        description="The same for one beyond the age limit, which can't fire.",
    )
    unprocessed_strategy: str = Field(
        "recovery.strategies.ask_a_person",
        min_length=1,
        description="The same for one within it while RECOVERY_PROCESS_OVERDUE_PHASES is "
        "off.",
    )
    max_phase_age_hours: int = Field(
        72,
        ge=1,
        le=87_600,
        description="A job overdue by more hours is not fired but expired, for a "
        "person to decide.",
    )
    challenge_service_timeout: int = Field(
        15_000,
        ge=1_000,
        le=3_600_000,
        description="An attempt to read the Challenge service ends after this many "
        "milliseconds, its token included.",
    )
    challenge_service_retries: int = Field(
        3,
        ge=0,
        le=100,
        description="Attempts after the first where the Challenge service does not "
        "answer, is overloaded, or breaks off; with waits of up to 5 s between them.",
    )
    challenge_service_mock_mode: bool = Field(
        default=False,
        description="Whether bundled sample challenges, with instants counted from the "
        "start, stand in for the Challenge service.",
    )

    @property
    def max_phase_age(self) -> timedelta:
        """The age limit as a duration."""
        return timedelta(hours=self.max_phase_age_hours)

    def period(self, name: str) -> timedelta:
        """Return a millisecond variable as a duration."""
        return timedelta(milliseconds=cast("int", getattr(self, name)))

    @field_validator("sync_interval")
    @classmethod
    def _off_or_long_enough(cls, value: int) -> int:
        """Refuse an interval so short that runs would follow without a pause.

        Raises:
            ValueError: It is neither 0 nor at least a second.
        """
        if 0 < value < SHORTEST_INTERVAL_MS:
            raise ValueError(
                f"must be 0, or greater than or equal to {SHORTEST_INTERVAL_MS}"
            )
        return value


class MessageSettings(_Settings):
    """Who may command by record, and what of one's own is plugged in."""

    model_config = SettingsConfigDict(env_prefix="AUTOPILOT_", frozen=True, extra="ignore")

    command_operators: Annotated[tuple[str, ...], NoDecode] = Field(
        ("admin", "system", "system-*"),
        description="Who may command on autopilot.command, by commas; * stands for any "
        "text, and case counts.",
    )
    event_handlers: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Own handlers of records, `TOPIC=package.module.function` by commas.",
    )
    event_publisher: str = Field(
        "scheduling.adapters.event_publisher.EventPublisher",
        min_length=1,
        description="The class that puts records on Kafka, by dotted path.",
    )

    @field_validator("command_operators", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read a list by commas; empty names nobody."""
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("event_handlers", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        """Read pairs of a topic and a dotted path.

        Raises:
            ValueError: A part is no pair, or names a topic twice.
        """
        if not isinstance(value, str):
            return value
        pairs: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            topic, sign, path = (one.strip() for one in part.partition("="))
            if not (topic and sign and "." in path):
                raise ValueError(f"{part!r} is not TOPIC=package.module.function")
            if not _TOPIC.fullmatch(topic):
                raise ValueError(
                    f"{topic!r} is no name of a topic: letters, digits, '.', '_' and '-', "
                    f"at most {LONGEST_CONSUMED} of them"
                )
            if topic in pairs:
                raise ValueError(f"names {topic!r} twice")
            pairs[topic] = path
        return pairs


class BreakerSettings(_Settings):
    """When one circuit breaker opens, and when it closes again."""

    failure_threshold: int = Field(ge=1, le=1_000_000)
    reset_timeout: int = Field(ge=1_000, le=LONGEST_MS)
    success_threshold: int = Field(ge=1, le=1_000_000)

    @property
    def reset_period(self) -> timedelta:
        """How long it stays open before it is tried again, as a duration."""
        return timedelta(milliseconds=self.reset_timeout)


_FAILURES = "Failures in a row, over all processes, that open the breaker of {}."
_RESET = "An open breaker of {} is tried again after this many milliseconds{}."
_SUCCESSES = "Successes in a row that close the breaker of {} when it is tried again."
_PUBLISHING = "publishing on Kafka"
_WRITES = "recovery's writes"
_SERVICE = "the Challenge service"


class SchedulerBreakerSettings(BreakerSettings):
    """The breaker of publishing on Kafka."""

    model_config = SettingsConfigDict(
        env_prefix="CIRCUIT_BREAKER_SCHEDULER_", frozen=True, extra="ignore"
    )
    failure_threshold: int = Field(
        5, ge=1, le=1_000_000, description=_FAILURES.format(_PUBLISHING)
    )
    reset_timeout: int = Field(
        60_000,
        ge=1_000,
        le=LONGEST_MS,
        description=_RESET.format(_PUBLISHING, ", or as soon as a broker answers again"),
    )
    success_threshold: int = Field(
        3, ge=1, le=1_000_000, description=_SUCCESSES.format(_PUBLISHING)
    )


class RecoveryBreakerSettings(BreakerSettings):
    """The breaker of what recovery writes."""

    model_config = SettingsConfigDict(
        env_prefix="CIRCUIT_BREAKER_RECOVERY_", frozen=True, extra="ignore"
    )
    failure_threshold: int = Field(
        3, ge=1, le=1_000_000, description=_FAILURES.format(_WRITES)
    )
    reset_timeout: int = Field(
        120_000, ge=1_000, le=LONGEST_MS, description=_RESET.format(_WRITES, "")
    )
    success_threshold: int = Field(
        2, ge=1, le=1_000_000, description=_SUCCESSES.format(_WRITES)
    )


class ChallengeBreakerSettings(BreakerSettings):
    """The breaker of the Challenge service."""

    model_config = SettingsConfigDict(
        env_prefix="CIRCUIT_BREAKER_CHALLENGE_", frozen=True, extra="ignore"
    )
    failure_threshold: int = Field(
        5, ge=1, le=1_000_000, description=_FAILURES.format(_SERVICE)
    )
    reset_timeout: int = Field(
        30_000, ge=1_000, le=LONGEST_MS, description=_RESET.format(_SERVICE, "")
    )
    success_threshold: int = Field(
        2, ge=1, le=1_000_000, description=_SUCCESSES.format(_SERVICE)
    )


# The breakers, in the order in which they are listed.
BREAKER_SETTINGS: Final[Mapping[str, type[BreakerSettings]]] = {
    "scheduler": SchedulerBreakerSettings,
    "recovery": RecoveryBreakerSettings,
    "challenge": ChallengeBreakerSettings,
}


def breaker_settings(name: str) -> BreakerSettings:
    """Return a breaker's settings in force.

    Raises:
        KeyError: There is no such breaker.
    """
    conf: Mapping[str, BreakerSettings] = settings.BREAKERS
    return in_force(conf[name])


def message_settings() -> MessageSettings:
    """Return the settings in force."""
    conf: MessageSettings = settings.MESSAGES
    return conf


def used_topics() -> tuple[str, ...]:
    """Return every topic that has to exist: ours, and those of handlers of one's own."""
    own = [
        name for name in message_settings().event_handlers if name not in CONSUMED_TOPICS
    ]
    return tuple(dict.fromkeys([*ALL_TOPICS, *own, *map(dead_letter_topic, own)]))


def scheduler_settings() -> SchedulerSettings:
    """Return the settings in force."""
    conf: SchedulerSettings = settings.SCHEDULER
    return in_force(conf)


def recovery_settings() -> RecoverySettings:
    """Return the settings in force."""
    conf: RecoverySettings = settings.RECOVERY
    return in_force(conf)


def recovery_settings_at_start() -> RecoverySettings:
    """Return what the environment says: for what only a restart changes.

    Checks and starts must not ask a database that may not be there yet.
    """
    conf: RecoverySettings = settings.RECOVERY
    return conf


def age_limit() -> timedelta:
    """Return how long overdue a job may be and still fire by itself."""
    return recovery_settings().max_phase_age
