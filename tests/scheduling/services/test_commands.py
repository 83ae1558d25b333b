"""Commands: each carried out or refused, audited, and answered once."""

import json
from datetime import timedelta
from itertools import count

import pytest
from django.db import DatabaseError, connection

from scheduling.domain.commands import CommandName
from scheduling.domain.errors import JobNotCancellableError, ServiceUnavailableError
from scheduling.domain.phases import format_instant
from scheduling.domain.records import Record
from scheduling.messages import UnusableMessageError, read_given_command
from scheduling.models import (
    AuditEntry,
    DeadLetter,
    InboxMessage,
    OutgoingRecord,
    ScheduledTransition,
)
from scheduling.services import commands, unproven
from scheduling.services.commands import Done, handle_command, register_command
from scheduling.services.incoming import handle_records
from scheduling.services.unproven import OutcomeUnknownError
from scheduling.topics import COMMAND, COMMAND_RESULT
from tests.support.histories import (
    COMPLETED,
    RUNNING,
    SCHEDULED,
    UNPROVEN,
    audit_of,
    chain_breaks,
    columns,
    make_job,
    state_of,
)

CHALLENGE = "0b1e7a52-6f0c-4c1d-9a53-1f2d3c4b5a60"
_offsets = count()


@pytest.fixture
def give(now):
    """Return a giver of commands, by the admin unless told otherwise."""

    def one(name, *, proven=None, **fields):
        payload = {"command": name, "operator": "admin", **fields}
        payload = {key: value for key, value in payload.items() if value is not ...}
        return handle_command(read_given_command(payload), now=now, proven=proven)

    return one


@pytest.fixture
def phases(now):
    """Return a maker of jobs of project 12345 and the challenge, one for each state."""

    def make(*states, phase_id="67890", history=SCHEDULED, **fields):
        values = {"project_id": "12345", "challenge_id": CHALLENGE, **fields}
        return [
            make_job(history, now=now, phase_id=phase_id, state=state, **values)
            for state in states
        ]

    return make


def answers():
    """Return the payloads of the answers that are owed, in the order of their writing."""
    rows = OutgoingRecord.objects.filter(topic=COMMAND_RESULT).order_by("id")
    return [json.loads(bytes(row.value))["payload"] for row in rows]


def status_of(*jobs):
    return [columns(job)["status"] for job in jobs]


def in_hours(now, hours):
    return format_instant(now + timedelta(hours=hours))


@pytest.mark.django_db
class TestHandleCommand:
    def test_is_answered_with_what_was_done(self, give, phases):
        (job,) = phases("END")

        result = give("Cancel_Schedule", projectId=12345, correlationId="c-1")

        row = OutgoingRecord.objects.get()
        assert (row.topic, bytes(row.key)) == (COMMAND_RESULT, b"12345")
        assert row.headers == {
            "correlation-id": "c-1",
            "content-type": "application/json",
        }
        assert answers() == [
            {
                "command": "Cancel_Schedule",
                "correlationId": "c-1",
                "success": True,
                "code": None,
                "message": "1 cancelled",
                "jobIds": [job.job_id],
            }
        ]
        assert result.job_ids == [job.job_id]

    def test_is_answered_with_why_it_was_refused(self, give):
        give("cancel_schedule")

        (answer,) = answers()
        assert (answer["success"], answer["code"]) == (False, "invalid_request")
        assert answer["message"] == "projectId: is required, or challengeId"
        assert (answer["correlationId"], answer["jobIds"]) == (None, [])

    def test_is_audited_in_the_operators_name(self, give, phases, now):
        phases("END")

        give(
            "cancel_scheduled_transition",
            operator="system-sync",
            projectId=12345,
            phaseId=67890,
            state="END",
            correlationId="c" * 80,
            metadata={"secret": "hunter2"},
        )

        entry = AuditEntry.objects.get(action="command.done")
        assert (entry.actor, entry.role, entry.at) == ("kafka:system-sync", "operator", now)
        assert (entry.project_id, entry.phase_id, entry.state) == ("12345", "67890", "END")
        assert entry.request_id == "c" * 64
        assert entry.changes == {
            "command": "cancel_schedule",
            "arguments": {"projectId": 12345, "phaseId": 67890, "state": "END"},
            "correlationId": "c" * 80,
            "code": "",
            "jobCount": 1,
        }
        assert entry.reason == "1 cancelled"

    def test_that_is_refused_is_audited_too(self, give):
        give("cancel_schedule", operator="eve", projectId=12345, state="x" * 300)

        entry = AuditEntry.objects.get()
        assert (entry.action, entry.actor, entry.role) == (
            "command.refused",
            "kafka:eve",
            "",
        )
        assert entry.changes["code"] == "permission_denied"
        assert entry.changes["arguments"]["state"] == "x" * 255
        assert "eve" in entry.reason

    def test_has_the_challenge_for_its_answers_key_where_it_names_one(self, give):
        give("list_scheduled_transitions", projectId=1, challengeId=CHALLENGE)
        give("list_scheduled_transitions", correlationId="c-1")
        give("list_scheduled_transitions")

        keys = OutgoingRecord.objects.order_by("id").values_list("key", flat=True)
        assert [None if key is None else bytes(key) for key in keys] == [
            CHALLENGE.encode(),
            b"c-1",
            None,
        ]


