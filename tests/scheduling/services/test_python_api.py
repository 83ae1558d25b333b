import json
from collections import UserDict
from datetime import UTC, datetime, timedelta

import pytest

from scheduling.domain.errors import (
    DuplicateJobError,
    InvalidPhaseDataError,
    InvalidRequestError,
    InvalidScheduleTimeError,
    JobNotFoundError,
    JobNotUpdatableError,
    OperationNotPermittedError,
    ServiceUnavailableError,
)
from scheduling.domain.phases import format_instant, read_phase_data
from scheduling.messages import UnusableMessageError
from scheduling.models import AuditEntry, OutgoingRecord, ScheduledTransition
from scheduling.services import (
    adjust_schedules,
    cancel_scheduled_transition,
    get_all_scheduled_transitions,
    handle_challenge_update,
    handle_command,
    handle_phase_transition,
    schedule_phase_transition,
    update_scheduled_transition,
)
from tests.support.histories import (
    COMPLETED,
    RUNNING,
    UNPROVEN,
    audit_of,
    columns,
    make_job,
    state_of,
)
from tests.support.topic import cut_off, put_event


@pytest.mark.django_db
class TestSchedulePhaseTransition:
    def test_returns_the_job_id_for_a_mapping_and_for_the_dataclass(
        self, phase_data, operator
    ):
        first = schedule_phase_transition(phase_data(), actor=operator)
        second = schedule_phase_transition(read_phase_data(phase_data()), actor=operator)

        job = ScheduledTransition.objects.get()
        assert first == second == job.job_id
        assert datetime.now(UTC) - job.created_at < timedelta(seconds=30)

    def test_names_the_live_job_when_the_instant_is_another(self, phase_data, operator):
        job_id = schedule_phase_transition(phase_data(), actor=operator)

        with pytest.raises(DuplicateJobError) as caught:
            schedule_phase_transition(phase_data(due_in=7200), actor=operator)

        assert caught.value.job_id == job_id

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"projectId": "1"}, InvalidPhaseDataError),
            ({"surprise": 1}, InvalidPhaseDataError),
            ({"endTime": "2030-01-31"}, InvalidScheduleTimeError),
        ],
    )
    def test_refuses_what_it_can_not_understand(self, phase_data, operator, fields, error):
        with pytest.raises(error) as caught:
            schedule_phase_transition(phase_data(**fields), actor=operator)

        assert caught.value.category == "validation"

    def test_refuses_a_viewer(self, phase_data, viewer):
        with pytest.raises(OperationNotPermittedError):
            schedule_phase_transition(phase_data(), actor=viewer)

        assert not ScheduledTransition.objects.exists()


@pytest.mark.django_db
class TestCancelScheduledTransition:
    def test_tells_whether_it_cancelled(self, now, operator):
        job = make_job(now=now)
        cancel = {"actor": operator, "reason": "x"}

        assert cancel_scheduled_transition(job.job_id, **cancel) is True
        assert cancel_scheduled_transition(job.job_id, **cancel) is False
        assert cancel_scheduled_transition("job-1-2-3", **cancel) is False
        assert columns(job)["status"] == "cancelled"

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED])
    def test_is_false_for_what_can_no_longer_be_cancelled(self, now, operator, history):
        job = make_job(history, now=now)

        assert not cancel_scheduled_transition(job.job_id, actor=operator, reason="x")

    def test_raises_what_the_caller_did_wrong(self, now, operator, viewer):
        job = make_job(now=now)
        before = state_of(job)

        with pytest.raises(InvalidRequestError):
            cancel_scheduled_transition(job.job_id, actor=operator, reason=" ")
        with pytest.raises(OperationNotPermittedError):
            cancel_scheduled_transition(job.job_id, actor=viewer, reason="x")

        assert state_of(job) == before


