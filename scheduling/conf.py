"""The SCHEDULER_* variables: names, defaults, ranges and what each one does.

The environment speaks milliseconds (contract, section 10); the code below speaks
`timedelta`. `settings.SCHEDULER` holds the one instance, read at start.
"""

from datetime import timedelta
from typing import cast

from django.conf import settings
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from scheduling.domain.retry import RetryPolicy

# Ten years: more is a typing error, and larger values overflow timedelta arithmetic.
LONGEST_MS = 315_360_000_000


class SchedulerSettings(BaseSettings):
    """What decides how jobs are scheduled, published, retried and cleaned up."""

    model_config = SettingsConfigDict(
        env_prefix="SCHEDULER_", frozen=True, extra="ignore", hide_input_in_errors=False
    )

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


class RecoverySettings(BaseSettings):
    """What scheduling must know of recovery's settings: the age limit.

    A row older than the limit is never fired by itself (contract, section 6).
    """

    model_config = SettingsConfigDict(env_prefix="RECOVERY_", frozen=True, extra="ignore")

    max_phase_age_hours: int = Field(
        72,
        ge=1,
        le=87_600,
        description="A job overdue by more hours is not fired but expired, for a "
        "person to decide.",
    )

    @property
    def max_phase_age(self) -> timedelta:
        """The age limit as a duration."""
        return timedelta(hours=self.max_phase_age_hours)


def scheduler_settings() -> SchedulerSettings:
    """Return the settings in force."""
    conf: SchedulerSettings = settings.SCHEDULER
    return conf


def age_limit() -> timedelta:
    """Return how long overdue a job may be and still fire by itself."""
    conf: RecoverySettings = settings.RECOVERY
    return conf.max_phase_age
