"""GET audit/: filters, pages, and everything as a file."""

import asyncio
import csv
import io
import json
from datetime import timedelta

import pytest

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry
from scheduling.queries import audit
from scheduling.queries.audit_export import StreamedResponse, write_csv, write_json
from scheduling.services.cancel import cancel_transition
from tests.scheduling.api.support import assert_problem, queries_of

AUDIT = "/api/v1/audit/"
COLUMNS = [
    *("id", "at", "action", "jobId", "projectId", "phaseId", "state", "actor", "role"),
    *("oldStatus", "newStatus", "changes", "reason", "requestId"),
]


def text_of(response):
    assert response.status_code == 200
    return b"".join(response.streaming_content).decode()


def lines_of(response):
    return [json.loads(line) for line in text_of(response).splitlines()]


def rows_of(response):
    return list(csv.reader(io.StringIO(text_of(response), newline="")))


def ids(response):
    assert response.status_code == 200, response.content
    return [record["id"] for record in response.json()["results"]]


@pytest.fixture
def add_entry(db, now):
    """Return a maker of entries; each is written a second after the one before."""
    seconds = iter(range(1_000_000))

    def make(**fields):
        values = {
            "at": now + timedelta(seconds=next(seconds)),
            "action": "transition.cancelled",
            "job_id": "job-1-2-3",
            "project_id": "2",
            "phase_id": "3",
            "state": "END",
            "actor": "user:olivia",
            "role": "operator",
            "old_status": "scheduled",
            "new_status": "cancelled",
            **fields,
        }
        return AuditEntry.objects.create(**values)

    return make


class TestListAudit:
    def test_shows_what_every_job_s_own_audit_shows_the_newest_first(
        self, as_viewer, add_job, operator, now
    ):
        job = add_job()
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)

        page = as_viewer.get(AUDIT).json()
        own = as_viewer.get(f"/api/v1/transitions/{job.job_id}/audit/").json()

        assert page["results"] == own[::-1]
        assert (page["count"], page["next"], page["previous"]) == (2, None, None)
        assert list(page["results"][0]) == COLUMNS

    @pytest.mark.parametrize(
        ("query", "fields"),
        [
            ({"actor": "user:tom"}, {"actor": "user:tom"}),
            ({"action": "access.refused"}, {"action": "access.refused"}),
            ({"jobId": "job-9-9-9"}, {"job_id": "job-9-9-9"}),
            ({"projectId": "77"}, {"project_id": "77"}),
            (
                {"projectId": "0B4DE5F1-7A6C-4F0E-9D3B-2F1C5A6B7C8D"},
                {"project_id": "0b4de5f1-7a6c-4f0e-9d3b-2f1c5a6b7c8d"},
            ),
            (
                {"actor": "user:tom", "projectId": "77"},
                {"actor": "user:tom", "project_id": "77"},
            ),
        ],
    )
    def test_filters_by(self, as_viewer, add_entry, query, fields):
        add_entry()
        wanted = add_entry(**fields)
        for name, value in fields.items():
            if len(fields) > 1:
                add_entry(**{name: value})

        assert ids(as_viewer.get(AUDIT, query)) == [wanted.pk]

    def test_after_is_inclusive_and_before_exclusive(self, as_viewer, add_entry):
        first, second, _ = (add_entry() for _ in range(3))

        query = {
            "after": format_instant(first.at),
            "before": format_instant(second.at + timedelta(milliseconds=1)),
        }

        assert ids(as_viewer.get(AUDIT, query)) == [second.pk, first.pk]
        query["before"] = format_instant(second.at)
        assert ids(as_viewer.get(AUDIT, query)) == [first.pk]

    def test_pages_follow_each_other_through_next(self, as_viewer, add_entry):
        expected = [add_entry().pk for _ in range(5)][::-1]
        address, found = f"{AUDIT}?pageSize=2&actor=user:olivia", []

        while address:
            page = as_viewer.get(address).json()
            found += [record["id"] for record in page["results"]]
            assert page["count"] == 5
            address = page["next"]

        assert found == expected

    def test_a_page_beyond_the_end_is_not_found(self, as_viewer, add_entry):
        add_entry()

        assert_problem(as_viewer.get(AUDIT, {"page": "2"}), 404, "not_found")

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("actor=", "actor"),
            ("actor=%00", "actor"),
            ("actor=" + "x" * 301, "actor"),
            ("action=cancelled", "action"),
            ("action=transition.%00", "action"),
            ("action=x.y'--", "action"),
            ("jobId=", "jobId"),
            ("jobId=" + "1" * 129, "jobId"),
            ("projectId=x", "projectId"),
            ("after=2026-01-01", "after"),
            ("before=2026-06-31T00:00:00Z", "before"),
            ("before=1&before=2", "before"),
            ("format=xml", "format"),
            ("format=", "format"),
            ("format=csv&page=1", "page"),
            ("format=ndjson&pageSize=5", "pageSize"),
            ("job_id=1", "job_id"),
            ("phaseId=1", "phaseId"),
            ("ordering=at", "ordering"),
        ],
    )
    def test_names_what_is_wrong_in_the_query(self, as_viewer, query, field):
        problem = assert_problem(as_viewer.get(f"{AUDIT}?{query}"), 400, "invalid_request")

        assert [error["field"] for error in problem["errors"]] == [field]

    def test_asks_the_same_number_of_queries_whatever_the_page_holds(
        self, as_viewer, add_entry
    ):
        add_entry()
        one = queries_of(as_viewer, AUDIT)
        for _ in range(20):
            add_entry()

        assert queries_of(as_viewer, AUDIT) == one


