"""What people do about dead letters: each is dealt with once, and all of it is audited."""

import json
import uuid
from collections import Counter
from itertools import count

import pytest
from django.db import transaction

from scheduling.domain.actors import Role, user_actor
from scheduling.domain.errors import (
    ConflictError,
    DeadLetterNotFoundError,
    DeadLetterSettledError,
    InvalidRequestError,
    OperationNotPermittedError,
    ServiceUnavailableError,
)
from scheduling.domain.phases import format_instant
from scheduling.domain.records import Record
from scheduling.models import (
    AuditEntry,
    DeadLetter,
    InboxMessage,
    OutgoingRecord,
    ScheduledTransition,
)
from scheduling.services import incoming, routes, unproven
from scheduling.services.dead_letters import (
    discard_dead_letter,
    get_dead_letter,
    lock_new,
    replay_dead_letter,
)
from scheduling.services.incoming import UnexpectedError, handle_records
from scheduling.services.set_aside import set_aside
from scheduling.topics import COMMAND, COMMAND_RESULT
from tests.support.histories import UNPROVEN, make_job, state_of
from tests.support.threads import run_together

_offsets = count()
# A replay decides about its transactions itself, and must be able to.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(incoming, "FIRST_WAIT_SECONDS", 0)


@pytest.fixture
def operator():
    return user_actor("olivia", role=Role.OPERATOR, request_id="request-1")


@pytest.fixture
def schedule(phase_data):
    """Return the payload of a command that schedules."""
    return {"command": "schedule_phase_transition", **phase_data()}


@pytest.fixture
def record_of(now):
    """Return a maker of command records."""

    def make(payload, *, headers=(), **envelope):
        value = {
            "topic": COMMAND,
            "originator": "test",
            "timestamp": format_instant(now),
            "payload": payload,
            **envelope,
        }
        return Record(
            cluster_id="cluster",
            topic=COMMAND,
            partition=0,
            offset=next(_offsets),
            value=json.dumps(value).encode(),
            headers=headers,
        )

    return make


@pytest.fixture
def failed_once(record_of, schedule, now, monkeypatch):
    """Return the dead letter of a good command that met an error of ours."""

    def make(**options):
        record = record_of(schedule, **options)
        with monkeypatch.context() as broken:
            broken.setitem(
                routes.ROUTES,
                COMMAND,
                routes.replace(routes.ROUTES[COMMAND], apply=_fail),
            )
            handle_records([record], now=now)
        return DeadLetter.objects.get(offset=record.offset)

    return make


def _fail(*_):
    raise RuntimeError("not mended yet")


@pytest.fixture
def garbage(record_of, now):
    """Return a dead letter that stays one."""
    record = record_of({"command": "no such"}, headers=(("correlation-id", b"c-1"),))
    handle_records([record], now=now)
    return DeadLetter.objects.get(offset=record.offset)


def answers():
    rows = OutgoingRecord.objects.filter(topic=COMMAND_RESULT).order_by("id")
    return [json.loads(bytes(row.value))["payload"] for row in rows]


