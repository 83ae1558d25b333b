"""The list of jobs, where it is searched and nothing else, on the database's index."""

import pytest
from django.db import connection

from tests.scheduling.api.support import TRANSITIONS
from tests.support.histories import make_job
from tests.support.job_texts import follow_all

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="DATABASE_URL names no PostgreSQL"
    ),
]


@pytest.fixture
def jobs(now, monkeypatch):
    """Return four jobs in due order, which the index knows, beside one of another name.

    The list that looks at the jobs themselves is not there.
    """
    made = [make_job(now=now, due_in=seconds) for seconds in (900, 300, 300, 600)]
    make_job(now=now, due_in=60, phase_type_name="Other")
    follow_all(now)
    monkeypatch.setattr("scheduling.api.views.list_jobs", None)
    return [made[1], made[2], made[3], made[0]]


def search(client, **query):
    return client.get(TRANSITIONS, {"search": "REGIS", "pageSize": 3, **query}).json()


def test_is_in_due_order_page_by_page(jobs, as_viewer):
    first, second = search(as_viewer), search(as_viewer, page=2)

    shown = [one["jobId"] for page in (first, second) for one in page["results"]]
    assert shown == [job.job_id for job in jobs]
    assert first["count"] == second["count"] == 4
    assert "page=2" in first["next"]
    assert second["next"] is None
    assert second["previous"]


def test_may_be_read_backwards(jobs, as_viewer):
    page = search(as_viewer, ordering="-endTime", pageSize=9)

    assert [one["jobId"] for one in page["results"]] == [
        job.job_id for job in reversed(jobs)
    ]


def test_leaves_a_job_out_that_has_just_been_deleted(jobs, as_viewer):
    jobs[1].delete()

    page = search(as_viewer)

    assert [one["jobId"] for one in page["results"]] == [jobs[0].job_id, jobs[2].job_id]
    assert page["next"]


def test_has_no_page_beyond_its_end(jobs, as_viewer):
    assert search(as_viewer, page=3)["detail"] == "There is no page 3."
