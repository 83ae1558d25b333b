"""Which batches of schedule changes were accepted, and how they were answered."""

import uuid

from django.db import models
from typing_extensions import override


class AdjustmentBatch(models.Model):
    """One accepted batch under an id of the caller's choice, with its first answer.

    Written in the transaction of the changes themselves.

    fingerprint: SHA-256 of what was asked for, by which another body is known.
    token: tells the row that a request has just added from its twin's.
    answer: the body of the answer.
    """

    batch_id = models.CharField(max_length=255, unique=True)
    fingerprint = models.CharField(max_length=64)
    token = models.UUIDField(default=uuid.uuid4)
    actor = models.CharField(max_length=300)
    created_at = models.DateTimeField()
    answer = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "adjustment batches"
        indexes = [
            # The chore that forgets those of last month.
            models.Index(fields=["created_at"], name="adjustment_batch_age"),
        ]

    @override
    def __str__(self) -> str:
        return self.batch_id
