"""What is wanted of transitions against what there is of them: one look for many."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from scheduling.domain.plan import Difference, Expected, Limits, diff
from scheduling.models import ScheduledTransition, SettledTransition
from scheduling.services.schedule import Identity

Change = Difference[ScheduledTransition]
# What a comparison asks of a job; the rest takes longer to read than to compare.
_ASKED = (
    "id",
    "job_id",
    "project_id",
    "phase_id",
    "state",
    "status",
    "due_at",
    "upstream_at",
    "is_overridden",
    "forced_at",
    "replaced_by",
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who wants a transition, and what a job made for it says beside its phase.

    reason: why jobs change because of it, for the audit.
    """

    project_id: str
    challenge_id: str | None
    operator: str
    project_status: str
    reason: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A transition that is wanted, and by whom."""

    origin: Origin
    expected: Expected

    @property
    def identity(self) -> Identity:
        """What at most one live job may have."""
        expected = self.expected
        return self.origin.project_id, expected.phase.phase_id, expected.kind.value


def compare(wanted: Sequence[Wanted], *, limits: Limits) -> list[Change]:
    """Return what differs for each transition, in their order, with whole rows."""
    return _compare(wanted, columns="*", limits=limits)


def compare_only(wanted: Sequence[Wanted], *, limits: Limits) -> list[Change]:
    """As `compare`, for a look: of the rows only what was compared is read."""
    return _compare(wanted, columns=", ".join(_ASKED), limits=limits)


def _compare(wanted: Sequence[Wanted], *, columns: str, limits: Limits) -> list[Change]:
    """Return what differs for each transition."""
    phases = {one.identity[:2] for one in wanted}
    jobs = jobs_of(phases, columns=columns)
    remembered = _remembered_of(phases)
    return [
        diff(
            one.expected,
            jobs.get(one.identity, []),
            remembered=remembered.get(one.identity, []),
            limits=limits,
        )
        for one in wanted
    ]


def jobs_of(
    phases: Collection[tuple[str, str]], *, columns: str = "*"
) -> dict[Identity, list[ScheduledTransition]]:
    """Return all rows of the phases, live and past, by identity.

    Args:
        phases: Canonical ids of project and phase.
        columns: Which of the rows are read; names of ours.
    """
    found: dict[Identity, list[ScheduledTransition]] = defaultdict(list)
    if phases:
        where, values = _identity_condition(phases)
        for job in ScheduledTransition.objects.raw(
            f"SELECT {columns} FROM {ScheduledTransition._meta.db_table} WHERE {where}",  # noqa: S608 -- names of ours and placeholders
            values,
        ):
            found[job.project_id, job.phase_id, job.state].append(job)
    return found


def _remembered_of(
    phases: Collection[tuple[str, str]],
) -> dict[Identity, list[SettledTransition]]:
    """Return what clean-up remembered of the phases, by identity."""
    found: dict[Identity, list[SettledTransition]] = defaultdict(list)
    if not phases:
        return found
    where, values = _identity_condition(phases)
    rows = SettledTransition.objects.raw(
        f"SELECT * FROM {SettledTransition._meta.db_table} WHERE {where}",  # noqa: S608 -- a table's name and placeholders
        values,
    )
    for row in rows:
        found[row.project_id, row.phase_id, row.state].append(row)
    return found


def _identity_condition(
    phases: Collection[tuple[str, str]],
) -> tuple[str, list[str] | list[list[str]]]:
    """Return the condition for these projects and phases, with its values.

    Both databases look each pair up in the index. Two separate lists of ids would have
    PostgreSQL look up every combination.
    """
    pairs = sorted(phases)
    if connection.vendor == "postgresql":
        return (
            "(project_id, phase_id) IN "
            "(SELECT * FROM unnest(%s::varchar[], %s::varchar[]))",
            [[project_id for project_id, _ in pairs], [phase_id for _, phase_id in pairs]],
        )
    places = ", ".join(["(%s, %s)"] * len(pairs))
    return (
        f"(project_id, phase_id) IN (VALUES {places})",
        [one for pair in pairs for one in pair],
    )
