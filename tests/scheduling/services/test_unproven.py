from datetime import timedelta

import pytest

from scheduling.domain.errors import JobNotFoundError, ServiceUnavailableError
from scheduling.services import unproven
from scheduling.services.unproven import (
    get_job,
    is_proven,
    lock_job,
    prove_outcome,
    prove_outcomes,
)
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
from tests.support.topic import cut_off, put_event


@pytest.mark.django_db
class TestGetAndLockJob:
    @pytest.mark.parametrize("get", [get_job, lock_job])
    def test_return_the_row_of_that_id(self, now, get):
        job = make_job(now=now)
        make_job(now=now)

        assert get(job.job_id) == job

    @pytest.mark.parametrize("get", [get_job, lock_job])
    @pytest.mark.parametrize(
        "job_id", ["", "job-1-2-3", "job-\x00", "job-\ud800", "x" * 1000, "%", "job-_"]
    )
    def test_say_so_when_there_is_none(self, now, get, job_id):
        make_job(now=now, job_id="job-a")

        with pytest.raises(JobNotFoundError) as caught:
            get(job_id)

        assert caught.value.code == "job_not_found"


@pytest.mark.django_db
class TestProveOutcome:
    @pytest.mark.parametrize(
        "history", [SCHEDULED, RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED]
    )
    def test_asks_nobody_where_nothing_is_unknown(self, now, settings, history):
        job = make_job(history, now=now)
        before = state_of(job)
        cut_off(settings)

        assert prove_outcome(job.job_id, now=now) is None
        assert state_of(job) == before

    def test_leaves_a_running_attempt_to_its_worker(self, now, settings):
        job = make_job(RUNNING, now=now, unproven_since=now)
        cut_off(settings)

        assert prove_outcome(job.job_id, now=now) is None

    def test_tells_since_when_it_searched_in_vain(self, now, kafka):
        since = now - timedelta(minutes=2)
        job = make_job(UNPROVEN, now=now, unproven_since=since)
        before = state_of(job)

        assert prove_outcome(job.job_id, now=now) == since
        assert state_of(job) == before

    def test_completes_the_job_where_the_record_stands(self, now, kafka):
        job = make_job(UNPROVEN, now=now, due_in=-2)
        put_event(job, at=now - timedelta(seconds=1))

        prove_outcome(job.job_id, now=now)

        stored = columns(job)
        assert stored["completed_at"] == stored["finalized_at"] == now
        assert stored["lateness_ms"] == 2000.0
        last = audit_of(job.job_id)[-1]
        assert last.changes == {
            "partition": stored["topic_partition"],
            "offset": stored["topic_offset"],
            "latenessMs": 2000.0,
        }
        assert chain_breaks(job.job_id) == []

    def test_says_so_when_there_is_no_such_job(self, now):
        with pytest.raises(JobNotFoundError):
            prove_outcome("job-1-2-3", now=now)

    def test_leaves_a_job_with_which_somebody_moved_on(self, now, kafka, monkeypatch):
        job = make_job(UNPROVEN, now=now)
        put_event(job, at=now)
        search = unproven.find_events

        def search_slowly(*args, **kwargs):
            found = search(*args, **kwargs)
            fresh = get_job(job.job_id)
            fresh.unproven_since = now + timedelta(seconds=1)
            fresh.save()
            return found

        monkeypatch.setattr(unproven, "find_events", search_slowly)
        searched = prove_outcome(job.job_id, now=now)

        assert columns(job)["status"] == "scheduled"
        assert not is_proven(get_job(job.job_id), searched=searched)


@pytest.mark.django_db
class TestProveOutcomes:
    def test_searches_once_for_all(self, now, kafka, monkeypatch):
        found = make_job(UNPROVEN, now=now)
        failed = make_job(FAILED_UNPROVEN, now=now)
        lost = make_job(UNPROVEN, now=now)
        known = make_job(SCHEDULED, now=now)
        put_event(found, at=now)
        put_event(failed, at=now)
        searches = []
        search = unproven.find_events
        monkeypatch.setattr(
            unproven,
            "find_events",
            lambda wanted, **kwargs: searches.append(wanted) or search(wanted, **kwargs),
        )

        searched = prove_outcomes([found, failed, lost, known], now=now)

        assert searched.keys() == {found.job_id, failed.job_id, lost.job_id}
        assert len(searches) == 1
        statuses = [columns(job)["status"] for job in (found, failed, lost, known)]
        assert statuses == ["completed", "completed", "scheduled", "scheduled"]

    def test_leaves_a_retried_job_to_its_successor(self, now, settings):
        job = make_job(FAILED_UNPROVEN, now=now, replaced_by="job-1-2-3")
        cut_off(settings)

        assert prove_outcomes([job], now=now) == {}

    def test_says_so_when_the_topic_can_not_be_searched(self, now, settings, monkeypatch):
        monkeypatch.setattr(unproven, "SEARCH_SECONDS", 1.0)
        job = make_job(UNPROVEN, now=now)
        cut_off(settings)

        with pytest.raises(ServiceUnavailableError, match="can't be searched"):
            prove_outcomes([job], now=now)
