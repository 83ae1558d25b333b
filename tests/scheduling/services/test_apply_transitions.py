"""What published transitions change: our own events, and those of others."""

import uuid
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from scheduling.domain.actors import CONSUMER
from scheduling.domain.challenges import Challenge, Phase, Reading, Scope
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.events import TransitionEvent
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import format_instant
from scheduling.domain.records import Record
from scheduling.messages import write_phase_transition
from scheduling.models import AuditEntry, InboxMessage, ScheduledTransition
from scheduling.services import unproven
from scheduling.services.apply_challenge import apply_challenge
from scheduling.services.apply_transitions import Heard, apply_transitions
from scheduling.services.clean_up import clean_up
from scheduling.services.incoming import handle_records
from scheduling.services.unproven import OutcomeUnknownError
from scheduling.topics import CHALLENGE_UPDATE, PHASE_TRANSITION
from tests.support.histories import (
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    FAILED_UNPROVEN,
    RUNNING,
    SCHEDULED,
    UNPROVEN,
    audit_of,
    chain_breaks,
    columns,
    make_job,
    state_of,
)

PROJECT, PHASE, CHALLENGE = "12345", "67890", "777"
_offsets = count(1000)


@pytest.fixture
def job_of(now):
    """Return a maker of the END job of one phase, with the past that is asked for."""

    def make(history=SCHEDULED, **fields):
        values = {"project_id": PROJECT, "phase_id": PHASE, "challenge_id": CHALLENGE}
        return make_job(history, now=now, **{**values, **fields})

    return make


@pytest.fixture
def told(now):
    """Return a maker of events about the END of that phase; foreign unless told."""

    def make(*, event_id="", job_id="", at=None, **fields):
        headers = {"event-id": event_id, "job-id": job_id, "correlation-id": "c-1"}
        record = Record(
            cluster_id="cluster",
            topic=PHASE_TRANSITION,
            partition=2,
            offset=next(_offsets),
            value=b"",
            headers=tuple((name, text.encode()) for name, text in headers.items() if text),
            timestamp_ms=int((at or now).timestamp() * 1000),
        )
        values = {
            "project_id": PROJECT,
            "phase_id": PHASE,
            "challenge_id": CHALLENGE,
            "kind": TransitionKind.END,
            "operator": "other-service",
            "happened_at": now,
            "record": record,
        }
        return TransitionEvent(**{**values, **fields})

    return make


@pytest.fixture
def upstream(now):
    """Return a teller of what upstream says of the challenge: its END in so many hours."""
    says = count()

    def tell(*, status="ACTIVE", hours=1.0, phases=True, challenge_id=CHALLENGE):
        end = now + timedelta(hours=hours)
        phase = Phase(phase_id=PHASE, name="Registration", scheduled_end_at=end)
        challenge = Challenge(
            challenge_id=challenge_id,
            project_id=PROJECT,
            status=status,
            phases=(phase,) if phases else (),
        )
        reading = Reading(
            challenge=challenge,
            source=CHALLENGE_UPDATE,
            scope=Scope.ENDS,
            said_at=now + timedelta(seconds=next(says)),
        )
        return apply_challenge(reading, actor=CONSUMER, now=now)

    return tell


def apply(*events, now, **options):
    return apply_transitions(events, now=now, **options)