@pytest.mark.django_db
class TestOperators:
    @pytest.mark.parametrize("operator", ["admin", "system", "system-", "system-nightly"])
    def test_that_are_allowed_by_default_may_command(self, give, operator):
        assert give("list_scheduled_transitions", operator=operator).is_success

    @pytest.mark.parametrize(
        "operator", ["Admin", "ADMIN", "admin ", "systems", "my-system-x", "bob"]
    )
    def test_that_nobody_named_may_not(self, give, operator, phases):
        (job,) = phases("END")

        result = give("cancel_schedule", operator=operator, projectId=12345)

        assert result.code == "permission_denied"
        assert status_of(job) == ["scheduled"]

    def test_are_those_of_the_setting(self, give, settings):
        settings.MESSAGES = settings.MESSAGES.model_copy(
            update={"command_operators": ("ops-*",)}
        )

        codes = [
            give("list_scheduled_transitions", operator=one).code
            for one in ("ops-anna", "admin")
        ]

        assert codes == ["", "permission_denied"]

    @pytest.mark.parametrize("operator", [..., None, "", "  ", "system-" + "x" * 300])
    def test_must_be_named(self, give, operator, phases):
        (job,) = phases("END")

        result = give("cancel_schedule", operator=operator, projectId=12345)

        assert result.code == "invalid_request"
        assert result.message.startswith("operator: ")
        assert status_of(job) == ["scheduled"]
        assert AuditEntry.objects.filter(action="command.refused").count() == 1


@pytest.mark.django_db
class TestSchedule:
    @pytest.mark.parametrize(
        "name", ["schedule_phase_transition", "SCHEDULE_Phase_Transition"]
    )
    def test_makes_a_job_in_the_operators_name(self, give, phase_data, name):
        result = give(name, **phase_data(operator="system-x", metadata={"a": [1]}))

        job = ScheduledTransition.objects.get()
        assert result.job_ids == [job.job_id]
        assert (job.operator, job.metadata) == ("system-x", {"a": [1]})
        (entry,) = audit_of(job.job_id)
        assert (entry.action, entry.actor) == ("transition.scheduled", "kafka:system-x")

    def test_of_the_same_is_a_success_with_the_same_job(self, give, phase_data):
        first = give("schedule_phase_transition", **phase_data())
        second = give("schedule_phase_transition", **phase_data())

        assert (second.code, second.job_ids) == ("", first.job_ids)
        assert "already" in second.message
        assert ScheduledTransition.objects.count() == 1

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"endTime": ...}, "invalid_phase_data"),
            ({"phaseTypeName": ...}, "invalid_phase_data"),
            ({"projectStatus": " "}, "invalid_phase_data"),
            ({"projectId": ...}, "invalid_phase_data"),
            ({"phaseId": ...}, "invalid_phase_data"),
            ({"state": "OPEN"}, "invalid_phase_data"),
            ({"date": "soon"}, "invalid_phase_data"),
            ({"metadata": {"x": "y" * 65_536}}, "invalid_phase_data"),
            ({"endTime": "2030-02-30T00:00:00Z"}, "invalid_schedule_time"),
            ({"endTime": "2030-02-20T00:00:00"}, "invalid_schedule_time"),
            ({"due_in": -1}, "past_schedule_time"),
            ({"due_in": 0.5}, "schedule_too_soon"),
            ({"due_in": 91 * 86_400}, "schedule_too_far"),
        ],
    )
    def test_is_refused(self, give, phase_data, fields, code):
        result = give("schedule_phase_transition", **phase_data(**fields))

        assert result.code == code
        assert not ScheduledTransition.objects.exists()
        assert [answer["code"] for answer in answers()] == [code]

    def test_at_another_instant_than_the_live_jobs_is_refused(self, give, phase_data):
        give("schedule_phase_transition", **phase_data())

        result = give("schedule_phase_transition", **phase_data(due_in=7200))

        assert result.code == "duplicate_job"
        assert ScheduledTransition.objects.get().job_id in result.message


