from datetime import timedelta

import pytest

from scheduling.adapters.updates import update_rows
from tests.support.histories import UNPROVEN, columns, make_job

FIELDS = ("last_error", "unproven_since", "is_overridden", "upstream_at")


@pytest.mark.django_db
class TestUpdateRows:
    def test_writes_each_row_s_own_values_and_leaves_the_rest(self, now):
        jobs = [make_job(UNPROVEN, now=now) for _ in range(3)]
        other = make_job(UNPROVEN, now=now)
        before = [columns(job) for job in (*jobs, other)]
        for number, job in enumerate(jobs):
            job.last_error = f"it's {number}, \\{{}}"
            job.unproven_since = None
            job.is_overridden = number == 1
            job.upstream_at = None if number else now + timedelta(milliseconds=1)
            job.phase_type_name = "not written"

        update_rows(jobs, fields=FIELDS)

        for was, job in zip(before, jobs, strict=False):
            assert columns(job) == was | {name: getattr(job, name) for name in FIELDS}
        assert columns(other) == before[-1]

    def test_writes_nothing_where_there_is_nothing(self, django_assert_num_queries):
        with django_assert_num_queries(0):
            update_rows([], fields=FIELDS)
