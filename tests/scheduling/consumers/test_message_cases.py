"""Every case of `tests/messages/`, played on real topics with the real consume loop.

`PROMISES` says for each file what must follow, step by step and in the end. All instants
and ids in it are the files' own.
"""

import json
import logging
import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import hypothesis
import pytest
from confluent_kafka import KafkaError, KafkaException
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from hypothesis import strategies as st

from scheduling.adapters import event_publisher
from scheduling.adapters.embedded_kafka import EmbeddedKafka
from scheduling.adapters.topic_search import find_events
from scheduling.adapters.topics_admin import ensure_topics
from scheduling.domain.actors import CONSUMER, Role, user_actor
from scheduling.domain.challenges import Challenge, Phase, Reading
from scheduling.domain.phases import format_instant
from scheduling.models import (
    AuditEntry,
    InboxMessage,
    OutgoingRecord,
    ScheduledTransition,
)
from scheduling.models import Challenge as ChallengeRow
from scheduling.services import get_all_scheduled_transitions, schedule_phase_transition
from scheduling.services.apply_challenge import apply_challenge
from scheduling.services.run_now import run_transition_now
from scheduling.topics import (
    ALL_TOPICS,
    CHALLENGE_UPDATE,
    COMMAND_RESULT,
    PHASE_TRANSITION,
)
from tests.support.any_records import any_record
from tests.support.claiming import claim_due
from tests.support.consumer import (
    dead_letters,
    original_bytes,
    original_place,
    running_consumer,
    wait_until,
)
from tests.support.histories import chain_breaks
from tests.support.message_cases import load, names
from tests.support.raw_producer import send_with_headers

# Plays share one consumer and one database, and each has ids of its own.
pytestmark = [pytest.mark.alone, pytest.mark.timeout(60)]
PERSON = user_actor("olivia", role=Role.OPERATOR)
NAMES_OF_PHASES = {"67890": "Registration", "67891": "Submission", "67892": "Review"}


# --- What may follow ------------------------------------------------------------------
@dataclass(frozen=True)
class Taken:
    """The record is understood: no dead letter, no answer."""


@dataclass(frozen=True)
class Dead:
    """The record is set aside; the reason names this."""

    names: str
    code: str = "invalid_request"


@dataclass(frozen=True)
class Done:
    """The command is carried out, and answered with so many job ids."""

    jobs: int


@dataclass(frozen=True)
class Refused:
    """The command is answered with one of these codes; the message names this."""

    codes: tuple[str, ...]
    names: str = ""


@dataclass(frozen=True)
class Unread:
    """Nobody reads that topic."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What follows from one play of a case.

    steps: one outcome for each record, in the order delivered.
    live: the live jobs in the end.
    audit: the actions audited since the first delivery, for jobs; each job's own are
        checked to follow from one another.
    status: what upstream showed of the challenge before, instead of the case's word.
    plant: jobs there before, instead of the case's; of the challenge where `is_linked`,
        else only of the project.
    """

    steps: tuple = ()
    live: tuple[str, ...] = ()
    audit: tuple[str, ...] = ()
    status: str | None = None
    plant: tuple[str, ...] | None = None
    is_linked: bool = True


TAKEN = Taken()
MOVED = ("transition.updated", "transition.scheduled")
END = "END of 67890 at 2026-03-07T17:00:00.000Z"
INVALID_TIME = Refused(("invalid_schedule_time",), "date")
MISSING = ("invalid_request", "invalid_phase_data")


def nothing(steps):
    """Promise that so many records change nothing: where there is a job, and where none."""
    return Promise(steps=(TAKEN,) * steps)


def overtaken(steps=1, *, job=END, **more):
    """Promise that a foreign event cancels the job that it settles, once."""
    return Promise(
        steps=(TAKEN,) * steps, plant=(job,), audit=("transition.overtaken",), **more
    )


def over(**more):
    """Promise that the jobs of a challenge that is over are cancelled."""
    return Promise(steps=(TAKEN,), audit=("transition.cancelled",), **more)


