"""Records to be put on a topic because of what was handled: answers and dead letters."""

import uuid

from django.db import models
from django.db.models import Q
from typing_extensions import override

from scheduling.models.dead_letter import DeadLetter


class OutgoingRecord(models.Model):
    """A record that a handler owes, written in the handler's own transaction.

    It is sent until a broker acknowledged it, at least once; `event_id`, its header
    `event-id`, is the same each time.

    value: null for a dead letter, whose record is made of that row when it is sent.
    lease_until: whoever sends it holds it until then.
    is_truncated: a dead letter goes out without its bytes, which the topic won't take.
    unproven_since: from when an attempt of unknown outcome may have put it on the topic.
    """

    event_id = models.UUIDField(default=uuid.uuid4)
    topic = models.CharField(max_length=249)
    key = models.BinaryField(null=True)
    value = models.BinaryField(null=True)
    headers = models.JSONField(default=dict)
    dead_letter = models.ForeignKey(
        DeadLetter, null=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    created_at = models.DateTimeField()

    lease_token = models.UUIDField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    unproven_since = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True, default="")

    is_truncated = models.BooleanField(default=False)
    acknowledged_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(value__isnull=False) | Q(dead_letter__isnull=False),
                name="outgoing_has_content",
            ),
        ]
        indexes = [
            models.Index(
                fields=["id"],
                condition=Q(acknowledged_at__isnull=True),
                name="outgoing_unsent",
            ),
            # Clean-up takes what was sent long ago.
            models.Index(
                fields=["acknowledged_at"],
                condition=Q(acknowledged_at__isnull=False),
                name="outgoing_sent",
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.topic} {self.event_id}"
