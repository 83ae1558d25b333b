from datetime import UTC, datetime, timedelta

import pytest

from scheduling.domain.actors import RECOVERY
from scheduling.domain.errors import (
    InvalidPhaseDataError,
    InvalidRequestError,
    InvalidScheduleTimeError,
    JobNotFoundError,
    JobNotUpdatableError,
    OperationNotPermittedError,
    PastScheduleTimeError,
    ScheduleTooFarError,
    ScheduleTooSoonError,
    ServiceUnavailableError,
)
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant, read_phase_data
from scheduling.models import AuditEntry, Challenge, Phase, ScheduledTransition
from scheduling.services.update import (
    Update,
    read_update,
    replace_from_phase_data,
    update_transition,
)
from tests.support.histories import (
    ALL,
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    RUNNING,
    UNPROVEN,
    audit_of,
    chain_breaks,
    columns,
    make_job,
    state_of,
)
from tests.support.topic import cut_off, put_event

LATER = Update(phase_type_name="Submission")


@pytest.fixture
def update(operator, now):
    """Update a job and return what the service returns."""

    def make(job, *, actor=operator, reason="", **values):
        return update_transition(
            job_id=job.job_id, update=Update(**values), actor=actor, now=now, reason=reason
        )

    return make


@pytest.mark.django_db
class TestUpdateTransition:
    def test_cancels_the_old_job_and_makes_a_new_one(self, update, now):
        old = make_job(
            now=now,
            challenge_id="7",
            metadata={"a": 1},
            date=datetime(2030, 1, 1, tzinfo=UTC),
        )
        due_at = now + timedelta(hours=2)

        returned = update(old, end_time=due_at, reason="the client asked")

        was = columns(old)
        new = columns(returned)
        assert was["status"] == "cancelled"
        assert was["replaced_by"] == new["job_id"]
        assert was["finalized_at"] == now
        assert new["replaces"] == old.job_id
        assert new["status"] == "scheduled"
        assert new["due_at"] == new["event_at"] == new["ready_at"] == due_at
        assert new["event_id"] != was["event_id"]
        assert new["job_id"] != was["job_id"]
        assert new["created_at"] == now
        kept = [
            "project_id",
            "phase_id",
            "state",
            "challenge_id",
            "key",
            "phase_type_name",
            "project_status",
            "operator",
            "metadata",
            "date",
        ]
        assert {name: new[name] for name in kept} == {name: was[name] for name in kept}

    def test_leaves_an_entry_on_each_job(self, update, now):
        old = make_job(now=now)
        due_at = now + timedelta(hours=2)

        new = update(old, end_time=due_at, reason="the client asked")

        last = audit_of(old.job_id)[-1]
        (first,) = audit_of(new.job_id)
        assert (last.action, last.new_status) == ("transition.updated", "cancelled")
        assert last.changes == {
            "endTime": [format_instant(old.due_at), format_instant(due_at)],
            "replacedBy": new.job_id,
        }
        assert first.action == "transition.scheduled"
        assert first.changes["replaces"] == old.job_id
        assert first.reason == last.reason == "the client asked"
        assert chain_breaks(old.job_id) == []

    @pytest.mark.parametrize(
        ("values", "column"),
        [
            ({"phase_type_name": "Submission"}, "phase_type_name"),
            ({"project_status": "DRAFT"}, "project_status"),
            ({"metadata": {"b": [2]}}, "metadata"),
        ],
    )
    def test_changes_one_field_and_keeps_the_instant(self, update, now, values, column):
        old = make_job(now=now, metadata={"a": 1})

        new = update(old, **values)

        assert columns(new)[column] == next(iter(values.values()))
        assert columns(new)["due_at"] == old.due_at

    def test_no_metadata_leaves_it_and_an_empty_object_empties_it(self, update, now):
        old = make_job(now=now, metadata={"a": 1})

        kept = update(old, phase_type_name="Submission")
        emptied = update(kept, metadata={})

        assert columns(kept)["metadata"] == {"a": 1}
        assert columns(emptied)["metadata"] == {}

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({"a": 1}, {"a": True}),
            ({"a": [0]}, {"a": [False]}),
            ({"a": {"b": True}}, {"a": {"b": 1}}),
        ],
    )
    def test_a_flag_is_no_number(self, update, now, before, after):
        old = make_job(now=now, metadata=before)

        new = update(old, metadata=after)

        assert new.job_id != old.job_id
        assert repr(columns(new)["metadata"]) == repr(after)

    def test_nothing_different_changes_nothing(self, update, now):
        job = make_job(now=now, metadata={"a": [1, 1e16]})
        job = ScheduledTransition.objects.get(job_id=job.job_id)
        before = state_of(job)

        returned = [
            update(job),
            update(
                job,
                end_time=job.due_at,
                phase_type_name=job.phase_type_name,
                project_status=job.project_status,
                metadata={"a": [1.0, 10**16]},
            ),
        ]

        assert {one.job_id for one in returned} == {job.job_id}
        assert state_of(job) == before
        assert ScheduledTransition.objects.count() == 1

    def test_keeps_to_the_millisecond(self, update, now):
        job = make_job(now=now)

        new = update(job, end_time=job.due_at + timedelta(milliseconds=1))

        assert columns(new)["due_at"] == job.due_at + timedelta(milliseconds=1)

    @pytest.mark.parametrize("history", [RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED])
    def test_refuses_a_job_that_is_no_longer_scheduled(self, update, now, history):
        job = make_job(history, now=now)
        before = state_of(job)

        with pytest.raises(JobNotUpdatableError) as caught:
            update(job, end_time=now + timedelta(hours=2))

        assert caught.value.values["status"] == history[-1][1]
        assert state_of(job) == before
        assert ScheduledTransition.objects.count() == 1

    @pytest.mark.parametrize(
        ("ahead", "error"),
        [
            (timedelta(seconds=-1), PastScheduleTimeError),
            (timedelta(milliseconds=999), ScheduleTooSoonError),
            (timedelta(days=91), ScheduleTooFarError),
        ],
    )
    def test_a_refused_update_leaves_the_old_job_as_it_was(self, update, now, ahead, error):
        job = make_job(now=now, metadata={"a": 1})
        before = state_of(job)

        with pytest.raises(error):
            update(job, end_time=now + ahead, phase_type_name="Submission", metadata={})

        assert state_of(job) == before
        assert AuditEntry.objects.count() == ScheduledTransition.objects.count() == 1

    def test_a_failed_insert_leaves_the_old_job_as_it_was(self, update, now, monkeypatch):
        job = make_job(now=now)
        before = state_of(job)

        def refuse(*args, **kwargs):
            raise RuntimeError("the disk is full")

        monkeypatch.setattr("scheduling.services.update.insert_jobs", refuse)
        with pytest.raises(RuntimeError):
            update(job, end_time=now + timedelta(hours=2))

        assert state_of(job) == before

    def test_the_window_does_not_bind_where_the_instant_stays(self, update, now):
        job = make_job(now=now, due_in=0.2)

        assert update(job, project_status="DRAFT").due_at == job.due_at

    def test_the_window_does_not_bind_upstream(self, update, now):
        job = make_job(now=now)
        past = now - timedelta(minutes=5)

        new = update(job, end_time=past, upstream_at=past, actor=RECOVERY)

        stored = columns(new)
        assert stored["due_at"] == stored["ready_at"] == stored["upstream_at"] == past
        assert stored["is_overridden"] is False
        assert columns(job)["is_overridden"] is False

    def test_a_person_overrides_what_upstream_showed(self, update, now):
        shown = now + timedelta(hours=1)
        old = make_job(now=now, due_at=shown, upstream_at=shown)

        new = update(old, end_time=now + timedelta(hours=2))
        newer = update(new, end_time=now + timedelta(hours=3))

        for job in (new, newer):
            assert columns(job)["is_overridden"] is True
            assert columns(job)["upstream_at"] == shown

    def test_a_person_overrides_what_was_last_read(self, update, now):
        challenge = Challenge.objects.create(
            challenge_id="7", project_id="12345", status="ACTIVE"
        )
        Phase.objects.create(
            challenge=challenge,
            phase_id="67890",
            name="Registration",
            scheduled_end_at=now + timedelta(hours=6),
        )
        old = make_job(now=now, project_id="12345", phase_id="67890")

        new = update(old, end_time=now + timedelta(hours=2))

        assert columns(new)["upstream_at"] == now + timedelta(hours=6)

    def test_upstream_takes_an_overridden_job_back(self, update, now):
        old = make_job(now=now, is_overridden=True, upstream_at=now + timedelta(hours=1))
        shown = now + timedelta(hours=9)

        new = update(old, end_time=shown, upstream_at=shown, actor=RECOVERY)

        assert columns(new)["is_overridden"] is False
        assert columns(new)["upstream_at"] == shown

    def test_gives_a_new_id_in_the_millisecond_of_the_old_one(self, update, now):
        millisecond = round(now.timestamp() * 1000)
        old = make_job(
            now=now, project_id="1", phase_id="2", job_id=f"job-{millisecond}-1-2"
        )

        new = update(old, end_time=now + timedelta(hours=2))

        assert new.job_id == f"{old.job_id}-2"

    def test_says_so_when_there_is_no_such_job(self, operator, now):
        with pytest.raises(JobNotFoundError):
            update_transition(job_id="job-1-2-3", update=LATER, actor=operator, now=now)

    @pytest.mark.parametrize("reason", [" ", "x" * 2001, "a\x00"])
    def test_refuses_a_reason_that_says_nothing_or_too_much(self, update, now, reason):
        job = make_job(now=now)
        before = state_of(job)

        with pytest.raises(InvalidRequestError, match="reason"):
            update(job, phase_type_name="Submission", reason=reason)

        assert state_of(job) == before

    @pytest.mark.parametrize("status", TransitionStatus)
    def test_a_viewer_changes_nothing(self, update, now, viewer, status):
        job = make_job(ALL[status], now=now)
        before = state_of(job)

        with pytest.raises(OperationNotPermittedError):
            update(job, phase_type_name="Submission", actor=viewer)

        assert state_of(job) == before