# A file that is not played here, and what plays it.
ELSEWHERE = {
    "order_kafka_down_at_fire.json": "tests/faults/test_outages.py: it takes a cluster",
    "order_overdue_at_start.json": "what recovery does at its start, and no record",
    "duplicate_schedule_same_phase.json": "TestPythonCalls below: no record either",
    "order_update_while_running.json": "TestCommandWhileItsJobRuns below",
}
PROMISES: dict[str, tuple[Promise, ...]] = {
    # --- transitions: a foreign one settles a live job's identity, and nothing else
    "valid_phase_transition_end.json": (
        nothing(1),
        overtaken(),
        overtaken(is_linked=False),
        Promise(steps=(TAKEN,), status="COMPLETED", plant=(END,), live=(END,)),
        Promise(steps=(TAKEN,), status="DRAFT", plant=(END,), live=(END,)),
    ),
    "valid_phase_transition_start.json": (
        nothing(1),
        overtaken(job="START of 67891 at 2026-03-02T12:01:00.000Z"),
        Promise(
            steps=(TAKEN,),
            plant=("END of 67891 at 2026-03-03T12:00:00.000Z",),
            live=("END of 67891 at 2026-03-03T12:00:00.000Z",),
        ),
    ),
    "valid_phase_transition_no_date.json": (nothing(1), overtaken()),
    "valid_phase_transition_uuid.json": (nothing(1), overtaken()),
    "valid_envelope_mime_dash.json": (nothing(1), overtaken()),
    "valid_extra_fields.json": (nothing(1), overtaken()),
    "duplicate_same_record.json": (nothing(3), overtaken(3)),
    "duplicate_new_correlation.json": (nothing(2), overtaken(2)),
    # The challenge is judged by what was read of it, whatever the record says.
    "invalid_not_active.json": (
        nothing(9),
        overtaken(9),
        Promise(
            steps=(TAKEN,) * 9,
            status="CANCELLED_ZERO_REGISTRATIONS",
            plant=(END,),
            live=(END,),
        ),
    ),
    "invalid_unknown_ids.json": (
        nothing(2),
        Promise(steps=(TAKEN,) * 2, plant=(END,), live=(END,)),
    ),
    "invalid_wrong_state.json": (nothing(2),),
    "order_end_before_start.json": (nothing(2),),
    "order_cancel_then_fire.json": (
        Promise(steps=(TAKEN, TAKEN), audit=("transition.cancelled",)),
    ),
    # --- challenges
    "valid_challenge_update_active_basic.json": (Promise(steps=(TAKEN,), live=(END,)),),
    "valid_challenge_update_with_phases.json": (
        Promise(
            steps=(TAKEN,),
            live=(
                "END of 67890 at 2026-03-10T17:00:00.000Z",
                "END of 67891 at 2026-03-12T17:00:00.000Z",
                "END of 67892 at 2026-03-14T17:00:00.000Z",
            ),
            audit=MOVED * 3,
        ),
    ),
    "valid_challenge_update_cancelled.json": (over(), over(is_linked=False)),
    "valid_challenge_update_completed.json": (over(), over(is_linked=False)),
    "valid_challenge_notification_create_draft.json": (nothing(1),),
    "valid_challenge_notification_update.json": (
        Promise(
            steps=(TAKEN,),
            live=(
                END,
                "START of 67891 at 2026-03-07T17:00:00.000Z",
                "END of 67891 at 2026-03-09T17:00:00.000Z",
                "START of 67892 at 2026-03-09T17:00:00.000Z",
                "END of 67892 at 2026-03-11T17:00:00.000Z",
                "START of 67893 at 2026-03-11T17:00:00.000Z",
                "END of 67893 at 2026-03-12T17:00:00.000Z",
                "START of 67894 at 2026-03-12T17:00:00.000Z",
                "END of 67894 at 2026-03-13T05:00:00.000Z",
            ),
            audit=("transition.scheduled",) * 9,
        ),
    ),
    "valid_challenge_notification_update_empty_phases.json": (
        Promise(steps=(TAKEN,), live=(END,)),
    ),
    "duplicate_update_no_change.json": (
        Promise(
            steps=(TAKEN,) * 10,
            live=(
                END,
                "END of 67891 at 2026-03-09T17:00:00.000Z",
                "END of 67892 at 2026-03-11T17:00:00.000Z",
            ),
            audit=("transition.scheduled",) * 2,
        ),
    ),
    "order_update_into_past.json": (
        Promise(
            steps=(TAKEN,),
            live=("END of 67890 at 2026-03-02T11:00:00.000Z",),
            audit=MOVED,
        ),
    ),
    # --- commands
    "valid_command_cancel_schedule_phase.json": (
        Promise(steps=(Done(jobs=1),), audit=("transition.cancelled",)),
        Promise(steps=(Refused(("job_not_found",)),), plant=()),
    ),
    "valid_command_cancel_schedule_all.json": (
        Promise(steps=(Done(jobs=1),), audit=("transition.cancelled",)),
        Promise(steps=(Done(jobs=0),), plant=()),
    ),
    "valid_command_reschedule_phase.json": (
        Promise(
            steps=(Done(jobs=1),),
            live=("END of 67890 at 2026-03-08T09:30:00.000Z",),
            audit=MOVED,
        ),
        Promise(steps=(Refused(("job_not_found",)),), plant=()),
    ),
    "valid_dst_boundary.json": (
        Promise(
            steps=(Done(jobs=1),),
            live=("END of 67890 at 2026-03-08T07:30:00.000Z",),
            audit=MOVED,
        ),
    ),
    "invalid_bad_dates.json": (Promise(steps=(INVALID_TIME,) * 12, live=(END,)),),
    "invalid_command_missing_args.json": (
        Promise(
            steps=(
                Refused(MISSING, "projectId"),
                Refused(MISSING, "date"),
                Refused(MISSING, "phaseId"),
            ),
            live=(END,),
        ),
    ),
    "invalid_past_schedule.json": (
        Promise(
            steps=(
                Refused(("past_schedule_time",)),
                Refused(("past_schedule_time",)),
                # Half a second ahead when it was sent.
                Refused(("schedule_too_soon", "past_schedule_time")),
            ),
            live=(END,),
        ),
    ),
    "invalid_unknown_command.json": (Promise(steps=(Dead("payload.command"),) * 4),),
    # --- what can't be understood
    "invalid_not_json.json": (Promise(steps=(Dead("is not JSON"),) * 4),),
    "invalid_tombstone.json": (Promise(steps=(Dead("has no value"),)),),
    "invalid_json_scalar_or_array.json": (Promise(steps=(Dead("must be an object"),) * 5),),
    "invalid_binary.json": (Promise(steps=(Dead("is not UTF-8"), Dead("is not JSON"))),),
    "invalid_missing_payload.json": (
        Promise(
            steps=(
                Dead("payload: is required"),
                Dead("payload: must be an object"),
                Dead("payload: must be an object"),
                Dead("payload: must be an object"),
            )
        ),
    ),
    "invalid_missing_fields.json": (
        Promise(
            steps=tuple(
                Dead(f"payload.{name}: is required")
                for name in (
                    "projectId",
                    "phaseId",
                    "phaseTypeName",
                    "state",
                    "operator",
                    "projectStatus",
                )
            )
        ),
    ),
    "invalid_wrong_types.json": (
        Promise(
            steps=(
                *[Dead("payload.projectId: must be a positive integer")] * 7,
                *[Dead("payload.phaseId: must be a positive integer")] * 2,
                *[Dead("payload.phaseTypeName: must not be blank")] * 2,
                Dead("payload.phaseTypeName: must be a text"),
                *[Dead("payload.state: must be START or END")] * 3,
                Dead("payload.operator: must not be blank"),
                Dead("payload.projectStatus: must be a text"),
            )
        ),
    ),
    "invalid_hostile_strings.json": (
        Promise(
            steps=(
                *[TAKEN] * 5,
                Dead("NUL"),
                Dead("payload.phaseTypeName: must hold at most 255 characters"),
                Dead("lone surrogate"),
            )
        ),
    ),
    "invalid_unknown_topic.json": (Promise(steps=(Unread(), Dead("topic"))),),
    "invalid_oversized.json": (
        Promise(
            steps=(
                Dead("bytes", code="payload_too_large"),
                Dead("payload.metadata"),
            )
        ),
    ),
}


