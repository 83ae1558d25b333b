"""`manage.py export_audit`: the API's records, as a file that is whole or not there."""

import csv
import io
import json
import subprocess
import sys
from unittest.mock import patch

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from scheduling.management.commands import export_audit
from scheduling.models import AuditEntry, AuditSeal
from scheduling.queries.audit import AUDIT_COLUMNS, show_audit_entry
from scheduling.services.seals import Sealer
from tests.support.histories import COMPLETED, make_job
from tests.support.tampering import tampering


@pytest.fixture
def job(db, now):
    """Return a job with three audit records."""
    return make_job(COMPLETED, now=now)


def run(*arguments):
    output = io.StringIO()
    call_command("export_audit", *arguments, stdout=output)
    return output.getvalue()


def refused(*arguments):
    output = io.StringIO()
    with pytest.raises(CommandError) as refusal:
        call_command("export_audit", *arguments, "--json", stdout=output)
    assert refusal.value.returncode == 1
    return json.loads(output.getvalue())


def write_entries(now, count):
    AuditEntry.objects.bulk_create(
        AuditEntry(at=now, action="access.refused", actor="user:x", role="")
        for _ in range(count)
    )


def actions(records):
    return [record["action"] for record in records]


WHOLE = ["transition.scheduled", "transition.claimed", "transition.completed"]