@pytest.mark.django_db
class TestUpdateOfUnknownOutcome:
    def test_completes_what_is_found_on_the_topic(self, update, now, kafka):
        job = make_job(UNPROVEN, now=now, due_in=-1)
        put_event(job, at=now)

        with pytest.raises(JobNotUpdatableError):
            update(job, end_time=now + timedelta(hours=2))

        assert columns(job)["status"] == "completed"
        assert ScheduledTransition.objects.count() == 1

    def test_moves_what_is_not_there(self, update, now, kafka):
        job = make_job(UNPROVEN, now=now, due_in=-1)

        new = update(job, end_time=now + timedelta(hours=2))

        assert columns(job)["status"] == "cancelled"
        assert columns(new)["unproven_since"] is None

    def test_changes_nothing_while_the_topic_can_not_be_searched(
        self, update, now, settings
    ):
        job = make_job(UNPROVEN, now=now)
        before = state_of(job)
        cut_off(settings)

        with pytest.raises(ServiceUnavailableError):
            update(job, end_time=now + timedelta(hours=2))

        assert state_of(job) == before

    def test_needs_no_broker_for_a_job_never_attempted(self, update, now, settings):
        job = make_job(now=now)
        cut_off(settings)

        assert update(job, end_time=now + timedelta(hours=2)).job_id != job.job_id


