"""Which Kafka records were handled, so that a redelivery is harmless."""

from django.db import models
from django.db.models import Q
from typing_extensions import override


class InboxMessage(models.Model):
    """One record that was received, with what became of it.

    The cluster's id is part of the key: the embedded broker counts from 0 again each
    time it starts. Written in the transaction of the record's effect.
    """

    cluster_id = models.CharField(max_length=64)
    topic = models.CharField(max_length=249)
    partition = models.IntegerField()
    offset = models.BigIntegerField()
    event_id = models.CharField(max_length=128, blank=True, default="")
    handled_at = models.DateTimeField()
    outcome = models.CharField(max_length=20)
    detail = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["cluster_id", "topic", "partition", "offset"],
                name="inbox_record_once",
            ),
            models.UniqueConstraint(
                fields=["event_id"],
                condition=~Q(event_id=""),
                name="inbox_event_once",
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"
