"""The record of every change: append-only, guarded by database triggers."""

from typing import Any, NoReturn

from django.db import models
from django.db.models import Q
from typing_extensions import override

# What every job that fires brings with it.
_ENGINE_ACTIONS = ["transition.scheduled", "transition.claimed", "transition.completed"]


class AuditEntry(models.Model):
    """One fact: who changed what, from which status to which, why and when.

    Written in the change's own transaction (see services.audit and adapters.claims).
    It names jobs by text and outlives them; no foreign key may take it away.
    """

    at = models.DateTimeField()
    action = models.CharField(max_length=40)
    job_id = models.CharField(max_length=128, blank=True, default="")
    project_id = models.CharField(max_length=36, blank=True, default="")
    phase_id = models.CharField(max_length=36, blank=True, default="")
    state = models.CharField(max_length=5, blank=True, default="")
    actor = models.CharField(max_length=300)
    role = models.CharField(max_length=8)
    old_status = models.CharField(max_length=9, blank=True, default="")
    new_status = models.CharField(max_length=9, blank=True, default="")
    changes = models.JSONField(default=dict)
    reason = models.CharField(max_length=2_000, blank=True, default="")
    request_id = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "audit entries"
        indexes = [
            # A job's history, and whether a job id was ever given.
            models.Index(fields=["job_id", "id"], name="audit_job"),
            # The list's order, and its instants. New entries come at its end, where an
            # index costs least.
            models.Index(fields=["at", "id"], name="audit_at"),
            # The other filters, each in the list's order. What the engine writes is left
            # out of the last two: it is so much that any search soon finds it, and
            # firing pays nothing for them.
            models.Index(
                fields=["project_id", "at", "id"],
                condition=~Q(project_id=""),
                name="audit_project",
            ),
            models.Index(
                fields=["actor", "at", "id"],
                condition=~Q(actor="system:scheduler"),
                name="audit_actor",
            ),
            models.Index(
                fields=["action", "at", "id"],
                condition=~Q(action__in=_ENGINE_ACTIONS),
                name="audit_action",
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.action} {self.job_id}".strip()

    @override
    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert the entry; an entry that stands is never written again."""
        if not self._state.adding:
            self.delete()
        super().save(*args, **kwargs)

    @override
    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the audit is append-only."""
        raise TypeError("an audit entry can't be changed or deleted")