class TestReadUpdate:
    def test_understands_the_wire_names(self):
        read = read_update(
            {
                "endTime": "2030-01-31T12:00:00+02:00",
                "phaseTypeName": "Submission",
                "projectStatus": "DRAFT",
                "metadata": {},
            }
        )

        assert read == Update(
            end_time=datetime(2030, 1, 31, 10, tzinfo=UTC),
            phase_type_name="Submission",
            project_status="DRAFT",
            metadata={},
        )

    def test_names_every_field_that_is_unknown_fixed_or_wrong(self):
        with pytest.raises(InvalidRequestError) as caught:
            read_update({"projectId": 1, "jobId": "x", "metadata": None, "endTime": "soon"})

        names = [name for name, _ in caught.value.errors]
        assert names == ["projectId", "jobId", "metadata", "endTime"]

    @pytest.mark.parametrize("value", ["2030-01-31", "2030-01-31T12:00:00", None, 5])
    def test_tells_a_wrong_instant_from_other_errors(self, value):
        with pytest.raises(InvalidScheduleTimeError):
            read_update({"endTime": value})


@pytest.mark.django_db
class TestReplaceFromPhaseData:
    @pytest.fixture
    def job(self, now):
        return make_job(
            now=now,
            project_id="12345",
            phase_id="67890",
            challenge_id="7",
            metadata={"a": 1},
        )

    def test_moves_the_job_to_what_the_data_says(self, job, phase_data, operator, now):
        data = phase_data(due_in=7200, phaseTypeName="Submission", metadata={"b": 2})

        new = replace_from_phase_data(job_id=job.job_id, data=data, actor=operator, now=now)

        stored = columns(new)
        assert stored["due_at"] == now + timedelta(hours=2)
        assert stored["phase_type_name"] == "Submission"
        assert stored["metadata"] == {"b": 2}
        assert stored["replaces"] == job.job_id

    def test_keeps_what_the_mapping_does_not_mention(self, job, phase_data, operator, now):
        new = replace_from_phase_data(
            job_id=job.job_id, data=phase_data(due_in=7200), actor=operator, now=now
        )

        assert columns(new)["metadata"] == {"a": 1}
        assert columns(new)["challenge_id"] == columns(new)["key"] == "7"

    def test_takes_the_operator_of_the_data(self, job, phase_data, operator, now):
        data = phase_data(due_in=7200, operator="else", date="2030-01-01T00:00:00Z")

        new = replace_from_phase_data(job_id=job.job_id, data=data, actor=operator, now=now)

        assert columns(new)["operator"] == "else"
        assert columns(new)["date"] == datetime(2030, 1, 1, tzinfo=UTC)

    def test_takes_the_dataclass_as_it_is(self, job, phase_data, operator, now):
        data = read_phase_data(phase_data(due_in=7200))

        new = replace_from_phase_data(job_id=job.job_id, data=data, actor=operator, now=now)

        assert columns(new)["metadata"] == {}

    @pytest.mark.parametrize(
        ("field", "value"),
        [("projectId", 1), ("phaseId", 1), ("state", "START"), ("challengeId", 8)],
    )
    def test_refuses_data_of_another_transition(
        self, job, phase_data, operator, now, field, value
    ):
        before = state_of(job)

        with pytest.raises(InvalidPhaseDataError, match=field):
            replace_from_phase_data(
                job_id=job.job_id,
                data=phase_data(**{field: value}),
                actor=operator,
                now=now,
            )

        assert state_of(job) == before

    def test_asks_for_the_right_before_it_tells_of_jobs(self, phase_data, viewer, now):
        with pytest.raises(OperationNotPermittedError):
            replace_from_phase_data(
                job_id="job-1-2-3", data=phase_data(), actor=viewer, now=now
            )
