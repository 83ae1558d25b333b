"""What became of a transition whose rows were cleaned up."""

from django.db import models
from typing_extensions import override


class SettledTransition(models.Model):
    """A completion or override of an identity, kept when clean-up takes its row.

    "A settled transition stays settled" (contract, section 2) also after clean-up:
    for an upstream instant equal to `due_at` or `upstream_at` no job is made again.
    """

    project_id = models.CharField(max_length=36)
    phase_id = models.CharField(max_length=36)
    state = models.CharField(max_length=5)
    job_id = models.CharField(max_length=128)
    due_at = models.DateTimeField()
    # The due instant again, where upstream never showed one: null would equal nothing.
    upstream_at = models.DateTimeField()
    settled_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project_id", "phase_id", "state", "due_at", "upstream_at"],
                name="settled_once",
            )
        ]

    @override
    def __str__(self) -> str:
        return self.job_id
