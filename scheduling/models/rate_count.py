"""How many requests each caller has made lately."""

from django.db import models
from typing_extensions import override


class RateCount(models.Model):
    """One caller's window: it begins with a request and is over after its period.

    Written by adapters.rate_counter alone, in one statement. On PostgreSQL the table is
    unlogged: a count that a crash of the server takes away is no loss, and none of its
    commits waits for the disk.

    started_at: seconds since the epoch, by the database's clock.
    """

    key = models.CharField(max_length=300, primary_key=True)
    started_at = models.FloatField()
    count = models.BigIntegerField()

    @override
    def __str__(self) -> str:
        return f"{self.key}: {self.count}"
