"""What stands in the way of new jobs is found whatever else there is."""

import pytest

from scheduling.adapters.standing import ever_given, find_standing
from scheduling.services.cancel import cancel_transition
from scheduling.services.schedule import schedule_many


@pytest.fixture
def standing_jobs(db, phase_data, operator, now):
    data = [
        phase_data(projectId=project, phaseId=phase, state=state)
        for project, phase in ((1, 1), (2, 2), (1, 2))
        for state in ("START", "END")
    ]
    return [one.job for one in schedule_many(data, actor=operator, now=now)]


class TestFindStanding:
    def test_finds_the_live_jobs_of_just_these_identities(self, standing_jobs):
        asked = [("1", "1", "END"), ("2", "2", "START"), ("2", "1", "END")]

        found = find_standing(asked, set())

        assert {identity: job.job_id for identity, job in found.live.items()} == {
            ("1", "1", "END"): standing_jobs[1].job_id,
            ("2", "2", "START"): standing_jobs[2].job_id,
        }

    def test_leaves_out_what_is_no_longer_live(self, standing_jobs, operator, now):
        job = standing_jobs[0]
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)

        found = find_standing([("1", "1", "START")], {job.job_id})

        assert found.live == {}
        assert found.job_ids == {job.job_id}


class TestEverGiven:
    def test_names_each_job_id_once_however_long_its_history(
        self, standing_jobs, operator, now
    ):
        job = standing_jobs[0]
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)

        assert ever_given({job.job_id, "job-1-1-1"}) == {job.job_id}

    def test_knows_a_job_whose_row_is_gone(self, standing_jobs):
        job = standing_jobs[0]
        type(job).objects.filter(job_id=job.job_id).delete()

        assert ever_given({job.job_id}) == {job.job_id}
