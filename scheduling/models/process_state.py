"""What each long-running process last said of itself."""

from datetime import datetime
from typing import Any

from django.db import models
from typing_extensions import override


class ProcessState(models.Model):
    """One process, as it last reported; a dead one's `seen_at` grows old.

    figures: what its kind has to tell, such as a consumer's lag by partition.
    """

    kind = models.CharField(max_length=20)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    figures = models.JSONField(default=dict)

    class Meta:
        ordering = ["kind", "host", "pid"]
        constraints = [
            models.UniqueConstraint(fields=["kind", "host", "pid"], name="process_once")
        ]

    @override
    def __str__(self) -> str:
        return f"{self.kind} {self.pid} on {self.host}"

    @classmethod
    def tell(
        cls,
        *,
        kind: str,
        host: str,
        pid: int,
        started_at: datetime,
        now: datetime,
        figures: dict[str, Any],
    ) -> None:
        """Write the word of a process: one statement where its row stands.

        All processes do it every few seconds; `update_or_create` would take four.
        """
        values = {"started_at": started_at, "seen_at": now, "figures": figures}
        row: dict[str, Any] = {"kind": kind, "host": host, "pid": pid}
        if not cls.objects.filter(**row).update(**values):
            cls.objects.update_or_create(**row, defaults=values)