@pytest.mark.django_db
class TestReschedule:
    @pytest.mark.parametrize(
        "name",
        ["reschedule_phase", "Reschedule_PHASE", "update_scheduled_transition"],
    )
    @pytest.mark.parametrize("field", ["date", "endTime"])
    @pytest.mark.parametrize(
        "ids",
        [
            {"projectId": 12345},
            {"challengeId": CHALLENGE.upper()},
            {"projectId": 12345, "challengeId": CHALLENGE},
        ],
    )
    def test_moves_the_phases_end(self, give, phases, now, name, field, ids):
        start, end = phases("START", "END")

        result = give(name, phaseId=67890, **ids, **{field: in_hours(now, 9)})

        live = ScheduledTransition.objects.live().get(state="END")
        assert result.job_ids == [live.job_id]
        assert live.due_at == now + timedelta(hours=9)
        assert columns(end)["replaced_by"] == live.job_id
        assert status_of(start, end) == ["scheduled", "cancelled"]
        (last,) = [one for one in audit_of(end.job_id) if one.old_status == "scheduled"]
        assert (last.action, last.actor) == ("transition.updated", "kafka:admin")
        assert last.reason == "reschedule_phase by admin"

    def test_moves_the_start_where_that_is_named(self, give, phases, now):
        start, end = phases("START", "END")

        give(
            "reschedule_phase",
            projectId=12345,
            phaseId=67890,
            state="START",
            date=in_hours(now, 0.5),
        )

        assert status_of(start, end) == ["cancelled", "scheduled"]

    def test_to_where_it_stands_changes_nothing(self, give, phases):
        (job,) = phases("END")
        before = state_of(job)

        result = give(
            "reschedule_phase",
            projectId=12345,
            phaseId=67890,
            endTime=format_instant(job.due_at),
        )

        assert (result.code, result.job_ids) == ("", [job.job_id])
        assert "already" in result.message
        assert state_of(job) == before

    def test_takes_date_and_end_time_together_where_they_are_the_same(
        self, give, phases, now
    ):
        phases("END")
        due_at = in_hours(now, 2)

        result = give(
            "reschedule_phase", projectId=12345, phaseId=67890, date=due_at, endTime=due_at
        )

        assert result.is_success

    @pytest.mark.parametrize(
        ("fields", "code", "says"),
        [
            ({"phaseId": ...}, "invalid_request", "phaseId: is required"),
            ({"projectId": ...}, "invalid_request", "projectId: is required"),
            ({"date": ...}, "invalid_request", "date: is required"),
            ({"endTime": "2030-01-01T00:00:00Z"}, "invalid_request", "endTime: is another"),
            ({"state": "end"}, "invalid_request", "state: must be START or END"),
            ({"date": "tomorrow"}, "invalid_schedule_time", "date: must be"),
            ({"date": "2030-02-30T00:00:00Z"}, "invalid_schedule_time", "date: is not"),
            ({"date": "2030-02-20T00:00:00"}, "invalid_schedule_time", "date: has no zone"),
            ({"date": "2020-01-01T00:00:00Z"}, "past_schedule_time", "past"),
            ({"date": "2999-01-01T00:00:00Z"}, "schedule_too_far", "ahead"),
            ({"phaseId": 67891}, "job_not_found", "67891"),
            ({"state": "START"}, "job_not_found", "START"),
            ({"projectId": 99}, "job_not_found", "67890"),
            ({"challengeId": 99}, "job_not_found", "67890"),
        ],
    )
    def test_is_refused_and_leaves_the_job_alone(
        self, give, phases, now, fields, code, says
    ):
        (job,) = phases("END")
        before = state_of(job)
        asked = {"projectId": 12345, "phaseId": 67890, "date": in_hours(now, 9)}

        result = give("reschedule_phase", **{**asked, **fields})

        assert result.code == code
        assert says in result.message
        assert state_of(job) == before
        assert [answer["code"] for answer in answers()] == [code]

    def test_leaves_a_running_job_to_finish(self, give, phases, now):
        (job,) = phases("END", history=RUNNING, due_in=-1)
        before = state_of(job)

        result = give(
            "reschedule_phase", projectId=12345, phaseId=67890, date=in_hours(now, 9)
        )

        assert result.code == "job_not_updatable"
        assert state_of(job) == before

    def test_asks_for_the_project_where_a_phase_id_is_of_several(self, give, now):
        for project in ("1", "2"):
            make_job(now=now, project_id=project, phase_id="7", challenge_id="3")

        result = give("reschedule_phase", challengeId=3, phaseId=7, date=in_hours(now, 9))

        assert (result.code, "projectId" in result.message) == ("invalid_request", True)
        assert ScheduledTransition.objects.live().count() == 2