class TestExportAudit:
    def test_prints_csv_unless_told_otherwise(self, job):
        rows = list(csv.DictReader(io.StringIO(run(), newline="")))

        assert tuple(rows[0]) == AUDIT_COLUMNS
        assert actions(rows) == WHOLE

    def test_prints_a_record_a_line(self, job):
        lines = run("--format", "ndjson").splitlines()

        assert actions(json.loads(line) for line in lines) == WHOLE

    @pytest.mark.parametrize("options", [["--format", "json"], ["--json"]])
    def test_prints_one_document(self, job, options):
        assert actions(json.loads(run(*options))) == WHOLE

    def test_has_the_records_as_the_api_shows_them(self, job):
        expected = [show_audit_entry(entry) for entry in AuditEntry.objects.order_by("id")]

        assert json.loads(run("--json")) == expected

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--actor", "user:hannah"], WHOLE[:1]),
            (["--action", "transition.claimed"], WHOLE[1:2]),
            (["--project-id", "1"], []),
            (["--job-id", "job-0"], []),
            (["--since", "2100-01-01T00:00:00Z"], []),
            (["--until", "2100-01-01T00:00:00Z"], WHOLE),
            (["--after", "2100-01-01T00:00:00Z"], []),
            (["--before", "2100-01-01T00:00:00Z"], WHOLE),
        ],
    )
    def test_filters_as_the_api_does(self, job, options, expected):
        assert actions(json.loads(run("--json", *options))) == expected

    def test_writes_a_file_and_tells_how_much(self, job, tmp_path):
        path = tmp_path / "audit.ndjson"

        told = run("--format", "ndjson", "--output", str(path))

        assert told == f"3 records written to {path}\n"
        lines = path.read_text().splitlines()
        assert actions(json.loads(line) for line in lines) == WHOLE
        assert list(tmp_path.iterdir()) == [path]

    def test_tells_a_script_the_same(self, job, tmp_path):
        path = tmp_path / "audit.csv"

        told = run("--format", "csv", "--output", str(path), "--json")

        assert json.loads(told) == {
            "output": str(path),
            "format": "csv",
            "count": 3,
            "chain": None,
        }

    def test_leaves_the_old_file_where_it_fails(self, job, tmp_path):
        path = tmp_path / "audit.csv"
        path.write_text("old")

        def fail(entries):
            yield b"half"
            raise OperationalError("gone")

        with patch.dict(export_audit.WRITERS, {"csv": fail}):
            problem = refused("--format", "csv", "--output", str(path))

        assert problem["code"] == "service_unavailable"
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_replaces_the_file_behind_a_link(self, job, tmp_path):
        path, link = tmp_path / "audit.csv", tmp_path / "link"
        path.write_text("old")
        link.symlink_to(path)

        run("--output", str(link))

        assert link.is_symlink()
        assert path.read_text().startswith("id,at,")

    def test_writes_into_a_device_and_leaves_it_one(self, job):
        assert run("--output", "/dev/null") == "3 records written to /dev/null\n"

    def test_refuses_a_file_that_can_t_be_written(self, job, tmp_path):
        problem = refused("--output", str(tmp_path / "missing" / "audit.csv"))

        assert problem["code"] == "invalid_request"
        assert "can't be written: No such file or directory" in problem["detail"]

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            (["--project-id", "x"], "projectId"),
            (["--action", "cancelled"], "action"),
            (["--after", "2030-01-01"], "after"),
        ],
    )
    def test_names_the_option_that_is_wrong(self, db, options, field):
        problem = refused(*options)

        assert [error["field"] for error in problem["errors"]] == [field]

    def test_json_can_t_print_another_format(self, db):
        with pytest.raises(CommandError) as refusal:
            run("--json", "--format", "csv")

        assert refusal.value.returncode == 2

    @pytest.mark.parametrize("chosen", ["csv", "ndjson", "json"])
    def test_goes_on_with_what_was_broken_off(self, db, now, tmp_path, chosen, monkeypatch):
        monkeypatch.setattr("scheduling.management.resumable.NOTE_ROWS", 400)
        write_entries(now, 1_000)
        path = tmp_path / "audit"
        options = ["--format", chosen, "--output", str(path)]
        run(*options)
        whole = path.read_bytes()
        path.unlink()
        write, made = export_audit.WRITERS[chosen], []

        def break_off(entries):
            for piece in write(entries):
                made.append(piece)
                if len(made) == 5:
                    raise KeyboardInterrupt
                yield piece

        with (
            patch.dict(export_audit.WRITERS, {chosen: break_off}),
            pytest.raises(KeyboardInterrupt),
        ):
            run(*options)
        assert not path.exists()
        write_entries(now, 3)
        told = json.loads(run(*options, "--resume", "--json"))

        assert told["count"] == 1_000
        assert path.read_bytes() == whole
        assert list(tmp_path.iterdir()) == [path]

    def test_goes_on_with_nothing_else(self, job, tmp_path):
        problem = refused("--output", str(tmp_path / "audit.csv"), "--resume")

        assert problem["code"] == "conflict"
        assert list(tmp_path.iterdir()) == []

    def test_resume_needs_a_file(self, db):
        with pytest.raises(CommandError) as refusal:
            run("--resume")

        assert refusal.value.returncode == 2

    def test_proves_the_chain_of_what_it_writes(self, job, now, tmp_path):
        Sealer().seal_next(now=now)

        told = json.loads(run("--output", str(tmp_path / "audit.csv"), "--json"))

        assert (told["chain"]["ok"], told["chain"]["entries"]) == (True, 3)
        assert told["chain"]["newestDigest"] == AuditSeal.objects.get().digest

    def test_says_that_the_audit_was_changed(self, job, now, tmp_path):
        Sealer().seal_next(now=now)
        path = tmp_path / "audit.csv"

        with tampering():
            AuditEntry.objects.filter(action="transition.claimed").update(reason="x")
            told = refused("--output", str(path))

        assert "does not match" in told["chain"]["faults"][0]
        assert path.exists()

    @pytest.mark.processes
    @pytest.mark.django_db(transaction=True)
    def test_ends_without_a_word_where_nobody_reads_on(self, process_environment, now):
        # More than any pipe holds.
        AuditEntry.objects.bulk_create(
            AuditEntry(at=now, action="access.refused", actor="user:x", role="")
            for _ in range(5_000)
        )
        process = subprocess.Popen(
            [sys.executable, "manage.py", "export_audit"],
            env=process_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

        first = process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
        process.stderr.close()

        assert first.startswith(b"id,at,")
        assert process.wait(30) == 1
        assert told == b""