# --- The neighbours, one of each for all cases ----------------------------------------
@pytest.fixture(scope="module")
def cluster():
    """Let all clients of this module use one cluster with our topics."""
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        ensure_topics(settings.KAFKA_CLIENT, partitions=3)
        yield
        return
    topics = dict.fromkeys([*ALL_TOPICS, "autopilot.unknown"], 3)
    with (
        EmbeddedKafka(topics=topics) as broker,
        pytest.MonkeyPatch.context() as patch,
    ):
        address = {"bootstrap.servers": broker.bootstrap}
        patch.setattr(settings, "KAFKA_CLIENT", settings.KAFKA_CLIENT | address)
        # The process's publisher may be one that an earlier test's broker was left with.
        patch.setattr(event_publisher, "_publisher", None)
        yield


@pytest.fixture(scope="module")
def consumer(cluster, django_db_setup, django_db_blocker):
    """Return a consumer that runs for all tests of this module."""
    with django_db_blocker.unblock():
        with running_consumer() as consumer:
            yield consumer
        call_command("flush", interactive=False, verbosity=0)
        connections.close_all()


@pytest.fixture(autouse=True)
def transactional_db(consumer):
    """Leave the database to the consumer: nothing is flushed between two plays."""


# --- What was there before ------------------------------------------------------------
def prepare(case, promise):
    """Show what upstream had shown, and make the jobs that there were."""
    status = promise.status or case.preconditions.get("challenge")
    if status is not None:
        phases = tuple(
            _phase(case, number, words)
            for number, words in case.preconditions.get("phases", {}).items()
        )
        # As a draft first: its phases are known then, and no job is made of them.
        _show(case, "DRAFT", phases)
        if status != "DRAFT":
            _show(case, status, ())
    jobs = case.preconditions.get("jobs", [])
    if promise.plant is not None:
        jobs = [_in_words_of_the_play(case, job) for job in promise.plant]
    for job in jobs:
        _plant(case, job, is_linked=promise.is_linked)


