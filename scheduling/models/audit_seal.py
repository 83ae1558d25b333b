"""The chain of seals over the audit: append-only, guarded by database triggers."""

from typing import Any, NoReturn

from django.db import models
from typing_extensions import override


class AuditSeal(models.Model):
    """What a span of audit entries looked like, chained to the seal before it.

    Written by services.seals alone. The ids of a span that no visible entry had are its
    gaps: a transaction that was rolled back drew them, or one that commits later; such
    late entries are named and covered by a later seal.

    number: 1, 2, 3, … without a gap; of two sealers at once one wins.
    first_id, last_id: the span; it begins right after the last seal's. A seal of late
        entries only has an empty one, with first_id = last_id + 1.
    entries: how many entries it covers, late ones too.
    gaps, late: lists of [first id, last id].
    waiting: gaps that may be filled still, as [first id, last id, [who may]].
    previous, digest: hexadecimal SHA-256, of the last seal and of this one.
    """

    number = models.BigIntegerField(primary_key=True)
    first_id = models.BigIntegerField()
    last_id = models.BigIntegerField()
    entries = models.PositiveIntegerField()
    gaps = models.JSONField(default=list)
    late = models.JSONField(default=list)
    waiting = models.JSONField(default=list)
    sealed_at = models.DateTimeField()
    previous = models.CharField(max_length=64)
    digest = models.CharField(max_length=64)

    class Meta:
        ordering = ["number"]
        indexes = [
            # Which seals cover a span of entries.
            models.Index(fields=["last_id"], name="seal_last_id"),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.number}: {self.first_id} to {self.last_id}"

    @override
    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert the seal; one that stands is never written again."""
        if not self._state.adding:
            self.delete()
        super().save(*args, **{**kwargs, "force_insert": True})

    @override
    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the chain is append-only."""
        raise TypeError("a seal can't be changed or deleted")
