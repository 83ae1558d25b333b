"""The state of each circuit breaker, shared by all processes on all hosts."""

from django.db import models
from django.db.models import Q
from typing_extensions import override

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
STATES = (CLOSED, OPEN, HALF_OPEN)


class CircuitBreaker(models.Model):
    """One breaker; while it has no row it is closed, and nothing ever failed.

    failure_count: failures in a row. success_count: successes in a row while half open.
    reopenings: how often it opened again since it was closed.
    total_calls, rejected_count, last_success_at: each process adds its own every few
        seconds.
    probe_token, probe_until, probe_owner: who may try while it is not closed, for how
        long, and which process that is.
    """

    name = models.CharField(max_length=40, unique=True)
    state = models.CharField(
        max_length=9, choices=[(one, one) for one in STATES], default=CLOSED
    )
    failure_count = models.PositiveIntegerField(default=0)
    success_count = models.PositiveIntegerField(default=0)
    reopenings = models.PositiveIntegerField(default=0)
    total_calls = models.PositiveBigIntegerField(default=0)
    rejected_count = models.PositiveBigIntegerField(default=0)
    changed_at = models.DateTimeField(null=True)
    opened_at = models.DateTimeField(null=True)
    last_success_at = models.DateTimeField(null=True)
    last_failure_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=500, blank=True, default="")
    probe_token = models.UUIDField(null=True)
    probe_until = models.DateTimeField(null=True)
    probe_owner = models.CharField(max_length=400, blank=True, default="", db_default="")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=STATES), name="breaker_state"),
            # When it opened decides when it may be tried again.
            models.CheckConstraint(
                condition=Q(state=CLOSED) | Q(opened_at__isnull=False),
                name="breaker_opened_at",
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.name} is {self.state}"