@pytest.mark.django_db
class TestOwnEvents:
    @pytest.mark.parametrize("history", [UNPROVEN, FAILED_UNPROVEN])
    def test_confirm_a_job_of_unknown_outcome(self, job_of, told, now, history):
        job = job_of(history, due_in=-3)
        published_at = now - timedelta(seconds=1)
        event = told(event_id=str(job.event_id), job_id=job.job_id, at=published_at)

        assert apply(event, now=now) == [Heard.CONFIRMED]

        stored = columns(job)
        assert stored["status"] == "completed"
        assert (stored["topic_partition"], stored["topic_offset"]) == (
            event.record.partition,
            event.record.offset,
        )
        # When the broker took it, nobody knows: the record tells when it was sent.
        assert stored["completed_at"] == now
        assert stored["lateness_ms"] == 3000.0
        assert audit_of(job.job_id)[-1].action == "transition.completed"
        assert chain_breaks(job.job_id) == []

    @pytest.mark.parametrize(
        "history", [SCHEDULED, RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED]
    )
    def test_change_nothing_else(self, job_of, told, now, history):
        job = job_of(history, due_in=-3)
        before = state_of(job)

        heard = apply(told(event_id=str(job.event_id), job_id=job.job_id), now=now)

        assert heard == [Heard.OWN]
        assert state_of(job) == before

    def test_leave_a_running_attempt_to_its_worker(self, job_of, told, now):
        job = job_of(RUNNING, due_in=-3, unproven_since=now)
        before = state_of(job)

        assert apply(told(event_id=str(job.event_id)), now=now) == [Heard.OWN]
        assert state_of(job) == before

    def test_are_known_without_their_job_id(self, job_of, told, now):
        job = job_of(UNPROVEN, due_in=-3)

        event = told(event_id=str(job.event_id).upper(), challenge_id=None)

        assert apply(event, now=now) == [Heard.CONFIRMED]

    def test_of_a_job_that_was_retried_are_about_the_last_one(self, job_of, told, now):
        event_id = uuid.uuid4()
        first = job_of(FAILED, event_id=event_id, due_in=-60)
        last = job_of(UNPROVEN, event_id=event_id, due_in=-60)
        before = state_of(first)

        assert apply(told(event_id=str(event_id)), now=now) == [Heard.CONFIRMED]

        assert columns(last)["status"] == "completed"
        assert state_of(first) == before

    def test_of_a_job_that_was_cleaned_up_do_not_overtake_the_next_one(
        self, job_of, told, now
    ):
        old = job_of(COMPLETED, due_in=-7200)
        entry = AuditEntry(
            at=now,
            action="transition.scheduled",
            job_id="job-of-old",
            actor="system:scheduler",
            role="system",
            changes={"eventId": str(old.event_id)},
        )
        entry.save()
        ScheduledTransition.objects.filter(pk=old.pk).delete()
        job = job_of()
        before = state_of(job)

        own = told(event_id=str(old.event_id), job_id="job-of-old")
        forged = told(event_id=str(uuid.uuid4()), job_id="job-of-old", phase_id="1")

        assert apply(own, forged, now=now) == [Heard.OWN, Heard.IDLE]
        assert state_of(job) == before


@pytest.mark.django_db
class TestForeignEvents:
    @pytest.mark.parametrize(
        "event_id", ["", "not-a-uuid", "7f3c2a10-5b6d-4e8f-9a01-23456789abcd"]
    )
    def test_cancel_the_live_job_as_overtaken(self, job_of, told, now, event_id):
        job = job_of()
        event = told(event_id=event_id)

        assert apply(event, now=now) == [Heard.OVERTAKEN]

        assert columns(job)["status"] == "cancelled"
        last = audit_of(job.job_id)[-1]
        assert (last.action, last.actor) == ("transition.overtaken", "kafka:other-service")
        assert (last.old_status, last.new_status) == ("scheduled", "cancelled")
        assert last.changes == {"record": event.place, "eventId": event_id}
        assert last.request_id == "c-1"
        assert format_instant(now) in last.reason
        assert chain_breaks(job.job_id) == []

    def test_with_our_job_id_alone_are_foreign_still(self, job_of, told, now):
        job = job_of()

        heard = apply(told(job_id=job.job_id, event_id=str(uuid.uuid4())), now=now)

        assert heard == [Heard.OVERTAKEN]

    @pytest.mark.parametrize(
        "fields",
        [
            {"kind": TransitionKind.START},
            {"phase_id": "1"},
            {"project_id": "1"},
        ],
    )
    def test_leave_the_jobs_of_other_transitions_alone(self, job_of, told, now, fields):
        job = job_of()
        before = state_of(job)

        assert apply(told(**fields), now=now) == [Heard.IDLE]
        assert state_of(job) == before

    @pytest.mark.parametrize("history", [COMPLETED, FAILED, CANCELLED, EXPIRED])
    def test_leave_final_jobs_alone(self, job_of, told, now, history):
        job = job_of(history)
        before = state_of(job)

        assert apply(told(), now=now) == [Heard.IDLE]
        assert state_of(job) == before

    def test_leave_a_running_job_to_finish(self, job_of, told, now):
        job = job_of(RUNNING, due_in=-1)
        before = state_of(job)

        assert apply(told(), now=now) == [Heard.RUNNING]
        assert state_of(job) == before

    def test_are_applied_many_at_once_each_by_itself(self, job_of, told, now):
        start = job_of(state="START")
        end = job_of()

        heard = apply(told(kind=TransitionKind.START), told(phase_id="1"), told(), now=now)

        assert heard == [Heard.OVERTAKEN, Heard.IDLE, Heard.OVERTAKEN]
        assert {columns(start)["status"], columns(end)["status"]} == {"cancelled"}

    def test_keep_an_operators_name_within_the_audits_column(self, job_of, told, now):
        job = job_of()

        apply(told(operator="o" * 255), now=now)

        assert audit_of(job.job_id)[-1].actor == "kafka:" + "o" * 255