@pytest.mark.django_db
class TestUpdateScheduledTransition:
    def test_returns_the_new_job_id(self, phase_data, operator):
        old = schedule_phase_transition(phase_data(), actor=operator)

        new = update_scheduled_transition(old, phase_data(due_in=7200), actor=operator)

        assert new != old
        assert ScheduledTransition.objects.get(job_id=old).replaced_by == new
        assert ScheduledTransition.objects.live().get().job_id == new

    def test_returns_the_same_id_when_nothing_differs(self, phase_data, operator):
        old = schedule_phase_transition(phase_data(), actor=operator)

        assert update_scheduled_transition(old, phase_data(), actor=operator) == old

    def test_raises_what_stands_in_the_way(self, phase_data, operator, viewer, now):
        job = make_job(RUNNING, now=now, project_id="12345", phase_id="67890")
        before = state_of(job)

        with pytest.raises(JobNotUpdatableError):
            update_scheduled_transition(job.job_id, phase_data(), actor=operator)
        with pytest.raises(JobNotFoundError):
            update_scheduled_transition("job-1-2-3", phase_data(), actor=operator)
        with pytest.raises(OperationNotPermittedError):
            update_scheduled_transition(job.job_id, phase_data(), actor=viewer)

        assert state_of(job) == before


@pytest.mark.django_db
class TestGetAllScheduledTransitions:
    def test_returns_live_transitions_in_due_order(self, now):
        later = make_job(now=now, due_in=7200)
        running = make_job(RUNNING, now=now, due_in=-1)
        make_job(COMPLETED, now=now)

        shown = get_all_scheduled_transitions()

        assert [one["jobId"] for one in shown] == [running.job_id, later.job_id]

    def test_filters_by_what_it_is_told(self, now):
        make_job(now=now)
        done = make_job(COMPLETED, now=now, project_id="5")

        assert [
            one["jobId"] for one in get_all_scheduled_transitions(status="completed")
        ] == [done.job_id]
        assert get_all_scheduled_transitions(project_id=5) == []

    def test_names_a_filter_that_does_not_exist(self):
        with pytest.raises(InvalidRequestError, match="projectID"):
            get_all_scheduled_transitions(projectID=5)


def of_job(job, **fields):
    """Return the payload of a transition that somebody else published for a job."""
    return {
        "projectId": int(job.project_id),
        "phaseId": int(job.phase_id),
        "phaseTypeName": "Registration",
        "state": job.state,
        "operator": "other-service",
        "projectStatus": "ACTIVE",
        **fields,
    }


NO_OBJECTS = [None, 5, "text", [], [("projectId", 1)]]


@pytest.mark.django_db(transaction=True)
class TestHandlePhaseTransition:
    def test_cancels_the_live_job_as_overtaken(self, now):
        job = make_job(now=now)

        assert handle_phase_transition(of_job(job)) == "overtaken"

        assert columns(job)["status"] == "cancelled"
        last = audit_of(job.job_id)[-1]
        assert (last.action, last.actor) == ("transition.overtaken", "kafka:other-service")
        assert last.changes == {"record": "", "eventId": ""}

    def test_says_what_became_of_it(self, now):
        running = make_job(RUNNING, now=now)
        done = make_job(COMPLETED, now=now)

        assert handle_phase_transition(of_job(running)) == "running"
        assert handle_phase_transition(UserDict(of_job(done))) == "idle"

    @pytest.mark.parametrize("payload", [*NO_OBJECTS, {}, {"projectId": 1, "state": "X"}])
    def test_refuses_what_it_can_not_understand(self, payload):
        with pytest.raises(UnusableMessageError):
            handle_phase_transition(payload)

    def test_searches_first_where_an_outcome_is_unknown(self, now, kafka):
        absent, there = make_job(UNPROVEN, now=now), make_job(UNPROVEN, now=now)
        put_event(there, at=now)

        assert handle_phase_transition(of_job(absent)) == "overtaken"
        assert handle_phase_transition(of_job(there)) == "idle"

        assert columns(there)["status"] == "completed"

    def test_changes_nothing_where_the_topic_can_not_be_searched(
        self, now, settings, monkeypatch
    ):
        monkeypatch.setattr("scheduling.services.unproven.SEARCH_SECONDS", 0.5)
        job = make_job(UNPROVEN, now=now)
        before = state_of(job)
        cut_off(settings)

        with pytest.raises(ServiceUnavailableError):
            handle_phase_transition(of_job(job))

        assert state_of(job) == before