def _in_words_of_the_play(case, job):
    state, _, phase, _, instant = job.split()
    return f"{state} of {case.ids[phase]} at {format_instant(case.instant(instant))}"


def _plant(case, job, *, is_linked):
    state, _, number, _, instant = job.split()
    original = {new: old for old, new in case.ids.items()}[number]
    data = {
        "projectId": int(case.project_id),
        "phaseId": _wire(case.phase_id(original)),
        "phaseTypeName": NAMES_OF_PHASES[original],
        "state": state,
        "endTime": instant,
        "operator": "admin",
        "projectStatus": "ACTIVE",
    }
    if is_linked:
        data["challengeId"] = _wire(case.challenge_id)
    schedule_phase_transition(data, actor=PERSON)


def _wire(text):
    return int(text) if text.isdigit() else text


def _phase(case, number, words):
    original = {new: old for old, new in case.ids.items()}[number]
    hour = timedelta(hours=1)
    begun = datetime.now(UTC) - hour
    dates = {}
    if words.startswith("open, ends "):
        dates = {
            "actual_start_at": begun,
            "scheduled_end_at": datetime.fromisoformat(words.split()[-1]),
        }
    elif words == "closed":
        dates = {"actual_start_at": begun, "actual_end_at": begun + hour / 2}
    elif words == "not started, due":
        dates = {"scheduled_start_at": begun + hour}
    else:
        assert words == "not started", words
    return Phase(phase_id=case.phase_id(original), name=NAMES_OF_PHASES[original], **dates)


def _show(case, status, phases):
    apply_challenge(
        Reading(
            challenge=Challenge(
                challenge_id=case.challenge_id,
                project_id=case.project_id,
                status=status,
                phases=phases,
            ),
            source="before the case",
        ),
        actor=CONSUMER,
        now=datetime.now(UTC),
    )


