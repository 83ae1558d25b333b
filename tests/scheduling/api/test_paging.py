"""Pages of a large table: how far rows are counted."""

import pytest
from django.db import connection

from scheduling.models import AuditEntry
from scheduling.queries import counting
from tests.scheduling.api.support import assert_problem

AUDIT = "/api/v1/audit/"


@pytest.fixture
def entries(db, now):
    """Fill the audit with forty entries."""
    AuditEntry.objects.bulk_create(
        AuditEntry(at=now, action="access.refused", actor=f"user:{number % 2}", role="")
        for number in range(40)
    )


class TestCount:
    def test_is_exact_as_far_as_rows_are_counted(self, as_viewer, entries, monkeypatch):
        monkeypatch.setattr(counting, "MOST_COUNTED", 20)

        page = as_viewer.get(AUDIT, {"pageSize": 5, "actor": "user:1"}).json()

        assert page["count"] == 20

    @pytest.mark.postgres
    def test_is_an_estimate_beyond(self, as_viewer, entries, monkeypatch):
        if connection.vendor != "postgresql":
            pytest.skip("SQLite counts everything")
        monkeypatch.setattr(counting, "MOST_COUNTED", 10)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE scheduling_auditentry")

        page = as_viewer.get(AUDIT, {"pageSize": 5}).json()

        assert page["count"] == 40

    def test_is_never_less_than_what_was_seen(self, as_viewer, entries, monkeypatch):
        monkeypatch.setattr(counting, "MOST_COUNTED", 2)

        page = as_viewer.get(AUDIT, {"pageSize": 10, "page": 3}).json()

        assert page["next"]
        assert page["count"] >= 31

    @pytest.mark.parametrize("page", ["3", "9" * 18])
    def test_a_page_beyond_the_end_is_not_found(self, as_viewer, entries, page):
        query = {"pageSize": 20, "page": page}

        problem = assert_problem(as_viewer.get(AUDIT, query), 404, "not_found")
        assert problem["detail"] == f"There is no page {page}."

    def test_the_last_page_has_no_next(self, as_viewer, entries):
        page = as_viewer.get(AUDIT, {"pageSize": 20, "page": 2}).json()

        assert (page["count"], page["next"], len(page["results"])) == (40, None, 20)
