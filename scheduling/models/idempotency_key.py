"""Which requests were answered under an `Idempotency-Key`, and how."""

import uuid

from django.db import models
from typing_extensions import override


class IdempotencyKey(models.Model):
    """One request of one user under a key of the user's choice.

    Without a `status` it is being handled by whoever holds `token`; afterwards its
    answer stands here for whoever repeats it.

    fingerprint: SHA-256 of method, path and body, by which another request is known.
    owner: the process that handles it, as `adapters.owner` writes it.
    taken_at: when it was last taken to be handled.
    content: the answer's body, to the byte; headers: those that belong to it.
    """

    actor = models.CharField(max_length=300)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    created_at = models.DateTimeField()
    taken_at = models.DateTimeField()
    token = models.UUIDField(default=uuid.uuid4)
    owner = models.CharField(max_length=400)
    status = models.PositiveSmallIntegerField(null=True, blank=True)
    content = models.TextField(blank=True, default="")
    headers = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]
        constraints = [
            # Of twins that arrive together one gets in.
            models.UniqueConstraint(
                fields=["actor", "key"], name="idempotency_key_once_per_actor"
            ),
        ]
        indexes = [
            # The chore that forgets those of yesterday.
            models.Index(fields=["created_at"], name="idempotency_key_age"),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.key} of {self.actor}"