@pytest.mark.django_db(transaction=True)
class TestHandleChallengeUpdate:
    def payload(self, now, **fields):
        phase = {
            "phaseId": 67890,
            "phaseTypeName": "Registration",
            "endTime": format_instant(now + timedelta(hours=1)),
        }
        values = {"projectId": 12345, "challengeId": 777, "status": "ACTIVE"}
        return {**values, "operator": "admin", "phases": [phase], **fields}

    def test_schedules_what_upstream_wants(self, now):
        told = handle_challenge_update(self.payload(now))

        assert told == {"verdict": "planned", "counts": {"schedule": 1}, "cancelled": []}
        assert ScheduledTransition.objects.get().challenge_id == "777"

    def test_cancels_the_jobs_of_a_challenge_that_is_over(self, now):
        handle_challenge_update(UserDict(self.payload(now)))
        job = ScheduledTransition.objects.get()

        told = handle_challenge_update(self.payload(now, status="CANCELLED"))

        assert (told["verdict"], told["cancelled"]) == ("over", [job.job_id])
        assert columns(job)["status"] == "cancelled"

    @pytest.mark.parametrize("payload", [*NO_OBJECTS, {}, {"projectId": "1"}])
    def test_refuses_what_it_can_not_understand(self, payload):
        with pytest.raises(UnusableMessageError):
            handle_challenge_update(payload)


@pytest.mark.django_db(transaction=True)
class TestHandleCommand:
    def test_returns_the_answer_that_is_also_sent(self, phase_data):
        command = {"command": "Schedule_Phase_Transition", **phase_data()}

        answer = handle_command({**command, "correlationId": "c-1"})

        job = ScheduledTransition.objects.get()
        assert answer == {
            "command": "Schedule_Phase_Transition",
            "correlationId": "c-1",
            "success": True,
            "code": None,
            "message": f"{job.job_id} scheduled for {format_instant(job.due_at)}",
            "jobIds": [job.job_id],
        }
        (row,) = OutgoingRecord.objects.all()
        assert json.loads(bytes(row.value))["payload"] == answer

    def test_returns_why_it_was_refused(self):
        answer = handle_command(UserDict({"command": "recover", "operator": "eve"}))

        assert (answer["success"], answer["code"]) == (False, "permission_denied")
        assert AuditEntry.objects.get().actor == "kafka:eve"

    @pytest.mark.parametrize(
        "payload", [*NO_OBJECTS, {}, {"command": "no such"}, {"command": 5}]
    )
    def test_refuses_what_is_no_command(self, payload):
        with pytest.raises(UnusableMessageError):
            handle_command(payload)

        assert not OutgoingRecord.objects.exists()

    def test_searches_first_where_an_outcome_is_unknown(self, now, kafka):
        absent = make_job(UNPROVEN, now=now, project_id="5")
        there = make_job(UNPROVEN, now=now, project_id="5")
        put_event(there, at=now)

        answer = handle_command(
            {"command": "cancel_schedule", "operator": "admin", "projectId": 5}
        )

        assert answer["jobIds"] == [absent.job_id]
        assert columns(there)["status"] == "completed"
        assert OutgoingRecord.objects.count() == 1

    def test_changes_and_answers_nothing_where_the_topic_can_not_be_searched(
        self, now, settings, monkeypatch
    ):
        monkeypatch.setattr("scheduling.services.unproven.SEARCH_SECONDS", 0.5)
        job = make_job(UNPROVEN, now=now, project_id="5")
        before = state_of(job)
        cut_off(settings)

        with pytest.raises(ServiceUnavailableError):
            handle_command(
                {"command": "cancel_schedule", "operator": "admin", "projectId": 5}
            )

        assert state_of(job) == before
        assert not OutgoingRecord.objects.exists()


@pytest.mark.django_db
class TestAdjustSchedules:
    def test_moves_jobs_and_returns_the_api_s_answer(self, operator, phase_data):
        schedule_phase_transition(phase_data(), actor=operator)
        later = phase_data(due_in=7200)
        change = {name: later[name] for name in ("projectId", "phaseId", "state")}
        change["newEndTime"] = later["endTime"]

        dry = adjust_schedules([change], actor=operator, dry_run=True, on_conflict="skip")
        answer = adjust_schedules(
            [change], actor=operator, dry_run=False, on_conflict="skip"
        )

        assert (dry["dryRun"], dry["rescheduledCount"]) == (True, 1)
        new_id = answer["details"]["rescheduled"][0]["newJobId"]
        (job,) = get_all_scheduled_transitions()
        assert job["jobId"] == new_id

    def test_refuses_what_can_t_be_understood(self, operator):
        with pytest.raises(InvalidRequestError):
            adjust_schedules([{}], actor=operator, dry_run=False, on_conflict="reject")
