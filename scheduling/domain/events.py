"""What a record on the transitions' topic tells."""

from dataclasses import dataclass
from datetime import UTC, datetime

from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.records import Record


@dataclass(frozen=True, kw_only=True)
class TransitionEvent:
    """A transition that somebody published: we, or somebody else.

    project_id, phase_id, challenge_id: canonical ids.
    happened_at: the payload's `date`, else the envelope's timestamp.
    record: where it stands, with the headers that tell whose it is; None where it was
        told otherwise than by a record.
    """

    project_id: str
    phase_id: str
    kind: TransitionKind
    operator: str
    happened_at: datetime
    challenge_id: str | None = None
    record: Record | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """The transition it is about."""
        return self.project_id, self.phase_id, self.kind.value

    @property
    def event_id(self) -> str:
        """Its record's `event-id`; empty where there is none."""
        return self.record.event_id if self.record else ""

    @property
    def job_id(self) -> str:
        """Its record's `job-id`; empty where there is none."""
        return self.record.job_id if self.record else ""

    @property
    def correlation_id(self) -> str:
        """Its record's `correlation-id`; empty where there is none."""
        return self.record.correlation_id if self.record else ""

    @property
    def place(self) -> str:
        """Where its record stands, for people."""
        return self.record.place if self.record else ""

    def published_at(self, record: Record) -> datetime:
        """Return its record's own instant, else when it happened."""
        if record.timestamp_ms < 0:
            return self.happened_at
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