@pytest.mark.django_db
class TestOvertakenStaysOvertaken:
    def test_for_the_instant_that_upstream_still_shows(self, upstream, told, now):
        upstream(hours=1)
        job = ScheduledTransition.objects.live().get()

        apply(told(), now=now)
        upstream(hours=1)

        assert columns(job)["status"] == "cancelled"
        assert not ScheduledTransition.objects.live().exists()

    def test_until_upstream_shows_another(self, upstream, told, now):
        upstream(hours=1)
        apply(told(), now=now)

        upstream(hours=2)

        assert ScheduledTransition.objects.live().get().due_at == now + timedelta(hours=2)

    def test_also_after_clean_up(self, upstream, told, now):
        upstream(hours=1)
        apply(told(), now=now)
        clean_up(now=now + timedelta(days=2))
        assert not ScheduledTransition.objects.exists()

        upstream(hours=1)

        assert not ScheduledTransition.objects.live().exists()


@pytest.mark.django_db
class TestChallengesThatAreNotActive:
    @pytest.mark.parametrize(
        "status",
        ["DRAFT", "NEW", "APPROVED", "COMPLETED", "DELETED", "CANCELLED_CLIENT_REQUEST"],
    )
    @pytest.mark.parametrize("names_challenge", [True, False])
    def test_keep_their_jobs(self, upstream, job_of, told, now, status, names_challenge):
        upstream(status=status)
        job = job_of(challenge_id=CHALLENGE if names_challenge else None)
        before = state_of(job)
        event = told(challenge_id=CHALLENGE if names_challenge else None)

        assert apply(event, now=now) == [Heard.INACTIVE]
        assert state_of(job) == before

    def test_are_found_by_the_jobs_challenge_where_the_event_names_none(
        self, upstream, job_of, told, now
    ):
        upstream(status="DRAFT", phases=False)
        job_of()

        assert apply(told(challenge_id=None), now=now) == [Heard.INACTIVE]

    def test_are_found_by_the_events_challenge_where_the_job_names_none(
        self, upstream, job_of, told, now
    ):
        upstream(status="DRAFT", phases=False)
        job_of(challenge_id=None)

        assert apply(told(), now=now) == [Heard.INACTIVE]

    def test_are_found_by_their_project_where_nothing_names_one(
        self, upstream, job_of, told, now
    ):
        upstream(status="DRAFT", phases=False)
        job_of(challenge_id=None)

        assert apply(told(challenge_id=None), now=now) == [Heard.INACTIVE]

    @pytest.mark.parametrize("challenge_id", [CHALLENGE, None])
    def test_are_none_that_nobody_read(self, job_of, told, now, challenge_id):
        job_of(challenge_id=challenge_id)

        assert apply(told(challenge_id=challenge_id), now=now) == [Heard.OVERTAKEN]

    def test_are_not_those_of_other_challenges(self, upstream, job_of, told, now):
        upstream(status="DRAFT", challenge_id="888")
        job_of()

        assert apply(told(), now=now) == [Heard.OVERTAKEN]

    def test_do_not_keep_an_own_event_from_confirming(self, upstream, job_of, told, now):
        upstream(status="COMPLETED")
        job = job_of(UNPROVEN, due_in=-1)

        assert apply(told(event_id=str(job.event_id)), now=now) == [Heard.CONFIRMED]


