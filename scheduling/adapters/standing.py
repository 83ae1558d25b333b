"""What stands in the way of new jobs: live ones, and job ids that were given before.

One round trip for both on PostgreSQL, whatever the number; on SQLite it is the ORM's.
"""

from collections.abc import Collection, Set
from typing import NamedTuple

from django.db import connection

from scheduling.adapters.postgres import execute_together
from scheduling.models import AuditEntry, ScheduledTransition

Identity = tuple[str, str, str]


class Standing(NamedTuple):
    """What was found: the live jobs by identity, and the job ids ever given."""

    live: dict[Identity, ScheduledTransition]
    job_ids: set[str]


# A search of the index for each: LATERAL and LIMIT leave the planner no other way, which,
# with figures that lag behind, takes reading the whole table once for cheaper.
_LIVE = f"""
    SELECT live.id FROM unnest(%(projects)s::varchar[], %(phases)s::varchar[],
        %(states)s::varchar[]) AS x (project_id, phase_id, state)
    CROSS JOIN LATERAL (
        SELECT t.id FROM {ScheduledTransition._meta.db_table} t
        WHERE t.project_id = x.project_id AND t.phase_id = x.phase_id
        AND t.state = x.state AND t.status IN ('scheduled', 'running') LIMIT 1) AS live
"""  # noqa: S608 -- no value is spliced in, only names of ours
_EVER_GIVEN = f"""
    SELECT x.job_id FROM unnest(%(job_ids)s::varchar[]) AS x (job_id)
    CROSS JOIN LATERAL (
        SELECT 1 FROM {AuditEntry._meta.db_table} e WHERE e.job_id = x.job_id LIMIT 1) AS e
"""  # noqa: S608


def find_standing(identities: Collection[Identity], job_ids: Collection[str]) -> Standing:
    """Return the live jobs of the identities, and those of the job ids ever given."""
    if connection.vendor != "postgresql":
        return Standing(_live_jobs(identities), ever_given(set(job_ids)))
    projects, phases, states = map(list, zip(*identities, strict=True))
    places = {"projects": projects, "phases": phases, "states": states}
    live, given = execute_together(
        [(_LIVE, places), (_EVER_GIVEN, {"job_ids": list(job_ids)})]
    )
    rows = ScheduledTransition.objects.in_bulk([key for (key,) in live]) if live else {}
    return Standing(
        {_identity(row): row for row in rows.values()}, {job_id for (job_id,) in given}
    )


def ever_given(job_ids: Set[str]) -> set[str]:
    """Return those of the job ids that some job has or had: the audit knows all."""
    if connection.vendor == "postgresql":
        (given,) = execute_together([(_EVER_GIVEN, {"job_ids": list(job_ids)})])
        return {job_id for (job_id,) in given}
    entries = AuditEntry.objects.filter(job_id__in=job_ids)
    return set(entries.order_by().values_list("job_id", flat=True))


def _live_jobs(identities: Collection[Identity]) -> dict[Identity, ScheduledTransition]:
    """Return the live jobs of the identities."""
    wanted = set(identities)
    rows = ScheduledTransition.objects.live().filter(
        project_id__in={project_id for project_id, _, _ in wanted},
        phase_id__in={phase_id for _, phase_id, _ in wanted},
    )
    return {_identity(row): row for row in rows if _identity(row) in wanted}


def _identity(job: ScheduledTransition) -> Identity:
    """Return what at most one live job may have."""
    return job.project_id, job.phase_id, job.state
