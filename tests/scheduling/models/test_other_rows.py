from datetime import timedelta

import pytest
from django.db import IntegrityError

from scheduling.models import (
    Challenge,
    Housekeeping,
    InboxMessage,
    Phase,
    SettledTransition,
)
from tests.support.threads import run_together

MINUTE = timedelta(minutes=1)


@pytest.fixture
def inbox(now):
    """Return a maker of handled records."""

    def make(**fields):
        values = {
            "cluster_id": "c",
            "topic": "t",
            "partition": 0,
            "offset": 0,
            "handled_at": now,
            "outcome": "handled",
        }
        return InboxMessage.objects.create(**values | fields)

    return make


@pytest.mark.django_db
class TestInboxMessage:
    def test_a_record_is_handled_once(self, inbox):
        inbox()

        with pytest.raises(IntegrityError):
            inbox()

    @pytest.mark.parametrize(
        "other", [{"cluster_id": "d"}, {"topic": "u"}, {"partition": 1}, {"offset": 1}]
    )
    def test_a_record_elsewhere_is_another_one(self, inbox, other):
        inbox()

        assert inbox(**other).pk

    def test_an_event_is_handled_once_wherever_it_stands(self, inbox):
        inbox(event_id="e")

        with pytest.raises(IntegrityError):
            inbox(event_id="e", offset=1)

    def test_records_without_an_event_do_not_collide(self, inbox):
        inbox()

        assert inbox(offset=1).pk


@pytest.mark.django_db
class TestSettledTransition:
    def test_an_identity_is_remembered_once_for_each_instant(self, now):
        values = {
            "project_id": "1",
            "phase_id": "2",
            "state": "END",
            "job_id": "j",
            "due_at": now,
            "upstream_at": now,
            "settled_at": now,
        }
        SettledTransition.objects.create(**values)
        SettledTransition.objects.create(**values | {"state": "START"})
        SettledTransition.objects.create(
            **values | {"upstream_at": now + timedelta(hours=1)}
        )

        with pytest.raises(IntegrityError):
            SettledTransition.objects.create(**values)


@pytest.mark.django_db
class TestPhase:
    def test_stands_once_in_its_challenge(self):
        first, second = (
            Challenge.objects.create(challenge_id=name, project_id="1", status="ACTIVE")
            for name in ("a", "b")
        )
        Phase.objects.create(challenge=first, phase_id="2", name="Registration")
        Phase.objects.create(challenge=second, phase_id="2", name="Registration")

        with pytest.raises(IntegrityError):
            Phase.objects.create(challenge=first, phase_id="2", name="Submission")


@pytest.mark.django_db
class TestHousekeepingListDue:
    def test_names_what_is_due_the_rarest_first_by_one_query(
        self, now, django_assert_num_queries
    ):
        Housekeeping.objects.create(name="often", last_run_at=now - MINUTE)
        Housekeeping.objects.create(name="rare", last_run_at=now - 60 * MINUTE)
        Housekeeping.objects.create(name="waits", last_run_at=now - MINUTE / 2)
        intervals = {"often": MINUTE, "waits": MINUTE, "rare": 60 * MINUTE}

        with django_assert_num_queries(1):
            due = Housekeeping.list_due(intervals | {"new": 2 * MINUTE}, now=now)

        assert due == ["rare", "new", "often"]


@pytest.mark.django_db
class TestHousekeepingTake:
    def test_takes_a_chore_that_never_ran(self, now):
        assert Housekeeping.take("clean-up", interval=MINUTE, now=now)

    def test_leaves_it_until_the_interval_is_over(self, now):
        Housekeeping.take("clean-up", interval=MINUTE, now=now)

        early = now + MINUTE - timedelta(milliseconds=1)
        assert not Housekeeping.take("clean-up", interval=MINUTE, now=early)
        assert Housekeeping.take("clean-up", interval=MINUTE, now=now + MINUTE)
        assert Housekeeping.objects.get().last_run_at == now + MINUTE

    def test_knows_chores_apart(self, now):
        Housekeeping.take("clean-up", interval=MINUTE, now=now)

        assert Housekeeping.take("expire", interval=MINUTE, now=now)


@pytest.mark.django_db(transaction=True)
class TestHousekeepingTakeInRaces:
    @pytest.mark.parametrize("has_run", [False, True])
    def test_of_many_one_wins(self, now, has_run):
        if has_run:
            Housekeeping.objects.create(name="clean-up", last_run_at=now - MINUTE)

        results = run_together(
            16, lambda _: Housekeeping.take("clean-up", interval=MINUTE, now=now)
        )

        assert sorted(results) == [False] * 15 + [True]
