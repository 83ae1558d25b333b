"""To move a challenge's phases by an amount, or back to where upstream wants them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.utils.functional import cached_property
from typing_extensions import override

from scheduling.admin.one_challenge import OneChallenge, read_one_challenge
from scheduling.admin.plan_pages import PlanPage, ShownPlan
from scheduling.domain.adjustment_request import MOST_CHANGES, AdjustmentRequest
from scheduling.domain.changes import OnConflict, ScheduleChange
from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.spans import parse_span
from scheduling.pages.texts import count_text, span_text
from scheduling.queries.overridden import Overridden

# The reason of a plan that nobody carries out yet.
_NO_REASON_YET = "a look"


class _ChallengePage(PlanPage):
    """A change of one challenge's schedule, with the picture of what it would do."""

    @cached_property
    def challenge(self) -> OneChallenge:
        """The challenge that the address names."""
        return read_one_challenge(str(self.kwargs["key"]))

    @override
    def context(self) -> dict[str, Any]:
        return {"challenge": self.challenge, **super().context()}

    @override
    def plan_context(self, request: AdjustmentRequest) -> dict[str, Any]:
        found = super().plan_context(request)
        plan: ShownPlan = found["plan"]
        changes = [
            ScheduleChange(
                project_id=self.challenge.row.project_id,
                phase_id=move.phase_id,
                kind=TransitionKind(move.state),
                new_due_at=move.new_at,
            )
            for move in plan.moves
            if move.state
        ]
        # A refused plan moves nothing; then what was asked for is drawn.
        picture = self.challenge.draw(now=self.now, changes=changes or request.changes)
        return found | {"picture": picture}


class MoveFromHere(_ChallengePage):
    """Moves a phase and all that follow it by an amount."""

    path = "<str:key>/move/<str:phase_id>/"
    name = "scheduling_challenge_move"
    template_name = "admin/move_from_here.html"

    @property
    @override
    def title(self) -> str:  # type: ignore[override]
        """Name the phase."""
        return f"Move {self._phase_name} and what follows"

    @cached_property
    def _phase_name(self) -> str:
        """The phase's name, or its id where it has none."""
        phase = self.challenge.phase(str(self.kwargs["phase_id"]))
        return phase.name or f"phase {phase.phase_id}"

    @override
    def context(self) -> dict[str, Any]:
        phase = self.challenge.phase(str(self.kwargs["phase_id"]))
        jobs = self.challenge.scheduled_from(phase.phase_id)
        return {
            "phase": phase,
            "jobs": jobs,
            "by": self._given,
            "understood": "",
            **super().context(),
        }

    @property
    def _given(self) -> str:
        """The amount as it was typed."""
        form = self.request.POST if self.request.method == "POST" else self.request.GET
        return form.get("by", "")[:100]

    @override
    def read_request(self) -> AdjustmentRequest | None:
        if not self._given.strip():
            return None
        try:
            by = parse_span(self._given)
        except ValueError as error:
            raise InvalidRequestError([("amount", str(error))]) from None
        phase = self.challenge.phase(str(self.kwargs["phase_id"]))
        jobs = self.challenge.scheduled_from(phase.phase_id)
        if len(jobs) > MOST_CHANGES:
            most = f"at most {count_text(MOST_CHANGES, 'transition')} can be moved at once"
            raise InvalidRequestError([("phase", most)])
        if not jobs:
            raise InvalidRequestError([("phase", "has nothing scheduled from here on")])
        return AdjustmentRequest(
            changes=tuple(
                ScheduleChange(
                    project_id=job.project_id,
                    phase_id=job.phase_id,
                    kind=job.kind,
                    new_due_at=_later(job.due_at, by),
                )
                for job in jobs
            ),
            reason=_NO_REASON_YET,
            on_conflict=OnConflict.SHIFT,
        )

    @override
    def plan_context(self, request: AdjustmentRequest) -> dict[str, Any]:
        by = parse_span(self._given)
        direction = "later" if by > timedelta() else "earlier"
        plan = super().plan_context(request)
        return plan | {
            "understood": f"{span_text(by)} {direction}",
            "undo_by": self._opposite,
        }

    @property
    def _opposite(self) -> str:
        """Return the amount that takes the move back."""
        text = self._given.strip().lstrip("+").strip()
        return text.lstrip("-\u2212") if text[:1] in {"-", "\u2212"} else f"-{text}"


def _later(at: Any, by: timedelta) -> Any:
    """Return an instant moved by a span, in whole milliseconds.

    Raises:
        InvalidRequestError: The calendar ends before.
    """
    try:
        moved = at + by
    except OverflowError:
        raise InvalidRequestError([("amount", "leads beyond the calendar")]) from None
    return moved.replace(microsecond=moved.microsecond // 1000 * 1000)


class FollowUpstream(_ChallengePage):
    """Moves, or schedules again, what a person made differ from upstream."""

    path = "<str:key>/follow-upstream/"
    name = "scheduling_challenge_follow"
    template_name = "admin/follow_upstream.html"
    title = "Follow upstream again"
    verb = "Follow upstream with"

    @cached_property
    def _found(self) -> Sequence[Overridden]:
        """All that differs by hand."""
        return self.challenge.overridden(now=self.now)

    @property
    def _chosen(self) -> frozenset[str]:
        """The transitions that the form names; all where it names none."""
        form = self.request.POST if self.request.method == "POST" else self.request.GET
        return frozenset(form.getlist("transition"))

    @override
    def context(self) -> dict[str, Any]:
        chosen = self._chosen
        return {
            "overridden": [
                (one, _named(one), _named(one) in chosen) for one in self._found
            ],
            "has_choice": bool(chosen),
            **super().context(),
        }

    @override
    def read_request(self) -> AdjustmentRequest | None:
        chosen = self._chosen
        changes = tuple(
            ScheduleChange(
                project_id=one.job.project_id,
                phase_id=one.job.phase_id,
                kind=one.job.kind,
                new_due_at=_later(one.upstream_at, timedelta()),
                phase_type_name=one.phase.name if one.is_cancelled else None,
            )
            for one in self._found
            if not chosen or _named(one) in chosen
        )
        if not changes:
            return None
        return AdjustmentRequest(
            changes=changes[:MOST_CHANGES],
            reason=_NO_REASON_YET,
            on_conflict=OnConflict.REJECT,
        )


def _named(one: Overridden) -> str:
    """Return how the form names a transition."""
    return f"{one.job.phase_id}:{one.job.state}"
