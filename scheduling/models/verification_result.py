"""What the verification that runs by itself last found."""

from django.db import models
from typing_extensions import override


class VerificationResult(models.Model):
    """The one row of the scheduled verification, for health and metrics to read.

    Written by verification.watch alone.

    looked_since: what changed since then was looked at.
    broken_since: when the first run began of those in a row that found something, and
        looked at the same; null where the last one found nothing.
    violations: how many each invariant had, by its number as text.
    unchecked: why something could not be checked.
    findings: the first violations, as {"id", "jobId", "detail"}.
    seal_number, seal_digest: the end of the chain then, which must stand as it was.
    rechecked_to: the last of the older seals that were proven again, in turn.
    """

    name = models.CharField(max_length=20, unique=True)
    started_at = models.DateTimeField()
    looked_since = models.DateTimeField(null=True, blank=True)
    broken_since = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField()
    is_ok = models.BooleanField()
    violations = models.JSONField(default=dict)
    unchecked = models.JSONField(default=list)
    findings = models.JSONField(default=list)
    seal_number = models.BigIntegerField(default=0)
    seal_digest = models.CharField(max_length=64, blank=True, default="")
    rechecked_to = models.BigIntegerField(default=0)

    @override
    def __str__(self) -> str:
        return f"{self.name} at {self.finished_at:%FT%TZ}"
