"""What people search jobs by a part of, beside the jobs: firing never touches it."""

from dataclasses import dataclass
from typing import Any, Final, Self

from django.db import models
from django.db.models import Q
from typing_extensions import override

from scheduling.models.audit_seal import AuditSeal
from scheduling.models.running_total import RunningTotal

# Made by the migration, where the database's pg_trgm may be used.
TRIGRAM_INDEX: Final = "job_text_trigrams"
INDEX_STATEMENT: Final = (
    f"CREATE INDEX {TRIGRAM_INDEX} ON scheduling_jobtext"
    " USING gin (upper(text) gin_trgm_ops)"
)
# Between the texts of a job, so that no search goes across.
SEPARATOR: Final = "\x1f"
# The running total that says up to which seal the texts are there.
REACH: Final = "job texts"
# Upper case, with a due instant. No release before wrote any form.
FORM: Final = 1
# Texts as the releases before have kept them; a cluster brings them into the form.
UNREADY: Final = Q(form=None)


class JobText(models.Model):
    """The job id, the challenge and the phase's name of one job, in one upper-case text.

    Written by `adapters.job_texts` behind the audit's seals, and only where there is an
    index of its trigrams; deleted with its job.

    job: the job's row id. Not a foreign key: to check one would lock the job's row.
    due_at: the job's, which never changes: a job that is moved is replaced by another.
    form: the form of the text, `FORM`; None where a release before has kept it.

    The migrations make three more indexes on PostgreSQL: of the trigrams, of the pairs of
    characters (`job_text_bigrams`), and one in due order with the text in it
    (`job_text_due_order`), so that a walk through a million needs no look at the table.
    """

    job = models.BigIntegerField(primary_key=True)
    text = models.TextField()
    due_at = models.DateTimeField(null=True)
    form = models.SmallIntegerField(null=True)

    class Meta:
        indexes = [
            # Empty but after an upgrade.
            models.Index(fields=["job"], condition=UNREADY, name="job_text_unready")
        ]

    @override
    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Reach:
    """Up to which audit entry the jobs' texts are there.

    last_id: the jobs of all entries up to it are among them, but for those of
    waiting: spans before it, as [first id, last id], that may be filled still.
    """

    last_id: int
    waiting: tuple[tuple[int, int], ...]

    @classmethod
    def after(cls, seal: AuditSeal) -> Self:
        """Return the reach once all seals up to this one were followed."""
        return cls(seal.last_id, tuple((low, high) for low, high, _ in seal.waiting))

    @classmethod
    def read(cls) -> Self | None:
        """Return how far they reach; None where nobody keeps them."""
        kept = RunningTotal.objects.filter(name=REACH)
        seen = kept.values_list("seen", flat=True).first()
        if not seen:
            return None
        return cls(seen["last_id"], tuple((low, high) for low, high in seen["waiting"]))

    def as_json(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return {"last_id": self.last_id, "waiting": [list(span) for span in self.waiting]}