# --- What follows ---------------------------------------------------------------------
class Play:
    """One case, its consumer, and where its records went."""

    def __init__(self, case, consumer):
        self.case = case
        self.consumer = consumer
        self.places = []
        self.rejected = {}

    def deliver(self, record, outcome):
        """Deliver a record and check what becomes of it."""
        answers = _last_outgoing()
        try:
            place = self.consumer.sender.send(
                record.topic, record.value, key=self.case.key, headers=record.headers
            )
        except KafkaException as error:
            _check_the_broker_may_refuse(error, outcome)
            return
        if isinstance(outcome, Unread):
            return
        row = self.consumer.wait_handled([place])[place]
        self.places.append(place)
        letter = dead_letters({place}).get(place)
        if isinstance(outcome, Dead):
            assert letter is not None, f"is not set aside, but {row.outcome}: {row.detail}"
            self.rejected[place] = record
            self._check_set_aside(letter, place, record, outcome)
        else:
            assert letter is None, f"is set aside: {letter.message}"
            assert row.outcome not in {"refused", "failed"}, row.detail
        given = list(OutgoingRecord.objects.filter(pk__gt=answers, topic=COMMAND_RESULT))
        if isinstance(outcome, Done | Refused):
            (answer,) = given
            self._check_answer(answer, record, outcome)
        else:
            assert given == []

    def _check_set_aside(self, letter, place, record, outcome):
        """The table and the dead letters' topic have the record, and why."""
        assert outcome.names in letter.message, letter.message
        assert letter.code == outcome.code
        assert (letter.category, letter.status) == ("validation", "new")
        assert _bytes(letter.value) == record.value
        assert _bytes(letter.key) == self.case.key
        (found,) = self.consumer.watcher.wait_for(
            lambda one: one.topic == f"{place[0]}.dlq" and original_place(one) == place,
            what=f"the dead letter of {place}",
        )
        assert found.envelope["topic"] == found.topic
        if found.payload.get("truncated"):
            assert found.payload["originalMessage"] is None
            assert len(record.value) > 500_000
        else:
            assert original_bytes(found) == record.value
        assert found.payload["originalKey"] == self.case.key.decode()
        assert found.payload["error"]["code"] == letter.code
        assert found.payload["error"]["category"] == "validation"
        assert found.payload["error"]["message"] == letter.message
        assert found.payload["error"]["errors"], "the errors name field and cause"
        assert found.payload["timestamp"] == format_instant(letter.set_aside_at)

    def _check_answer(self, answer, record, outcome):
        """The answer that is owed stands on its topic, once."""
        (found,) = self.consumer.watcher.wait_for(
            lambda one: one.headers.get("event-id") == str(answer.event_id),
            what="the answer",
        )
        payload = found.payload
        asked = json.loads(record.value)["payload"]
        assert found.topic == COMMAND_RESULT == found.envelope["topic"]
        assert payload["command"] == asked["command"]
        assert payload["correlationId"] == record.headers.get("correlation-id")
        assert isinstance(payload["message"], str)
        if isinstance(outcome, Done):
            assert payload["success"] is True, payload
            assert len(payload["jobIds"]) == outcome.jobs
        else:
            assert payload["success"] is False, payload
            assert payload["code"] in outcome.codes, payload
            assert outcome.names in payload["message"]
            assert payload["jobIds"] == []

    def jobs(self):
        """Return all jobs of the case, live and past, oldest first."""
        return list(
            ScheduledTransition.objects.filter(project_id=self.case.project_id).order_by(
                "id"
            )
        )

    def live(self):
        """Return the live jobs of the case in the files' words."""
        rows = ScheduledTransition.objects.live().filter(project_id=self.case.project_id)
        return sorted(self.case.describe(job) for job in rows)

    def audit(self):
        """Return the actions audited for jobs of the case, oldest first."""
        entries = AuditEntry.objects.filter(project_id=self.case.project_id)
        return list(
            entries.exclude(job_id="").order_by("id").values_list("action", flat=True)
        )

    def check_all_goes_on(self):
        """The consumer lives, and a valid record sent now is handled."""
        number = int(load("valid_challenge_update_completed.json", now=_now()).project_id)
        place = self.consumer.sender.send(
            CHALLENGE_UPDATE, _valid_update(number), key=self.case.key
        )
        self.consumer.wait_handled([place])
        made = ScheduledTransition.objects.live().filter(project_id=str(number))
        assert made.count() == 2
        self.consumer.wait_committed([*self.places, place])
        assert len(dead_letters(set(self.places))) == len(self.rejected)
        assert len(get_all_scheduled_transitions()) >= 2
        breaks = [line for job in self.jobs() for line in chain_breaks(job.job_id)]
        assert breaks == []


def _bytes(value):
    return None if value is None else bytes(value)


def _last_outgoing():
    last = OutgoingRecord.objects.order_by("-id").first()
    return last.pk if last else 0


def _check_the_broker_may_refuse(error, outcome):
    """Only what is too large for a topic, or has none, may be refused by the broker."""
    code = error.args[0].code()
    if isinstance(outcome, Unread):
        assert code in {
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_TOPIC,
        }
    else:
        assert (code, outcome.code) == (KafkaError.MSG_SIZE_TOO_LARGE, "payload_too_large")


def _now():
    instant = datetime.now(UTC)
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def _valid_update(number, *, hours=5):
    now = _now()
    phases = [
        {
            "phaseId": phase,
            "phaseTypeName": "Registration",
            "endTime": format_instant(now + timedelta(hours=hours)),
        }
        for phase in (1, 2)
    ]
    payload = {
        "projectId": number,
        "challengeId": number,
        "status": "ACTIVE",
        "operator": "admin",
        "phases": phases,
    }
    return json.dumps(
        {
            "topic": CHALLENGE_UPDATE,
            "originator": "tests",
            "timestamp": format_instant(now),
            "mimeType": "application/json",
            "payload": payload,
        }
    ).encode()


def check_log(caplog):
    """No line of the log is broken, forged or endless."""
    for entry in caplog.records:
        line = entry.getMessage()
        assert line.isprintable(), line
        assert len(line) < 2_000, line[:200]
        assert entry.exc_info is None, line


PLAYS = [
    pytest.param(name, promise, id=f"{name.removesuffix('.json')}-{number}")
    for name, promises in sorted(PROMISES.items())
    for number, promise in enumerate(promises, 1)
]


