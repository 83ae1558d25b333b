"""What somebody is to be told: conditions that hold, and the messages about them."""

from django.db import models
from django.db.models import Q
from typing_extensions import override


class Alert(models.Model):
    """One condition that holds, or held: told once when it begins, once when it ends.

    key: names the condition, such as `breaker:scheduler`; one of a key is open at most.
    ended_at: null while it holds.
    """

    key = models.CharField(max_length=200)
    rule = models.CharField(max_length=40)
    summary = models.CharField(max_length=500)
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            # Of several hosts that see it begin, one tells.
            models.UniqueConstraint(
                fields=["key"], condition=Q(ended_at__isnull=True), name="alert_one_open"
            ),
        ]
        indexes = [
            # What is over is forgotten after a while.
            models.Index(
                fields=["ended_at"],
                condition=Q(ended_at__isnull=False),
                name="alert_ended",
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.key} since {self.began_at}"


class Notification(models.Model):
    """One message to one target, sent until it was taken or given up.

    Written in the transaction of its alert's change.

    target: a digest of the address, which itself may hold a secret and is not stored.
    lease_until: whoever sends it holds it until then.
    """

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="messages")
    target = models.CharField(max_length=64)
    title = models.CharField(max_length=200)
    body = models.CharField(max_length=2_000)
    is_resolved = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    lease_until = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True)
    was_sent = models.BooleanField(default=False)
    last_error = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        ordering = ["id"]
        indexes = [
            # Who sends asks every few seconds for what waits.
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(settled_at__isnull=True),
                name="notification_waiting",
            ),
        ]

    @override
    def __str__(self) -> str:
        return self.title
