"""The log-ins whose refresh tokens are accepted no more."""

from django.db import models
from typing_extensions import override


class RevokedTokenFamily(models.Model):
    """All tokens that descend from one log-in.

    expires_at: when the last of its refresh tokens has expired by itself, and the row may
        go.
    """

    family = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "revoked token families"

    @override
    def __str__(self) -> str:
        return self.family
