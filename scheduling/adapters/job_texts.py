"""The texts of jobs, kept for the search behind the audit's seals.

A new job has an audit entry in its own transaction, and each entry is covered by one seal,
however late it commits. So whoever follows the seals meets each job once, without a
trigger or an index on the table that fires.
"""

from collections.abc import Sequence
from typing import Final

from django.db import connection, transaction

from scheduling.adapters.audit_rows import Span
from scheduling.models import AuditEntry, AuditSeal, JobText, RunningTotal
from scheduling.models.job_text import FORM, REACH, SEPARATOR, TRIGRAM_INDEX, Reach
from scheduling.models.scheduled_transition import ScheduledTransition

# By the jobs' audit entries: the first one of a job has no old status.
_ADD: Final = f"""
INSERT INTO {JobText._meta.db_table} (job, text, due_at, form)
SELECT id, upper(concat_ws(%s, job_id, coalesce(challenge_id, ''), phase_type_name)),
    due_at, {FORM}
FROM {ScheduledTransition._meta.db_table} WHERE job_id IN (
    SELECT job_id FROM {AuditEntry._meta.db_table}
    WHERE old_status = '' AND job_id <> '' AND ({{spans}}))
ON CONFLICT DO NOTHING
"""  # noqa: S608 -- no value is spliced in, only names of ours
# Of a job that is gone any instant will do.
_READY: Final = f"""
UPDATE {JobText._meta.db_table} AS kept
SET text = upper(text), form = {FORM}, due_at = coalesce(due_at, (
    SELECT due_at FROM {ScheduledTransition._meta.db_table} AS jobs
    WHERE jobs.id = kept.job), 'epoch')
WHERE job IN (
    SELECT job FROM {JobText._meta.db_table} WHERE form IS NULL
    ORDER BY job LIMIT %s FOR UPDATE SKIP LOCKED)
"""  # noqa: S608
MOST_READIED: Final = 5_000


def is_indexed() -> bool:
    """Tell whether there is an index of the trigrams: without it no text is kept."""
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [TRIGRAM_INDEX])
        return bool(cursor.fetchone()[0])


def follow_one_seal() -> bool:
    """Keep the texts of the jobs that the next seal covers; False where there is none.

    False too where another process is at it.
    """
    RunningTotal.objects.get_or_create(name=REACH)
    with transaction.atomic():
        kept = RunningTotal.objects.select_for_update(skip_locked=True).filter(name=REACH)
        total = kept.first()
        if total is None:
            return False
        seal = AuditSeal.objects.filter(number__gt=total.upto).first()
        if seal is None:
            return False
        _add([(seal.first_id, seal.last_id), *seal.late])
        total.upto = seal.number
        total.seen = Reach.after(seal).as_json()
        total.save(update_fields=["upto", "seen"])
    return True


def ready_some() -> bool:
    """Make some texts that the release before has kept what they are to be.

    Returns:
        Whether there may be more of them.
    """
    with connection.cursor() as cursor:
        cursor.execute(_READY, [MOST_READIED])
        return bool(cursor.rowcount == MOST_READIED)


def _add(spans: Sequence[Span]) -> None:
    """Keep the texts of the jobs that are first told of in these audit entries."""
    places = " OR ".join(["id BETWEEN %s AND %s"] * len(spans))
    with connection.cursor() as cursor:
        cursor.execute(
            _ADD.format(spans=places),
            [SEPARATOR, *[number for span in spans for number in span]],
        )
