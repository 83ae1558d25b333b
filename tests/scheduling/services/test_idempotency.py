import uuid
from datetime import timedelta

import pytest

from scheduling import tasks
from scheduling.domain.errors import ConflictError
from scheduling.models import IdempotencyKey
from scheduling.services import idempotency
from scheduling.services.idempotency import (
    KEPT,
    LEASE,
    Answer,
    Asked,
    Ticket,
    forget_old_answers,
    let_go,
    look,
    store,
    take,
)
from tests.support.histories import a_dead_owner
from tests.support.threads import run_together

ANSWER = Answer(status=201, content='{"a":1}', headers={"Location": "/x"})


def asked(*, actor="user:olivia", key="k-1", fingerprint="f" * 64):
    return Asked(actor=actor, key=key, fingerprint=fingerprint)


@pytest.fixture
def dead_owner():
    """Return a process of this host that is no more."""
    return a_dead_owner()


@pytest.mark.django_db
class TestTake:
    def test_gives_the_first_a_ticket_and_nobody_else(self, now):
        first = take(asked(), now=now)
        second = take(asked(), now=now)

        assert isinstance(first, Ticket)
        assert second is None

    def test_gives_whoever_repeats_the_answer(self, now):
        store(take(asked(), now=now), ANSWER)

        assert take(asked(), now=now + KEPT / 2) == ANSWER

    @pytest.mark.parametrize("is_answered", [True, False])
    def test_refuses_another_request_under_the_key(self, now, is_answered):
        ticket = take(asked(), now=now)
        if is_answered:
            store(ticket, ANSWER)

        with pytest.raises(ConflictError):
            take(asked(fingerprint="0" * 64), now=now)

    @pytest.mark.parametrize("other", [{"actor": "user:otto"}, {"key": "K-1"}])
    def test_keeps_users_and_keys_apart(self, now, other):
        store(take(asked(), now=now), ANSWER)

        assert isinstance(take(asked(**other), now=now), Ticket)

    def test_gives_the_request_again_once_it_was_let_go(self, now):
        let_go(take(asked(), now=now))

        assert isinstance(take(asked(), now=now), Ticket)

    def test_is_free_for_any_request_after_a_day(self, now):
        store(take(asked(), now=now), ANSWER)

        again = take(asked(fingerprint="0" * 64), now=now + KEPT)

        assert isinstance(again, Ticket)
        assert take(asked(fingerprint="0" * 64), now=now + KEPT) is None

    def test_takes_over_from_a_process_that_died(self, now, dead_owner):
        first = take(asked(), now=now)
        IdempotencyKey.objects.update(owner=dead_owner)

        second = take(asked(), now=now)

        assert isinstance(second, Ticket)
        assert second.token != first.token

    def test_takes_over_what_was_held_for_too_long(self, now):
        first = take(asked(), now=now)

        assert take(asked(), now=now + LEASE / 2) is None
        second = take(asked(), now=now + LEASE)

        assert second.token != first.token

    def test_keeps_the_day_of_the_first_request_when_taken_over(self, now, dead_owner):
        take(asked(), now=now)
        IdempotencyKey.objects.update(owner=dead_owner)

        take(asked(), now=now + LEASE)

        assert IdempotencyKey.objects.get().created_at == now


@pytest.mark.django_db
class TestLook:
    def test_gives_the_ticket_to_whoever_waits_once_the_first_let_go(self, now):
        let_go(take(asked(), now=now))

        assert isinstance(look(asked(), now=now), Ticket)


@pytest.mark.django_db
class TestStore:
    def test_of_one_that_was_overtaken_keeps_nothing(self, now):
        late = take(asked(), now=now)
        take(asked(), now=now + LEASE)

        store(late, ANSWER)
        let_go(late)

        assert IdempotencyKey.objects.get().status is None


@pytest.mark.django_db(transaction=True)
class TestTakeTogether:
    def test_gives_one_of_many_the_ticket(self, now):
        found = run_together(8, lambda _: take(asked(), now=now))

        assert sorted(isinstance(one, Ticket) for one in found) == [False] * 7 + [True]
        assert [one for one in found if not isinstance(one, Ticket)] == [None] * 7

    def test_gives_one_of_many_what_a_dead_process_held(self, now, dead_owner):
        take(asked(), now=now)
        IdempotencyKey.objects.update(owner=dead_owner)

        found = run_together(8, lambda _: take(asked(), now=now))

        assert sum(isinstance(one, Ticket) for one in found) == 1


@pytest.mark.django_db
class TestForgetOldAnswers:
    def test_deletes_those_of_yesterday_and_no_other(self, now, monkeypatch):
        monkeypatch.setattr(idempotency, "BATCH", 2)
        for number in range(5):
            store(take(asked(key=f"old-{number}"), now=now - KEPT), ANSWER)
        store(take(asked(key="young"), now=now - KEPT + timedelta(seconds=1)), ANSWER)

        assert forget_old_answers(now=now) == 5

        assert [row.key for row in IdempotencyKey.objects.all()] == ["young"]
        assert isinstance(IdempotencyKey.objects.get().token, uuid.UUID)

    def test_is_a_chore(self, now, settings):
        store(take(asked(), now=now - KEPT), ANSWER)

        assert tasks.forget_old_answers() == 1
        assert "scheduling.tasks.forget_old_answers" in settings.CHORES