class TestReplayDeadLetter:
    def test_handles_the_record_as_if_just_received(self, failed_once, operator, now):
        letter = failed_once()
        assert (letter.code, letter.category) == ("unexpected_error", "system")

        replayed = replay_dead_letter(letter.pk, actor=operator, now=now)

        assert ScheduledTransition.objects.count() == 1
        assert (replayed.status, replayed.replayed_at) == ("replayed", now)
        stored = DeadLetter.objects.get()
        assert (stored.status, stored.replayed_at) == ("replayed", now)
        assert InboxMessage.objects.get().outcome == "done"

    def test_is_audited_in_the_persons_name(self, failed_once, operator, now):
        letter = failed_once()

        replay_dead_letter(letter.pk, actor=operator, now=now)

        entry = AuditEntry.objects.get(action="dead_letter.replayed")
        assert (entry.actor, entry.role, entry.request_id) == (
            "user:olivia",
            "operator",
            "request-1",
        )
        assert entry.changes == {
            "deadLetterId": str(letter.pk),
            "record": f"{COMMAND}[0]@{letter.offset}",
            "code": "unexpected_error",
        }

    def test_of_a_command_is_answered_once(self, failed_once, operator, now):
        letter = failed_once(headers=(("correlation-id", b"c-1"),))
        refused = answers()

        replay_dead_letter(letter.pk, actor=operator, now=now)
        with pytest.raises(DeadLetterSettledError):
            replay_dead_letter(letter.pk, actor=operator, now=now)

        assert [one["success"] for one in refused] == [False]
        assert [(one["success"], one["correlationId"]) for one in answers()[1:]] == [
            (True, "c-1")
        ]

    def test_keeps_the_headers(self, failed_once, operator, now):
        letter = failed_once(headers=(("event-id", b"e-1"), ("other", None)))

        replay_dead_letter(letter.pk, actor=operator, now=now)

        assert InboxMessage.objects.get().event_id == "e-1"

    def test_does_nothing_where_its_event_was_handled_meanwhile(
        self, failed_once, record_of, operator, now
    ):
        headers = (("event-id", b"e-1"),)
        letter = failed_once(headers=headers)
        again = record_of({"command": "recover", "operator": "admin"}, headers=headers)
        handle_records([again], now=now)

        replay_dead_letter(letter.pk, actor=operator, now=now)

        assert not ScheduledTransition.objects.exists()
        assert InboxMessage.objects.get(offset=letter.offset).outcome == "duplicate"
        assert DeadLetter.objects.get().status == "replayed"

    def test_that_fails_again_makes_a_new_dead_letter(self, garbage, operator, now):
        replay_dead_letter(garbage.pk, actor=operator, now=now)

        old, new = (
            DeadLetter.objects.get(pk=garbage.pk),
            DeadLetter.objects.get(status="new"),
        )
        assert old.status == "replayed"
        assert (new.replay_of, bytes(new.value)) == (old.pk, bytes(old.value))
        assert (new.topic, new.partition, new.offset) == (
            old.topic,
            old.partition,
            old.offset,
        )
        assert OutgoingRecord.objects.filter(dead_letter=new).count() == 1
        assert len(answers()) == 2

    def test_that_fails_unexpectedly_again_makes_one_too(
        self, failed_once, operator, now, monkeypatch
    ):
        letter = failed_once()
        broken = routes.replace(routes.ROUTES[COMMAND], apply=_fail)
        monkeypatch.setitem(routes.ROUTES, COMMAND, broken)

        replay_dead_letter(letter.pk, actor=operator, now=now)

        new = DeadLetter.objects.get(status="new")
        assert (new.replay_of, new.code) == (letter.pk, UnexpectedError.code)

    def test_of_a_replay_goes_on(self, garbage, operator, now):
        for _ in range(3):
            new = DeadLetter.objects.get(status="new")
            replay_dead_letter(new.pk, actor=operator, now=now)

        assert Counter(DeadLetter.objects.values_list("status", flat=True)) == {
            "replayed": 3,
            "new": 1,
        }

    def test_changes_nothing_while_a_neighbour_is_away(
        self, record_of, operator, now, monkeypatch
    ):
        job = make_job(UNPROVEN, now=now, project_id="12345")
        payload = {"command": "cancel_schedule", "operator": "admin", "projectId": 12345}
        record = record_of(payload)
        set_aside([(record, UnexpectedError("failed five times"))], now=now)
        letter = DeadLetter.objects.get()
        before = state_of(job)

        def find_events(*_, **__):
            raise ServiceUnavailableError("no topic")

        monkeypatch.setattr(unproven, "find_events", find_events)

        with pytest.raises(ServiceUnavailableError):
            replay_dead_letter(letter.pk, actor=operator, now=now)

        assert DeadLetter.objects.get().status == "new"
        assert state_of(job) == before
        assert not AuditEntry.objects.filter(action__startswith="dead_letter").exists()

    def test_is_refused_to_whom_may_only_look(self, garbage, viewer, now):
        with pytest.raises(OperationNotPermittedError):
            replay_dead_letter(garbage.pk, actor=viewer, now=now)

        assert DeadLetter.objects.get().status == "new"

    def test_of_none_says_so(self, operator, now):
        with pytest.raises(DeadLetterNotFoundError):
            replay_dead_letter(uuid.uuid4(), actor=operator, now=now)

    @pytest.mark.parametrize("status", ["replayed", "discarded"])
    @pytest.mark.parametrize("is_good", [True, False])
    def test_of_what_was_dealt_with_says_so_at_once(
        self, failed_once, garbage, operator, now, status, is_good, caplog
    ):
        letter = failed_once() if is_good else garbage
        DeadLetter.objects.update(status=status)
        caplog.clear()

        with pytest.raises(DeadLetterSettledError, match=f"is {status} already"):
            replay_dead_letter(letter.pk, actor=operator, now=now)

        assert not ScheduledTransition.objects.exists()
        assert DeadLetter.objects.count() == 2 - (not is_good)
        assert caplog.messages == []

    def test_of_a_topic_that_nobody_handles_any_more_is_refused(self, now, operator):
        record = Record(
            cluster_id="cluster", topic="billing", partition=0, offset=1, value=b"{}"
        )
        set_aside([(record, UnexpectedError("failed five times"))], now=now)

        with pytest.raises(ConflictError, match="nobody here handles billing"):
            replay_dead_letter(DeadLetter.objects.get().pk, actor=operator, now=now)

        assert DeadLetter.objects.get().status == "new"

    @pytest.mark.parametrize("is_good", [True, False])
    def test_twice_at_once_has_one_effect(
        self, failed_once, garbage, operator, now, is_good
    ):
        letter = failed_once() if is_good else garbage
        known = DeadLetter.objects.count()

        results = run_together(
            4, lambda _: replay_dead_letter(letter.pk, actor=operator, now=now)
        )

        kinds = Counter(type(result) for result in results)
        assert kinds == {DeadLetter: 1, DeadLetterSettledError: 3}
        assert ScheduledTransition.objects.count() == int(is_good)
        assert DeadLetter.objects.count() == known + (not is_good)
        assert AuditEntry.objects.filter(action="dead_letter.replayed").count() == 1


