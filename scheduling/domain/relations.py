"""Which phase follows which, and how long each lasts, as last read of challenges."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from scheduling.domain.challenges import Challenge, Phase
from scheduling.domain.lifecycle import TransitionKind

# Project and phase: a phase's id by itself is not known to be upstream's only one.
PhaseKey = tuple[str, str]


class Relations:
    """The relations of all phases of some challenges."""

    def __init__(self, challenges: Iterable[Challenge]) -> None:
        """Take in challenges; where two show the same phase, the later one counts."""
        self._challenges: dict[PhaseKey, Challenge] = {}
        self._phases: dict[PhaseKey, Phase] = {}
        self._before: dict[PhaseKey, PhaseKey] = {}
        self._after: dict[PhaseKey, list[PhaseKey]] = defaultdict(list)
        self._depths: dict[PhaseKey, int] = {}
        for challenge in challenges:
            for phase in challenge.phases:
                key = challenge.project_id, phase.phase_id
                self._challenges[key] = challenge
                self._phases[key] = phase
                self._before.pop(key, None)
                before = challenge.find_predecessor(phase)
                if before is not None:
                    self._before[key] = challenge.project_id, before.phase_id
        for key, predecessor in self._before.items():
            self._after[predecessor].append(key)

    def challenge_of(self, key: PhaseKey) -> Challenge | None:
        """Return the challenge that showed a phase."""
        return self._challenges.get(key)

    def before(self, key: PhaseKey) -> PhaseKey | None:
        """Return the phase that a phase follows."""
        return self._before.get(key)

    def after(self, key: PhaseKey) -> Sequence[PhaseKey]:
        """Return the phases that follow a phase directly."""
        return self._after.get(key, ())

    def around(self, keys: Iterable[PhaseKey]) -> set[PhaseKey]:
        """Return these phases, those before them, and all that follow them."""
        named = set(keys)
        before = {self._before[key] for key in named if key in self._before}
        return self.with_followers(named) | before

    def with_followers(self, keys: Iterable[PhaseKey]) -> set[PhaseKey]:
        """Return these phases and all that follow them, directly or not."""
        found = set(keys)
        waiting = list(found)
        while waiting:
            new = [key for key in self.after(waiting.pop()) if key not in found]
            found.update(new)
            waiting += new
        return found

    def depth(self, key: PhaseKey) -> int:
        """Return a phase's place behind those that it follows: 1 for the first.

        0 where they follow one another in a circle, so that none is the first.
        """
        way: list[PhaseKey] = []
        at: PhaseKey | None = key
        while at is not None and at not in self._depths:
            # Marked while on the way: who comes by again has gone in a circle.
            self._depths[at] = 0
            way.append(at)
            at = self._before.get(at)
        depth = 0 if at is None else self._depths[at]
        is_circle = at is not None and depth == 0
        for one in reversed(way):
            depth = 0 if is_circle else depth + 1
            self._depths[one] = depth
        return self._depths[key]

    def duration(self, key: PhaseKey) -> timedelta | None:
        """Return how long a phase is scheduled to last; None where that is not known."""
        phase = self._phases.get(key)
        if phase is None or not (phase.scheduled_start_at and phase.scheduled_end_at):
            return None
        duration = phase.scheduled_end_at - phase.scheduled_start_at
        return None if duration < timedelta() else duration

    def scheduled_at(
        self, project_id: str, phase_id: str, kind: TransitionKind
    ) -> datetime | None:
        """Return when upstream wants a transition; None where it was not read."""
        phase = self._phases.get((project_id, phase_id))
        if phase is None:
            return None
        is_start = kind is TransitionKind.START
        return phase.scheduled_start_at if is_start else phase.scheduled_end_at

    def is_done(self, project_id: str, phase_id: str, kind: TransitionKind) -> bool:
        """Tell whether upstream showed a transition as having happened."""
        phase = self._phases.get((project_id, phase_id))
        if phase is None:
            return False
        # What has ended has started, also where upstream forgot to say so.
        is_over = phase.actual_end_at is not None
        return is_over or (
            kind is TransitionKind.START and phase.actual_start_at is not None
        )