class TestCases:
    def test_are_all_known(self):
        assert names() == sorted([*PROMISES, *ELSEWHERE])

    @pytest.mark.parametrize(("name", "promise"), PLAYS)
    def test_have_their_outcomes(self, name, promise, consumer, caplog):
        case = load(name, now=_now())
        prepare(case, promise)
        play = Play(case, consumer)
        before = play.audit()
        records = case.records()
        assert len(records) == len(promise.steps)

        with caplog.at_level(logging.DEBUG):
            for record, outcome in zip(records, promise.steps, strict=True):
                play.deliver(record, outcome)
            play.check_all_goes_on()

        assert play.live() == sorted(promise.live)
        assert sorted(play.audit()[len(before) :]) == sorted(promise.audit)
        check_log(caplog)

    def test_have_the_same_outcomes_all_at_once(self, consumer, caplog):
        """Many records a batch, of many challenges, garbage among them."""
        plays = [
            (Play(load(name, now=_now()), consumer), promises[0])
            for name, promises in PROMISES.items()
            # The first is about two topics, which have no common order; of the second
            # the broker decides.
            if name not in {"order_cancel_then_fire.json", "invalid_oversized.json"}
        ]
        for play, promise in plays:
            prepare(play.case, promise)
        audited = [len(play.audit()) for play, _ in plays]
        before = _last_outgoing()
        sent = [
            (play, record, outcome)
            for play, promise in plays
            for record, outcome in zip(play.case.records(), promise.steps, strict=True)
            if not isinstance(outcome, Unread)
        ]

        with caplog.at_level(logging.DEBUG):
            places = consumer.sender.send_all(
                [
                    (record.topic, record.value, play.case.key, record.headers)
                    for play, record, _ in sent
                ]
            )
            consumer.wait_handled(places)
            plays[0][0].check_all_goes_on()
            consumer.wait_committed(places)

        letters = dead_letters(set(places))
        expected = {
            place: record.value
            for place, (_, record, outcome) in zip(places, sent, strict=True)
            if isinstance(outcome, Dead)
        }
        assert {at: _bytes(letter.value) for at, letter in letters.items()} == expected
        for (play, promise), entries in zip(plays, audited, strict=True):
            assert play.live() == sorted(promise.live), play.case.name
            assert sorted(play.audit()[entries:]) == sorted(promise.audit), play.case.name
        answers = sum(isinstance(outcome, Done | Refused) for _, _, outcome in sent)
        owed = OutgoingRecord.objects.filter(topic=COMMAND_RESULT, pk__gt=before)
        assert owed.count() == answers
        wait_until(
            lambda: not OutgoingRecord.objects.filter(acknowledged_at=None).exists(),
            what="the acknowledgement of all answers and dead letters",
        )
        check_log(caplog)