class TestDiscardDeadLetter:
    def test_keeps_it_with_the_reason(self, garbage, operator, now):
        letter = discard_dead_letter(
            garbage.pk, actor=operator, reason="sent by a test", now=now
        )

        stored = DeadLetter.objects.get()
        assert (letter.status, stored.status) == ("discarded", "discarded")
        assert (stored.reason, stored.replayed_at) == ("sent by a test", None)
        entry = AuditEntry.objects.get(action="dead_letter.discarded")
        assert (entry.actor, entry.reason) == ("user:olivia", "sent by a test")
        assert entry.changes["deadLetterId"] == str(garbage.pk)

    @pytest.mark.parametrize("reason", [None, "", "  ", 5, "x" * 2_001, "a\x00"])
    def test_needs_a_reason(self, garbage, operator, now, reason):
        with pytest.raises(InvalidRequestError, match="reason"):
            discard_dead_letter(garbage.pk, actor=operator, reason=reason, now=now)

        assert DeadLetter.objects.get().status == "new"

    def test_is_refused_to_whom_may_only_look(self, garbage, viewer, now):
        with pytest.raises(OperationNotPermittedError):
            discard_dead_letter(garbage.pk, actor=viewer, reason="x", now=now)

    def test_of_none_says_so(self, operator, now):
        with pytest.raises(DeadLetterNotFoundError):
            discard_dead_letter(uuid.uuid4(), actor=operator, reason="x", now=now)

    @pytest.mark.parametrize("status", ["replayed", "discarded"])
    def test_of_what_was_dealt_with_says_so(self, garbage, operator, now, status):
        DeadLetter.objects.update(status=status)

        with pytest.raises(DeadLetterSettledError) as caught:
            discard_dead_letter(garbage.pk, actor=operator, reason="x", now=now)

        assert caught.value.code == "conflict"

    def test_and_replay_at_once_exclude_each_other(self, failed_once, operator, now):
        letter = failed_once()
        acts = [
            lambda: replay_dead_letter(letter.pk, actor=operator, now=now),
            lambda: discard_dead_letter(letter.pk, actor=operator, reason="x", now=now),
        ]

        results = run_together(2, lambda index: acts[index]())

        assert Counter(type(one) for one in results) == {
            DeadLetter: 1,
            DeadLetterSettledError: 1,
        }
        is_replayed = DeadLetter.objects.get().status == "replayed"
        assert ScheduledTransition.objects.exists() is is_replayed


class TestGetDeadLetter:
    def test_returns_the_row_or_says_that_there_is_none(self, garbage):
        assert get_dead_letter(garbage.pk) == garbage
        for find in (get_dead_letter, lock_new):
            with transaction.atomic(), pytest.raises(DeadLetterNotFoundError) as caught:
                find(uuid.uuid4())
            assert caught.value.code == "not_found"