@pytest.mark.django_db
class TestCancel:
    @pytest.mark.parametrize(
        "name", ["cancel_schedule", "CANCEL_schedule", "Cancel_Scheduled_Transition"]
    )
    def test_cancels_start_and_end_of_a_phase(self, give, phases, name):
        start, end = phases("START", "END")
        (other,) = phases("END", phase_id="67891")

        result = give(name, projectId=12345, phaseId=67890)

        assert status_of(start, end, other) == ["cancelled", "cancelled", "scheduled"]
        assert set(result.job_ids) == {start.job_id, end.job_id}
        assert columns(end)["is_overridden"]
        last = audit_of(end.job_id)[-1]
        assert (last.action, last.actor) == ("transition.cancelled", "kafka:admin")
        assert last.reason == "cancel_schedule by admin"
        assert chain_breaks(end.job_id) == []

    @pytest.mark.parametrize("state", ["START", "END"])
    def test_cancels_only_the_state_that_is_named(self, give, phases, state):
        jobs = {"START": phases("START")[0], "END": phases("END")[0]}

        give("cancel_schedule", projectId=12345, phaseId=67890, state=state)

        cancelled = [name for name, job in jobs.items() if status_of(job) == ["cancelled"]]
        assert cancelled == [state]

    def test_cancels_all_of_a_project(self, give, phases, now):
        of_the_project = [
            *phases("START", "END"),
            *phases("END", challenge_id=None, phase_id="1"),
        ]
        other = make_job(now=now)

        result = give("cancel_schedule", projectId=12345)

        assert status_of(*of_the_project) == ["cancelled"] * 3
        assert status_of(other) == ["scheduled"]
        assert len(result.job_ids) == 3

    def test_cancels_all_of_a_challenge(self, give, phases):
        of_it = phases("START", "END")
        others = [
            *phases("END", phase_id="1", challenge_id=None),
            *phases("END", phase_id="2", challenge_id="77"),
        ]

        give("cancel_schedule", challengeId=CHALLENGE)

        assert status_of(*of_it) == ["cancelled", "cancelled"]
        assert status_of(*others) == ["scheduled", "scheduled"]

    def test_by_both_ids_spares_other_challenges_of_the_project(self, give, phases):
        of_it = [*phases("END"), *phases("END", phase_id="1", challenge_id=None)]
        others = phases("END", phase_id="2", challenge_id="77")

        give("cancel_schedule", projectId=12345, challengeId=CHALLENGE)

        assert status_of(*of_it) == ["cancelled", "cancelled"]
        assert status_of(*others) == ["scheduled"]

    @pytest.mark.parametrize("ids", [{"projectId": 12345}, {"challengeId": CHALLENGE}])
    def test_of_nothing_is_a_success(self, give, ids):
        result = give("cancel_schedule", **ids)

        assert (result.code, list(result.job_ids)) == ("", [])

    def test_of_a_phase_without_a_job_is_refused(self, give, phases):
        phases("END", history=COMPLETED)

        result = give("cancel_schedule", projectId=12345, phaseId=67890)

        assert result.code == "job_not_found"

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({}, "projectId: is required"),
            ({"phaseId": 67890}, "projectId: is required"),
            ({"projectId": 12345, "state": "BOTH"}, "state: must be START or END"),
        ],
    )
    def test_is_refused_and_touches_nothing(self, give, phases, fields, says):
        (job,) = phases("END")
        before = state_of(job)

        result = give("cancel_schedule", **fields)

        assert (result.code, says in result.message) == ("invalid_request", True)
        assert state_of(job) == before

    def test_leaves_a_running_job_to_finish(self, give, phases):
        (running,) = phases("START", history=RUNNING, due_in=-1)
        (end,) = phases("END")

        result = give("cancel_schedule", projectId=12345, phaseId=67890)

        assert status_of(running, end) == ["running", "cancelled"]
        assert result.job_ids == [end.job_id]
        assert "1 running" in result.message

    def test_of_a_phase_whose_only_job_runs_is_refused(self, give, phases):
        (job,) = phases("END", history=RUNNING, due_in=-1)
        before = state_of(job)

        result = give("cancel_schedule", projectId=12345, phaseId=67890)

        assert result.code == "job_not_cancellable"
        assert state_of(job) == before

    def test_of_all_with_one_that_runs_is_a_success(self, give, phases):
        phases("END", history=RUNNING, due_in=-1)

        result = give("cancel_schedule", projectId=12345)

        assert (result.code, list(result.job_ids)) == ("", [])

    def test_of_very_many_has_an_answer_that_fits_into_a_record(
        self, give, phases, monkeypatch
    ):
        monkeypatch.setattr(commands, "MOST_ANSWERED", 2)
        for phase in range(1, 4):
            phases("END", phase_id=str(phase))

        result = give("cancel_schedule", projectId=12345)

        assert len(result.job_ids) == 2
        assert result.message == "3 cancelled"
        assert not ScheduledTransition.objects.live().exists()


