"""When each periodic chore last ran, over all hosts."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.db import models
from typing_extensions import override


class Housekeeping(models.Model):
    """One chore; whoever moves `last_run_at` on may run it."""

    name = models.CharField(max_length=40, unique=True)
    last_run_at = models.DateTimeField()

    @override
    def __str__(self) -> str:
        return self.name

    @classmethod
    def list_due(cls, intervals: Mapping[str, timedelta], *, now: datetime) -> list[str]:
        """Return which chores are due, by one query; the rarest first.

        Args:
            intervals: How often each chore runs, by its name.
            now: As `take` wants it.
        """
        ran = dict(
            cls.objects.filter(name__in=intervals).values_list("name", "last_run_at")
        )
        due = [
            name
            for name, interval in intervals.items()
            if name not in ran or ran[name] <= now - interval
        ]
        return sorted(due, key=intervals.__getitem__, reverse=True)

    @classmethod
    def take(cls, name: str, *, interval: timedelta, now: datetime) -> bool:
        """Take the chore if it is due; of several callers one wins.

        Args:
            now: The database's clock on PostgreSQL, so that hosts agree.
        """
        due = cls.objects.filter(name=name, last_run_at__lte=now - interval)
        if due.update(last_run_at=now):
            return True
        if cls.objects.filter(name=name).exists():
            return False
        _, created = cls.objects.get_or_create(name=name, defaults={"last_run_at": now})
        return created
