"""Where jobs differ from upstream because a person wanted it so."""

from datetime import timedelta

import pytest

from scheduling.models import Phase, ScheduledTransition
from scheduling.queries.challenges import read_phases_and_jobs
from scheduling.queries.overridden import find_overridden
from scheduling.services.cancel import cancel_transition
from scheduling.services.update import Update, update_transition
from tests.support.challenges import make_challenge

pytestmark = pytest.mark.django_db


@pytest.fixture
def challenge(now):
    return make_challenge(now)


def job_of(phase_id, state):
    return ScheduledTransition.objects.live().get(phase_id=phase_id, state=state)


def move(job, *, by, actor, now, reason="wait for them"):
    due_at = job.due_at + by
    return update_transition(
        job_id=job.job_id,
        update=Update(end_time=due_at),
        actor=actor,
        reason=reason,
        now=now,
    )


class TestFindOverridden:
    def find(self, challenge, now):
        return find_overridden(*read_phases_and_jobs(challenge), now=now)

    def test_finds_nothing_where_all_is_as_upstream_wants_it(self, challenge, now):
        assert self.find(challenge, now) == []

    def test_tells_who_moved_a_job_from_where_and_why(self, challenge, operator, now):
        old = job_of("103", "END")
        new = move(old, by=timedelta(hours=1), actor=operator, now=now)

        (found,) = self.find(challenge, now)

        assert found.job.job_id == new.job_id
        assert (found.from_at, found.upstream_at) == (old.due_at, old.due_at)
        assert found.entry.actor == "user:olivia"
        assert found.entry.reason == "wait for them"
        assert not found.is_cancelled

    def test_tells_of_the_last_of_several_moves(self, challenge, operator, now):
        first = job_of("103", "END")
        second = move(first, by=timedelta(hours=1), actor=operator, now=now)
        move(second, by=timedelta(hours=1), actor=operator, now=now, reason="again")

        (found,) = self.find(challenge, now)

        assert (found.from_at, found.upstream_at) == (second.due_at, first.due_at)
        assert found.entry.reason == "again"

    def test_finds_nothing_once_a_job_is_back_where_upstream_wants_it(
        self, challenge, operator, now
    ):
        moved = move(job_of("103", "END"), by=timedelta(hours=1), actor=operator, now=now)
        move(moved, by=timedelta(hours=-1), actor=operator, now=now)

        assert self.find(challenge, now) == []

    def test_tells_what_was_cancelled_as_long_as_it_could_still_happen(
        self, challenge, operator, now
    ):
        job = job_of("103", "END")
        cancel_transition(job_id=job.job_id, actor=operator, reason="no", now=now)

        (found,) = self.find(challenge, now)
        later = self.find(challenge, job.due_at + timedelta(seconds=1))

        assert found.is_cancelled
        assert found.entry.reason == "no"
        assert later == []

    def test_finds_nothing_once_upstream_shows_it_as_done(self, challenge, operator, now):
        move(job_of("103", "END"), by=timedelta(hours=1), actor=operator, now=now)
        Phase.objects.filter(phase_id="103").update(actual_end_at=now)

        assert self.find(challenge, now) == []