@pytest.mark.django_db
class TestList:
    def test_names_live_jobs_in_due_order(self, give, now):
        later = make_job(now=now, due_in=7200)
        sooner = make_job(RUNNING, now=now, due_in=-1)
        make_job(COMPLETED, now=now)

        result = give("List_Scheduled_Transitions")

        assert list(result.job_ids) == [sooner.job_id, later.job_id]

    @pytest.mark.parametrize(
        ("fields", "number"),
        [
            ({"projectId": 12345}, 3),
            ({"challengeId": CHALLENGE}, 2),
            ({"phaseId": 67890}, 2),
            ({"phaseId": 67890, "state": "START"}, 1),
            ({"projectId": 12345, "challengeId": CHALLENGE}, 2),
            ({"projectId": 99}, 0),
            ({"state": "END"}, 3),
        ],
    )
    def test_names_those_that_are_asked_for(self, give, phases, now, fields, number):
        phases("START", "END")
        phases("END", phase_id="1", challenge_id=None)
        make_job(now=now)

        assert len(give("list_scheduled_transitions", **fields).job_ids) == number

    def test_is_refused_for_a_state_that_is_none(self, give):
        result = give("list_scheduled_transitions", state="OPEN")

        assert result.code == "invalid_request"

    def test_names_at_most_a_thousand(self, give, now, monkeypatch):
        assert commands.MOST_LISTED == 1_000
        monkeypatch.setattr(commands, "MOST_LISTED", 2)
        jobs = [make_job(now=now, due_in=60 + number) for number in range(3)]

        result = give("list_scheduled_transitions")

        assert list(result.job_ids) == [job.job_id for job in jobs[:2]]
        assert result.message == "the first 2 live jobs"


@pytest.mark.django_db
class TestRecover:
    def test_asks_kafka_nothing(self, give, now, monkeypatch):
        def find_events(*_, **__):
            raise AssertionError("Kafka is asked inside a transaction")

        monkeypatch.setattr(unproven, "find_events", find_events)
        unknown = make_job(UNPROVEN, now=now, due_in=-73 * 3600)

        assert give("Recover").is_success
        assert status_of(unknown) == ["scheduled"]

    def test_is_carried_out_by_whoever_registers_for_it(self, give, monkeypatch):
        monkeypatch.setattr(commands, "_CARRY_OUT", dict(commands._CARRY_OUT))

        register_command(CommandName.RECOVER, lambda request: Done(message="by me"))

        assert give("recover").message == "by me"

    def test_is_refused_where_nobody_does(self, give, monkeypatch):
        monkeypatch.setitem(commands._CARRY_OUT, CommandName.RECOVER, commands._not_there)

        assert give("recover").code == "invalid_request"


