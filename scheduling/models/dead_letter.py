"""Records that came in and could not be handled, kept whole."""

import uuid
from typing import Final

from django.db import models
from typing_extensions import override

NEW: Final = "new"
REPLAYED: Final = "replayed"
DISCARDED: Final = "discarded"
STATUSES: Final = (NEW, REPLAYED, DISCARDED)


class DeadLetter(models.Model):
    """A record with its exact bytes, why it was set aside, and what was done about it.

    Written in the transaction of its inbox row. `value` is null for a tombstone, `key`
    where the record had none; `headers` are pairs of a name and
    hexadecimal bytes (or null).

    replay_of: the dead letter whose replay failed again and made this one.
    reason: why it was discarded.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    cluster_id = models.CharField(max_length=64)
    topic = models.CharField(max_length=249)
    partition = models.IntegerField()
    offset = models.BigIntegerField()
    key = models.BinaryField(null=True)
    value = models.BinaryField(null=True)
    headers = models.JSONField(default=list)

    code = models.CharField(max_length=40)
    category = models.CharField(max_length=20)
    message = models.CharField(max_length=500)
    errors = models.JSONField(default=list)
    set_aside_at = models.DateTimeField()

    status = models.CharField(
        max_length=9, default=NEW, choices=[(status, status) for status in STATUSES]
    )
    replayed_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=2_000, blank=True, default="")
    replay_of = models.UUIDField(null=True, blank=True)

    class Meta:
        ordering = ["-set_aside_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=list(STATUSES)),
                name="dead_letter_status_known",
            ),
        ]
        indexes = [
            # The newest first, all of them or those nobody dealt with.
            models.Index(fields=["-set_aside_at", "id"], name="dead_letter_newest"),
            models.Index(
                fields=["-set_aside_at"],
                condition=models.Q(status=NEW),
                name="dead_letter_new",
            ),
            models.Index(
                fields=["status", "-set_aside_at"],
                condition=~models.Q(status=NEW),
                name="dead_letter_settled",
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"
