"""What has happened since ever, counted up to somewhere."""

from django.db import models
from typing_extensions import override


class RunningTotal(models.Model):
    """The counts of one source of events, of which those up to `upto` are in `counts`.

    What came after it is counted by whoever asks. The rows themselves may be cleaned up
    once they are counted here, so that a count never goes back.

    upto: the last id of the source that is counted.
    upto_at: likewise, of a source that is in the order of its instants.
    seen: what the next count needs to know of this one.
    """

    name = models.CharField(max_length=40, unique=True)
    upto = models.BigIntegerField(default=0)
    upto_at = models.DateTimeField(null=True, blank=True)
    counts = models.JSONField(default=dict)
    seen = models.JSONField(default=dict)

    @override
    def __str__(self) -> str:
        return f"{self.name} up to {self.upto_at or self.upto}"