@pytest.mark.django_db
class TestAnswerAndEffect:
    def test_are_one_where_the_answer_can_not_be_written(self, give, phases, monkeypatch):
        (job,) = phases("END")
        before, entries = state_of(job), AuditEntry.objects.count()

        def insert_rows(rows):
            raise DatabaseError("no answer")

        monkeypatch.setattr(commands, "insert_rows", insert_rows)

        with pytest.raises(DatabaseError):
            give("cancel_schedule", projectId=12345)

        assert state_of(job) == before
        assert AuditEntry.objects.count() == entries

    def test_are_one_where_the_effect_is_refused_half_way(self, give, phases, monkeypatch):
        jobs = phases("START", "END")
        real, calls = commands.cancel_locked, count(1)

        def cancel_locked(job, **arguments):
            if next(calls) == 2:
                raise JobNotCancellableError("became so meanwhile")
            real(job, **arguments)

        monkeypatch.setattr(commands, "cancel_locked", cancel_locked)

        result = give("cancel_schedule", projectId=12345)

        assert result.code == "job_not_cancellable"
        assert status_of(*jobs) == ["scheduled", "scheduled"]
        assert [answer["success"] for answer in answers()] == [False]
        assert AuditEntry.objects.filter(action="command.refused").count() == 1

    def test_are_both_left_out_while_a_neighbour_is_away(self, give, phases, monkeypatch):
        (job,) = phases("END")
        before = state_of(job)

        def carry_out(_):
            raise ServiceUnavailableError("not now")

        monkeypatch.setitem(commands._CARRY_OUT, CommandName.CANCEL, carry_out)

        with pytest.raises(ServiceUnavailableError):
            give("cancel_schedule", projectId=12345)

        assert state_of(job) == before
        assert answers() == []
        assert not AuditEntry.objects.filter(action__startswith="command").exists()


@pytest.mark.django_db
class TestJobsOfUnknownOutcome:
    @pytest.mark.parametrize(
        ("name", "fields"),
        [
            ("cancel_schedule", {}),
            ("cancel_schedule", {"phaseId": 67890}),
            ("reschedule_phase", {"phaseId": 67890, "date": "in an hour"}),
        ],
    )
    def test_are_asked_about_before_anything_changes(self, give, phases, now, name, fields):
        (job,) = phases("END", history=UNPROVEN)
        before = state_of(job)
        if "date" in fields:
            fields = {**fields, "date": in_hours(now, 1.5)}

        with pytest.raises(OutcomeUnknownError) as asked:
            give(name, projectId=12345, **fields)

        assert asked.value.job_ids == [job.job_id]
        assert (state_of(job), answers()) == (before, [])

    @pytest.mark.parametrize("name", ["cancel_schedule", "reschedule_phase"])
    def test_are_changed_once_they_are_known_to_be_unpublished(
        self, give, phases, now, name, monkeypatch
    ):
        monkeypatch.setattr(unproven, "find_events", None)
        (job,) = phases("END", history=UNPROVEN)

        result = give(
            name,
            projectId=12345,
            phaseId=67890,
            date=in_hours(now, 9),
            proven={job.job_id: job.unproven_since},
        )

        assert result.is_success
        assert status_of(job) == ["cancelled"]

    def test_are_asked_about_again_where_another_attempt_came_between(
        self, give, phases, now
    ):
        (job,) = phases("END", history=UNPROVEN)

        with pytest.raises(OutcomeUnknownError):
            give(
                "cancel_schedule",
                projectId=12345,
                proven={job.job_id: now - timedelta(seconds=1)},
            )

    def test_are_left_alone_by_a_command_that_is_refused(self, give, phases):
        (job,) = phases("END", history=UNPROVEN)
        before = state_of(job)

        result = give(
            "reschedule_phase",
            projectId=12345,
            phaseId=67890,
            date="2020-01-01T00:00:00Z",
            proven={job.job_id: job.unproven_since},
        )

        assert result.code == "past_schedule_time"
        assert state_of(job) == before


def a_record(payload, *, now, headers=(), changes=None):
    envelope = {
        "topic": COMMAND,
        "originator": "test",
        "timestamp": format_instant(now),
        "mimeType": "application/json",
        "payload": payload,
        **(changes or {}),
    }
    return Record(
        cluster_id="cluster",
        topic=COMMAND,
        partition=0,
        offset=next(_offsets),
        value=json.dumps(envelope).encode(),
        headers=headers,
    )


CANCEL = {"command": "cancel_schedule", "operator": "admin", "projectId": 12345}