class TestAuditAsFile:
    def test_csv_has_the_columns_of_a_record(self, as_viewer, add_entry):
        entry = add_entry(changes={"endTime": ["a", "b"]}, reason='said "so", twice')
        add_entry(job_id="", project_id="", phase_id="", state="", old_status="")

        response = as_viewer.get(AUDIT, {"format": "csv"})
        head, first, second = rows_of(response)

        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert response.headers["Content-Disposition"].endswith('.csv"')
        assert head == COLUMNS
        shown = dict(zip(head, first, strict=True))
        assert shown["id"] == str(entry.pk)
        assert shown["at"] == format_instant(entry.at)
        assert json.loads(shown["changes"]) == {"endTime": ["a", "b"]}
        assert shown["reason"] == 'said "so", twice'
        assert [second[COLUMNS.index(name)] for name in ("jobId", "oldStatus")] == ["", ""]

    def test_ndjson_has_the_records_of_the_pages_the_oldest_first(
        self, as_viewer, add_entry
    ):
        for number in range(5):
            add_entry(reason=f"line\nbreak \U0001f600 {number}")

        response = as_viewer.get(AUDIT, {"format": "ndjson"})

        assert response.headers["Content-Type"] == "application/x-ndjson"
        assert lines_of(response) == as_viewer.get(AUDIT).json()["results"][::-1]

    @pytest.mark.parametrize("chosen", ["csv", "ndjson"])
    def test_filters_as_the_pages_do(self, as_viewer, add_entry, chosen):
        add_entry()
        add_entry(actor="user:tom")

        response = as_viewer.get(AUDIT, {"format": chosen, "actor": "user:tom"})

        assert text_of(response).count("user:tom") == 1
        assert "olivia" not in text_of(
            as_viewer.get(AUDIT, {"format": chosen, "actor": "user:tom"})
        )

    def test_has_everything_once_also_where_instants_are_equal(
        self, as_viewer, add_entry, monkeypatch, now
    ):
        monkeypatch.setattr(audit, "CHUNK", 3)
        expected = [add_entry().pk for _ in range(4)]
        expected += [add_entry(at=now + timedelta(days=1)).pk for _ in range(7)]
        expected += [add_entry(at=now + timedelta(days=2)).pk]

        found = lines_of(as_viewer.get(AUDIT, {"format": "ndjson"}))

        assert [record["id"] for record in found] == expected

    def test_leaves_out_what_is_written_meanwhile(self, add_entry, monkeypatch):
        monkeypatch.setattr(audit, "CHUNK", 2)
        expected = [add_entry().pk for _ in range(4)]
        entries = audit.read_whole(audit.list_audit({}))

        found = [next(entries).pk]
        add_entry()
        found += [entry.pk for entry in entries]

        assert found == expected

    def test_an_empty_one_is_a_line_of_names_or_nothing(self, as_viewer):
        none = {"projectId": "1"}

        assert rows_of(as_viewer.get(AUDIT, {"format": "csv"} | none)) == [COLUMNS]
        assert text_of(as_viewer.get(AUDIT, {"format": "ndjson"} | none)) == ""

    @pytest.mark.parametrize(
        "text",
        [
            *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1"),
            *("\u00a0=1", "\u3000=1", "\ufeff=1", "\u200b =1", "\v=1"),
            *("\uff1d1", "\uff0b1", "\uff0d1", "\uff20SUM(A1)"),
        ],
    )
    def test_no_spreadsheet_takes_a_cell_for_a_formula(self, as_viewer, add_entry, text):
        add_entry(reason=text, actor=f"{text}x")

        _, row = rows_of(as_viewer.get(AUDIT, {"format": "csv"}))
        (line,) = lines_of(as_viewer.get(AUDIT, {"format": "ndjson"}))

        assert row[COLUMNS.index("reason")] == f"'{text}"
        assert row[COLUMNS.index("actor")] == f"'{text}x"
        assert (line["reason"], line["actor"]) == (text, f"{text}x")

    def test_a_problem_stays_a_problem(self, as_viewer, anonymous):
        assert_problem(
            as_viewer.get(AUDIT, {"format": "csv", "projectId": "x"}),
            400,
            "invalid_request",
        )
        assert_problem(anonymous.get(AUDIT, {"format": "csv"}), 401, "not_authenticated")

    @pytest.mark.parametrize(
        ("accepted", "kind"),
        [
            ("text/csv", "text/csv; charset=utf-8"),
            ("text/csv; charset=utf-8, */*;q=0.1", "text/csv; charset=utf-8"),
            ("application/x-ndjson", "application/x-ndjson"),
            ("application/json, text/csv", "application/json"),
            ("text/html, */*", "application/json"),
        ],
    )
    def test_is_a_file_too_where_that_is_accepted(self, as_viewer, add_job, accepted, kind):
        add_job()

        response = as_viewer.get(AUDIT, headers={"Accept": accepted})

        assert response.status_code == 200
        assert response.headers["Content-Type"] == kind

    def test_refuses_as_a_problem_whatever_is_accepted(self, as_viewer):
        accepted = {"Accept": "text/csv"}
        refused = as_viewer.get(AUDIT, {"page": "2"}, headers=accepted)

        problem = assert_problem(refused, 400, "invalid_request")
        assert problem["errors"][0]["field"] == "page"
        nothing = as_viewer.get(AUDIT, headers={"Accept": "image/png"})
        assert_problem(nothing, 406, "not_acceptable")

    @pytest.mark.parametrize("accepted", ["text/csv", "*/*", "application/json"])
    def test_format_decides_whatever_is_accepted(self, as_viewer, accepted):
        response = as_viewer.get(AUDIT, {"format": "csv"}, headers={"Accept": accepted})

        assert response.headers["Content-Type"].startswith("text/csv")

    @pytest.mark.parametrize("accepted", ["text/csv", "application/x-ndjson", "text/html"])
    def test_a_page_is_called_what_it_is(self, as_viewer, accepted):
        response = as_viewer.get(AUDIT, {"format": "json"}, headers={"Accept": accepted})

        assert response.headers["Content-Type"] == "application/json"
        assert response.json()["results"] == []

    def test_a_head_request_reads_nothing(self, as_viewer, add_entry):
        add_entry()

        response = as_viewer.head(AUDIT, {"format": "csv"})

        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/csv")
        assert not response.streaming
        assert response.content == b""

    def test_is_kept_by_nobody(self, as_viewer):
        response = as_viewer.get(AUDIT, {"format": "csv"})

        assert response.headers["Cache-Control"] == "no-store"


class TestStreamedResponse:
    def test_sends_a_piece_before_the_next_is_made(self):
        made = []

        def pieces():
            for number in range(3):
                made.append(number)
                yield str(number).encode()

        async def read():
            return [(piece, len(made)) async for piece in StreamedResponse(pieces())]

        assert asyncio.run(read()) == [(b"0", 1), (b"1", 2), (b"2", 3)]


class TestWriteJson:
    def test_is_one_array(self, add_entry):
        entries = [add_entry() for _ in range(450)]

        whole = json.loads(b"".join(write_json(entries)))
        none = json.loads(b"".join(write_json([])))

        assert [record["id"] for record in whole] == [entry.pk for entry in entries]
        assert none == []


class TestWriteCsv:
    def test_ends_each_line_as_the_standard_says(self, add_entry):
        text = b"".join(write_csv([add_entry()])).decode()

        assert text.count("\r\n") == 2
        assert text.endswith("\r\n")
