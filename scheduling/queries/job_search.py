"""Jobs by a part of an id or of the phase's name, where the trigrams' index helps."""

import re
from typing import Final

from django.db.models import Max, Q

from scheduling.models import AuditEntry, JobText, ScheduledTransition
from scheduling.models.job_text import Reach

# More than that are found as fast by looking at one job after the other.
MOST_FOUND: Final = 2_000
# Audit entries that no text reaches yet, which are looked through.
MOST_BEHIND: Final = 20_000
# A shorter text has no trigram.
_TRIGRAM: Final = re.compile(r"[^\W_]{3}")


def part_of_a_text(text: str) -> Q:
    """Return the condition of a search, to be asked of each job.

    No index serves a part of a text: each row is looked at, so as little of it as does. A
    job id holds the ids of project and phase (contract, section 1), and what has no case
    need not be folded, which takes longer than to search.
    """
    has_case = text.upper() != text.lower()
    lookup = "icontains" if has_case else "contains"
    return (
        Q(**{f"job_id__{lookup}": text})
        | Q(**{f"challenge_id__{lookup}": text})
        | Q(**{f"phase_type_name__{lookup}": text})
    )


def search(text: str) -> Q:
    """Return the condition of a search: a part of an id or of the phase's name.

    Where few jobs have it, and the index knows them, they are named by their row ids.
    """
    found = find_by_index(text)
    return part_of_a_text(text) if found is None else Q(pk__in=found)


def find_by_index(text: str) -> list[int] | None:
    """Return the row ids of the jobs that have it; None where the index can't tell.

    It can't where nobody keeps the texts, for texts without a trigram, where more than
    `MOST_FOUND` have it, and while the texts are too far behind.
    """
    if not _TRIGRAM.search(text):
        return None
    # First of all: what is added meanwhile is found twice, and not never.
    reach = Reach.read()
    if reach is None:
        return None
    newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
    if newest - reach.last_id > MOST_BEHIND:
        return None
    kept = JobText.objects.filter(text__icontains=text).order_by()
    found = set(kept.values_list("pk", flat=True)[: MOST_FOUND + 1])
    if len(found) <= MOST_FOUND:
        found.update(_behind(text, reach)[: MOST_FOUND + 1])
    return sorted(found) if len(found) <= MOST_FOUND else None


def _behind(text: str, reach: Reach) -> list[int]:
    """Return the row ids of the jobs that have it and whose texts aren't kept yet."""
    entries = Q(id__gt=reach.last_id)
    for span in reach.waiting:
        entries |= Q(id__range=span)
    new = AuditEntry.objects.filter(entries, old_status="").exclude(job_id="")
    # Two steps: the planner, whose figures lag behind, would look through all jobs.
    job_ids = list(new.values_list("job_id", flat=True).distinct())
    jobs = ScheduledTransition.objects.filter(part_of_a_text(text), job_id__in=job_ids)
    return list(jobs.order_by().values_list("pk", flat=True)) if job_ids else []