class TestAnyRecords:
    @hypothesis.settings(
        deadline=None,
        max_examples=10,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(batch=st.lists(any_record(), min_size=30, max_size=30))
    def test_are_handled_or_set_aside_whole_by_the_real_loop(self, batch, consumer, caplog):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            places = consumer.sender.send_all(batch)
            rows = consumer.wait_handled(places)

        letters = dead_letters(set(places))
        for place, (_, value, key, _) in zip(places, batch, strict=True):
            assert rows[place].outcome != "failed", (rows[place].detail, value)
            assert (rows[place].outcome == "refused") == (place in letters)
            if place in letters:
                letter = letters[place]
                assert (_bytes(letter.value), _bytes(letter.key)) == (value, key)
        found = consumer.watcher.wait_for(
            lambda one: one.topic.endswith(".dlq") and original_place(one) in letters,
            number=len(letters),
            what=f"{len(letters)} dead letters",
        )
        assert {original_place(one): original_bytes(one) for one in found} == {
            place: _bytes(letter.value) for place, letter in letters.items()
        }
        consumer.wait_committed(places)
        check_log(caplog)


class TestUnreadableHeaders:
    @pytest.mark.parametrize("name", [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b""])
    def test_keep_no_record_from_being_handled_once(self, name, consumer):
        """What confluent-kafka hands out for such a name ends whoever touches it."""
        number = int(load("valid_extra_fields.json", now=_now()).project_id)
        bootstrap = settings.KAFKA_CLIENT["bootstrap.servers"]
        headers = [(name, b"1"), (b"event-id", b"e-%d" % number), (name, b"")]

        for due_in in (5, 6):
            value = _valid_update(number, hours=due_in)
            send_with_headers(bootstrap, CHALLENGE_UPDATE, value, headers)
        place = consumer.sender.send(CHALLENGE_UPDATE, b"garbage")

        consumer.wait_handled([place])
        jobs = ScheduledTransition.objects.filter(project_id=str(number))
        wait_until(lambda: jobs.count() == 2, what="the jobs")
        rows = InboxMessage.objects.filter(outcome="duplicate", detail__contains=number)
        wait_until(rows.exists, what="the second, known by its event id")

    def test_hide_no_event_from_a_search(self, consumer):
        event_id = uuid.uuid4()
        began_at = _now() - timedelta(seconds=5)
        bootstrap = settings.KAFKA_CLIENT["bootstrap.servers"]
        headers = [(b"\xff", b"1"), (b"event-id", str(event_id).encode())]
        for _ in range(10):
            send_with_headers(bootstrap, PHASE_TRANSITION, b"x", headers[:1])
        send_with_headers(bootstrap, PHASE_TRANSITION, b"x", headers)

        found = find_events({event_id: began_at}, timeout_seconds=10)

        assert found.keys() == {event_id}


class TestMovedPhases:
    def test_tell_in_the_audit_what_was_when_and_who_moved_it(self, consumer):
        case = load("valid_challenge_update_with_phases.json", now=_now())
        promise = PROMISES["valid_challenge_update_with_phases.json"][0]
        prepare(case, promise)
        play = Play(case, consumer)

        play.deliver(case.records()[0], TAKEN)

        *old, one, two, three = play.jobs()
        assert [job.status for job in old] == ["cancelled"] * 3
        assert {job.job_id: job.replaces for job in (one, two, three)} == {
            job.replaced_by: job.job_id for job in old
        }
        for job in old:
            moved = AuditEntry.objects.get(action="transition.updated", job_id=job.job_id)
            new = ScheduledTransition.objects.get(job_id=job.replaced_by)
            assert moved.changes["endTime"] == [
                format_instant(job.due_at),
                format_instant(job.due_at + timedelta(days=3)),
            ]
            assert new.due_at == job.due_at + timedelta(days=3)
            assert moved.changes["replacedBy"] == new.job_id
            assert "admin" in moved.reason


class TestUpdateIntoThePast:
    def test_is_due_at_once_and_once_only(self, consumer):
        case = load("order_update_into_past.json", now=_now())
        prepare(case, PROMISES[case.name][0])
        play = Play(case, consumer)

        play.deliver(case.records()[0], TAKEN)
        _, claimed = claim_due()
        _, again = claim_due()

        ours = [job for job in claimed if job.project_id == case.project_id]
        assert len(ours) == 1
        assert not [job for job in again if job.project_id == case.project_id]


class TestUpdatesWithoutPhases:
    @pytest.mark.parametrize(
        "name",
        [
            "valid_challenge_update_active_basic.json",
            "valid_challenge_notification_update_empty_phases.json",
        ],
    )
    def test_mark_the_challenge_to_be_read(self, name, consumer):
        case = load(name, now=_now())
        prepare(case, PROMISES[name][0])
        rows = ChallengeRow.objects.filter(challenge_id=case.challenge_id)
        rows.update(must_be_read_since=None)
        play = Play(case, consumer)

        play.deliver(case.records()[0], TAKEN)

        assert rows.get().must_be_read_since is not None


class TestCommands:
    @pytest.fixture
    def command(self):
        """Return a play of a command with a job, and its payload."""
        case = load("valid_command_reschedule_phase.json", now=_now())
        prepare(case, PROMISES[case.name][0])
        return case, case.steps[0]["value"]["payload"]

    def test_are_done_in_the_operators_name(self, consumer, command):
        case, _ = command
        play = Play(case, consumer)

        play.deliver(case.records()[0], Done(jobs=1))

        old, new = play.jobs()
        assert (old.status, old.replaced_by, new.replaces) == (
            "cancelled",
            new.job_id,
            old.job_id,
        )
        actors = AuditEntry.objects.filter(job_id__in=[new.job_id], action__contains="sch")
        assert set(actors.values_list("actor", flat=True)) == {"kafka:admin"}

    @pytest.mark.parametrize(
        ("header", "told", "expected"),
        [("h-1", None, "h-1"), (None, "p-1", "p-1"), ("h-1", "p-1", "h-1")],
    )
    def test_are_answered_with_their_correlation_id(
        self, header, told, expected, consumer, command
    ):
        case, payload = command
        expected += case.project_id
        if told:
            payload["correlationId"] = told + case.project_id
        if header:
            case.steps[0]["headers"] = {"correlation-id": header + case.project_id}
        (record,) = case.records()

        consumer.sender.send(record.topic, record.value, headers=record.headers)

        (answer,) = consumer.watcher.wait_for(
            lambda one: one.payload.get("correlationId") == expected, what="the answer"
        )
        assert answer.headers["correlation-id"] == expected
        assert answer.payload["success"] is True

    @pytest.mark.parametrize(
        "operator", ["nobody", "Admin", "ADMIN", "system_x", " admin", "", None]
    )
    def test_of_others_are_refused_and_audited(self, operator, consumer, command):
        case, payload = command
        payload["operator"] = operator
        if operator is None:
            del payload["operator"]
        play = Play(case, consumer)
        codes = ("permission_denied", *MISSING) if not operator else ("permission_denied",)

        play.deliver(case.records()[0], Refused(codes))

        assert play.live() == [END]
        refusals = AuditEntry.objects.filter(job_id="", project_id=case.project_id)
        assert refusals.exists()

    @pytest.mark.parametrize("operator", ["admin", "system", "system-recovery", "system-"])
    def test_of_the_allowed_are_done(self, operator, consumer, command):
        case, payload = command
        payload["operator"] = operator
        payload["command"] = payload["command"].upper()
        play = Play(case, consumer)

        play.deliver(case.records()[0], Done(jobs=1))

        ours = AuditEntry.objects.filter(project_id=case.project_id)
        assert ours.filter(actor=f"kafka:{operator}").exists()

    @pytest.mark.parametrize("step", range(4))
    def test_that_are_unknown_are_answered_too_where_they_can_be(self, step, consumer):
        case = load("invalid_unknown_command.json", now=_now())
        record = case.records()[step]
        correlation_id = f"unknown-{step}-{case.project_id}"

        place = consumer.sender.send(
            record.topic, record.value, headers={"correlation-id": correlation_id}
        )

        (answer,) = consumer.watcher.wait_for(
            lambda one: one.payload.get("correlationId") == correlation_id,
            what="the answer",
        )
        assert (answer.payload["success"], answer.payload["jobIds"]) == (False, [])
        assert answer.payload["code"] == "invalid_request"
        assert place in dead_letters({place})


class TestCommandWhileItsJobRuns:
    def test_is_refused_and_the_job_goes_on(self, consumer):
        case = load("order_update_while_running.json", now=_now())
        prepare(case, Promise())
        (job,) = ScheduledTransition.objects.filter(project_id=case.project_id)
        run_transition_now(job_id=job.job_id, actor=PERSON, reason="now", now=_now())
        _, claimed = claim_due()
        assert job.job_id in [one.job_id for one in claimed]
        (both,) = case.steps
        case.steps = [step for step in both["parallel"] if "topic" in step]
        play = Play(case, consumer)

        play.deliver(case.records()[0], Refused(("job_not_updatable",)))

        play.check_all_goes_on()
        (only,) = play.jobs()
        assert (only.job_id, only.status, only.due_at) == (
            job.job_id,
            "running",
            job.due_at,
        )


class TestPythonCalls:
    def test_for_the_same_transition_return_the_same_job(self):
        case = load("duplicate_schedule_same_phase.json", now=_now())

        ids = {schedule_phase_transition(step["args"], actor=PERSON) for step in case.steps}

        assert len(ids) == 1
        rows = ScheduledTransition.objects.live().filter(project_id=case.project_id)
        assert [row.job_id for row in rows] == list(ids)


class TestSecrets:
    SECRET = "s3cr3t-that-nobody-may-read"  # noqa: S105 -- of nothing

    @pytest.mark.parametrize(
        "place",
        ["projectId", "phaseTypeName", "state", "operator", "date", "apiToken", "topic"],
    )
    @pytest.mark.parametrize(
        "name", ["valid_phase_transition_end.json", "valid_command_reschedule_phase.json"]
    )
    def test_in_a_field_never_reach_the_log(self, place, name, consumer, caplog):
        case = load(name, now=_now())
        value = case.steps[0]["value"]
        (value if place == "topic" else value["payload"])[place] = self.SECRET

        with caplog.at_level(logging.DEBUG):
            (record,) = case.records()
            sent = consumer.sender.send(
                record.topic, record.value, headers={"authorization": self.SECRET}
            )
            consumer.wait_handled([sent])
            Play(case, consumer).check_all_goes_on()

        assert self.SECRET not in caplog.text

    @pytest.mark.parametrize(
        "value",
        [
            f"password={SECRET}",
            f'{{"a": "{SECRET}", "a": 2}}',
            f'{{"topic": NaN, "a": "{SECRET}"}}',
            f'["{SECRET}"]',
        ],
    )
    def test_in_garbage_never_reach_the_log(self, value, consumer, caplog):
        with caplog.at_level(logging.DEBUG):
            place = consumer.sender.send(CHALLENGE_UPDATE, value.encode())
            consumer.wait_handled([place])

        assert place in dead_letters({place})
        assert self.SECRET not in caplog.text