@pytest.mark.django_db
class TestJobsOfUnknownOutcome:
    def test_are_searched_for_before_they_are_overtaken(self, job_of, told, now):
        job = job_of(UNPROVEN)
        before = state_of(job)

        with pytest.raises(OutcomeUnknownError) as asked:
            apply(told(), now=now)

        assert asked.value.job_ids == [job.job_id]
        assert state_of(job) == before

    def test_are_overtaken_once_they_are_known_to_be_unpublished(self, job_of, told, now):
        job = job_of(UNPROVEN)

        heard = apply(told(), now=now, proven={job.job_id: job.unproven_since})

        assert heard == [Heard.OVERTAKEN]
        assert columns(job)["status"] == "cancelled"


@pytest.mark.django_db(transaction=True)
class TestTransitionRecords:
    def a_record(self, job, *, event_id="", offset=None):
        return Record(
            cluster_id="cluster",
            topic=PHASE_TRANSITION,
            partition=0,
            offset=next(_offsets) if offset is None else offset,
            value=write_phase_transition(job),
            headers=(("event-id", event_id.encode()),) if event_id else (),
            timestamp_ms=int(datetime.now(UTC).timestamp() * 1000),
        )

    def outcomes(self):
        return list(InboxMessage.objects.order_by("id").values_list("outcome", flat=True))

    def test_of_ours_are_read_without_effect(self, job_of, now):
        job = job_of(COMPLETED, due_in=-1)
        before = state_of(job)

        handle_records([self.a_record(job, event_id=str(job.event_id))], now=now)

        assert (self.outcomes(), state_of(job)) == (["own"], before)

    def test_that_come_twice_are_applied_once(self, job_of, now):
        job = job_of()
        record = self.a_record(job, event_id="theirs-1")
        again = self.a_record(job, event_id="theirs-1")

        handle_records([record], now=now)
        handle_records([record, again], now=now)

        assert self.outcomes() == ["overtaken", "duplicate"]
        actions = [entry.action for entry in audit_of(job.job_id)]
        assert actions.count("transition.overtaken") == 1

    def test_about_one_transition_are_applied_one_after_the_other(self, job_of, now):
        job = job_of()

        handle_records([self.a_record(job), self.a_record(job)], now=now)

        assert self.outcomes() == ["overtaken", "idle"]

    def test_complete_what_is_found_instead_of_overtaking_it(
        self, job_of, now, monkeypatch
    ):
        job = job_of(UNPROVEN)
        place = unproven.FoundEvent(0, 7, now)
        monkeypatch.setattr(unproven, "find_events", lambda *_, **__: {job.event_id: place})

        handle_records([self.a_record(job, event_id="theirs-2")], now=now)

        assert (self.outcomes(), columns(job)["status"]) == (["idle"], "completed")

    def test_wait_while_the_topic_can_not_be_searched(self, job_of, now, monkeypatch):
        job = job_of(UNPROVEN)
        before = state_of(job)

        def find_events(*_, **__):
            raise ServiceUnavailableError("no topic")

        monkeypatch.setattr(unproven, "find_events", find_events)

        with pytest.raises(ServiceUnavailableError):
            handle_records([self.a_record(job, event_id="theirs-3")], now=now)

        assert (self.outcomes(), state_of(job)) == ([], before)
