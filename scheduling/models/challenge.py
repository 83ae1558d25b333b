"""What was last read upstream of each challenge and its phases."""

from django.db import models
from typing_extensions import override


class Challenge(models.Model):
    """A challenge as upstream last showed it.

    newest_message_at: envelope instant of the newest record applied; older ones lose.
    must_be_read_since: set while upstream said that something changed and we could
        not read what.
    """

    challenge_id = models.CharField(max_length=36, unique=True)
    project_id = models.CharField(max_length=36, db_index=True)
    name = models.CharField(max_length=255, blank=True, default="")
    status = models.CharField(max_length=255)
    read_at = models.DateTimeField(null=True, blank=True)
    newest_message_at = models.DateTimeField(null=True, blank=True)
    must_be_read_since = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["challenge_id"]
        indexes = [
            # The API's filter, in its order.
            models.Index(fields=["status", "challenge_id"], name="challenge_status"),
        ]

    @override
    def __str__(self) -> str:
        return self.challenge_id


class Phase(models.Model):
    """A phase as upstream last showed it; a missing instant is null, never a default.

    template_id: upstream's `phaseId`, by which a predecessor may be named.
    """

    challenge = models.ForeignKey(
        Challenge, on_delete=models.CASCADE, related_name="phases"
    )
    phase_id = models.CharField(max_length=36)
    template_id = models.CharField(max_length=36, blank=True, default="")
    name = models.CharField(max_length=255)
    position = models.PositiveSmallIntegerField(default=0)
    scheduled_start_at = models.DateTimeField(null=True, blank=True)
    scheduled_end_at = models.DateTimeField(null=True, blank=True)
    actual_start_at = models.DateTimeField(null=True, blank=True)
    actual_end_at = models.DateTimeField(null=True, blank=True)
    predecessor = models.CharField(max_length=36, blank=True, default="")

    class Meta:
        ordering = ["challenge_id", "position"]
        constraints = [
            models.UniqueConstraint(
                fields=["challenge", "phase_id"], name="phase_once_per_challenge"
            )
        ]

    @override
    def __str__(self) -> str:
        return f"{self.name} {self.phase_id}"
