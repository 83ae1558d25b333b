"""Challenges: what was last read of them, their phases over time, and their jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.contrib import admin
from django.db.models import Count, Min, QuerySet
from django.utils.functional import cached_property
from typing_extensions import override

from scheduling.admin.moves import FollowUpstream, MoveFromHere
from scheduling.admin.one_challenge import OneChallenge, read_one_challenge
from scheduling.admin.own_pages import OwnPagesAdmin
from scheduling.domain.actors import Operation
from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.lifecycle import TransitionKind
from scheduling.models import Challenge, Phase, ScheduledTransition
from scheduling.pages.base import AdminPage
from scheduling.pages.lists import ListField, ListPage
from scheduling.queries.audit_prose import name_actor
from scheduling.queries.challenges import list_challenges
from scheduling.queries.filters import parse_id_filter
from scheduling.queries.overridden import Overridden

# Jobs that one page shows: live ones first, then the newest.
MOST_JOBS: Final = 300


@dataclass(frozen=True)
class ListedChallenge:
    """A challenge in the list, with what it waits for.

    next_due_at: the earliest instant of its live jobs.
    """

    row: Challenge
    live_jobs: int
    next_due_at: datetime | None


class ChallengeList(ListPage):
    """All challenges that were read."""

    title = "Challenges"
    template_name = "admin/challenge_list.html"
    noun = "challenge"
    empty = (
        "No challenge matches. Challenges stand here once upstream has told of them, "
        "or a recovery run has read them."
    )
    fields = (
        ListField(name="challenge_id", label="Challenge id"),
        ListField(name="project_id", label="Project id"),
        ListField(name="status", label="Status", help="To the letter, such as ACTIVE"),
    )

    @override
    def find(self, filters: Mapping[str, Any]) -> QuerySet[Any]:
        rest = dict(filters)
        challenge_id = rest.pop("challenge_id", None)
        rows = list_challenges(rest)
        if challenge_id is None:
            return rows
        try:
            return rows.filter(challenge_id=parse_id_filter(challenge_id))
        except ValueError as error:
            raise InvalidRequestError([("challengeId", str(error))]) from None

    @override
    def show(self, rows: Sequence[Challenge]) -> Sequence[ListedChallenge]:
        waiting = ScheduledTransition.objects.live().filter(
            challenge_id__in=[row.challenge_id for row in rows]
        )
        told = {
            name: (count, at)
            for name, count, at in waiting.order_by()
            .values_list("challenge_id")
            .annotate(Count("id"), Min("due_at"))
        }
        return [
            ListedChallenge(row, *told.get(row.challenge_id, (0, None))) for row in rows
        ]


@dataclass(frozen=True)
class ShownPhase:
    """A phase in the table beside the picture.

    follows: the name of the phase before it, or empty.
    """

    row: Phase
    follows: str
    start: ScheduledTransition | None
    end: ScheduledTransition | None
    can_move: bool


class ChallengePage(AdminPage):
    """One challenge: the picture, the same facts as a table, its jobs, what to do."""

    template_name = "admin/challenge.html"

    @property
    @override
    def title(self) -> str:  # type: ignore[override]
        """Name the challenge."""
        return self.challenge.title

    @cached_property
    def challenge(self) -> OneChallenge:
        """The challenge that the address names."""
        return read_one_challenge(str(self.kwargs["key"]))

    @override
    def context(self) -> dict[str, Any]:
        challenge = self.challenge
        jobs = sorted(challenge.jobs, key=lambda job: (not job.is_live, -job.pk))
        shown = sorted(jobs[:MOST_JOBS], key=lambda job: (job.due_at, job.pk))
        may_update = self.may(Operation.UPDATE)
        return {
            "challenge": challenge,
            "picture": challenge.draw(now=self.now),
            "phases": [
                self._shown(phase, may_update=may_update) for phase in challenge.phases
            ],
            "notices": [(one, _who(one)) for one in challenge.overridden(now=self.now)],
            "jobs": shown,
            "hidden_jobs": len(challenge.jobs) - len(shown),
            "may_update": may_update,
        }

    def _shown(self, phase: Phase, *, may_update: bool) -> ShownPhase:
        """Return a phase as the table shows it."""
        challenge = self.challenge
        before = challenge.relations.before((challenge.row.project_id, phase.phase_id))
        follows = challenge.phase(before[1]) if before else None
        ends = {
            kind: challenge.jobs_by_end.get((phase.phase_id, kind))
            for kind in TransitionKind
        }
        return ShownPhase(
            row=phase,
            follows=(follows.name or follows.phase_id) if follows else "",
            start=ends[TransitionKind.START],
            end=ends[TransitionKind.END],
            can_move=may_update and bool(challenge.scheduled_from(phase.phase_id)),
        )


def _who(one: Overridden) -> str:
    """Return who made a transition differ from upstream."""
    return name_actor(one.entry.actor) if one.entry else "somebody"


@admin.register(Challenge)
class ChallengeAdmin(OwnPagesAdmin):
    """The challenges' place in the admin."""

    list_page = ChallengeList
    row_page = ChallengePage
    more_pages = (MoveFromHere, FollowUpstream)