@pytest.mark.django_db(transaction=True)
class TestCommandRecords:
    def test_are_carried_out_in_the_order_received(self, now, phase_data):
        schedule = {"command": "schedule_phase_transition", **phase_data()}
        records = [
            a_record(one, now=now) for one in (schedule, CANCEL, schedule, schedule, CANCEL)
        ]

        handle_records(records, now=now)

        assert [len(answer["jobIds"]) for answer in answers()] == [1, 1, 1, 1, 1]
        assert not ScheduledTransition.objects.live().exists()
        assert ScheduledTransition.objects.count() == 2
        outcomes = InboxMessage.objects.order_by("offset").values_list("outcome", flat=True)
        assert list(outcomes) == ["done"] * 5

    def test_are_answered_once_however_often_they_come(self, now, phases):
        phases("END")
        records = [a_record(CANCEL, now=now), a_record({"command": "no"}, now=now)]

        for _ in range(3):
            handle_records(records, now=now)

        assert len(answers()) == 1
        assert DeadLetter.objects.count() == 1

    def test_that_are_declined_are_no_dead_letters(self, now):
        handle_records([a_record({**CANCEL, "operator": "eve"}, now=now)], now=now)

        row = InboxMessage.objects.get()
        assert (row.outcome, row.detail[:18]) == ("declined", "permission_denied:")
        assert not DeadLetter.objects.exists()

    @pytest.mark.parametrize(
        ("payload", "headers", "answered"),
        [
            ({"command": "drop", "correlationId": "c-1"}, (), "drop"),
            ({"command": 5, "correlationId": "c-1"}, (), None),
            ({"correlationId": "c-1"}, (), None),
            ("no object", (("correlation-id", b"c-1"),), None),
            (
                {**CANCEL, "projectId": "1"},
                (("correlation-id", b"c-1"),),
                "cancel_schedule",
            ),
        ],
    )
    def test_that_are_no_commands_are_dead_letters_and_answered(
        self, now, payload, headers, answered
    ):
        handle_records([a_record(payload, now=now, headers=headers)], now=now)

        assert DeadLetter.objects.count() == 1
        (answer,) = answers()
        assert answer["correlationId"] == "c-1"
        assert (answer["command"], answer["success"]) == (answered, False)
        assert answer["code"] == "invalid_request"
        assert answer["message"] == DeadLetter.objects.get().message

    def test_that_are_no_commands_are_not_answered_to_nobody(self, now):
        handle_records([a_record({"command": "drop"}, now=now)], now=now)

        assert DeadLetter.objects.count() == 1
        assert answers() == []

    def test_search_outside_the_transaction_and_go_on(self, now, phases, monkeypatch):
        (job,) = phases("END", history=UNPROVEN)
        searched = []

        def find_events(wanted, **_):
            assert not connection.in_atomic_block
            searched.append(set(wanted))
            return {}

        monkeypatch.setattr(unproven, "find_events", find_events)

        handle_records([a_record(CANCEL, now=now)], now=now)

        assert searched == [{job.event_id}]
        assert status_of(job) == ["cancelled"]
        assert [answer["jobIds"] for answer in answers()] == [[job.job_id]]

    def test_complete_what_is_found_instead_of_cancelling_it(
        self, now, phases, monkeypatch
    ):
        (job,) = phases("END", history=UNPROVEN)
        place = unproven.FoundEvent(0, 7, now)
        monkeypatch.setattr(unproven, "find_events", lambda *_, **__: {job.event_id: place})

        handle_records([a_record(CANCEL, now=now)], now=now)

        assert status_of(job) == ["completed"]
        assert [(one["success"], one["jobIds"]) for one in answers()] == [(True, [])]

    def test_wait_while_the_topic_can_not_be_searched(self, now, phases, monkeypatch):
        (job,) = phases("END", history=UNPROVEN)
        before = state_of(job)

        def find_events(*_, **__):
            raise ServiceUnavailableError("no topic")

        monkeypatch.setattr(unproven, "find_events", find_events)

        with pytest.raises(ServiceUnavailableError):
            handle_records([a_record(CANCEL, now=now)], now=now)

        assert state_of(job) == before
        assert (answers(), InboxMessage.objects.count()) == ([], 0)


class TestReadGivenCommand:
    @pytest.mark.parametrize("payload", [None, 5, "recover", [], ["recover"]])
    def test_refuses_what_is_no_object(self, payload):
        with pytest.raises(UnusableMessageError):
            read_given_command(payload)
