"""`manage.py list_transitions`: pages, filters, and the same JSON as the API."""

import io
import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from scheduling.domain.phases import format_instant
from scheduling.models import ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.schedule import schedule_many


@pytest.fixture
def jobs(db, phase_data, shell, now):
    """Return five jobs, due an hour apart; the last is cancelled."""
    data = [
        phase_data(phaseId=n, due_in=3600 * n, phaseTypeName=f"Phase {n}")
        for n in range(1, 6)
    ]
    made = [one.job for one in schedule_many(data, actor=shell, now=now)]
    cancel_transition(job_id=made[-1].job_id, actor=shell, reason="spare", now=now)
    return made


def run(*arguments):
    output = io.StringIO()
    call_command("list_transitions", *arguments, stdout=output)
    return output.getvalue()


def listed(*arguments):
    return [job["phaseId"] for job in json.loads(run(*arguments, "--json"))["results"]]


def refused(*arguments):
    output = io.StringIO()
    with pytest.raises(CommandError) as refusal:
        call_command("list_transitions", *arguments, "--json", stdout=output)
    assert refusal.value.returncode == 1
    return json.loads(output.getvalue())


class TestListTransitions:
    def test_lists_jobs_of_every_status_in_due_order(self, jobs):
        assert listed() == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--status", "cancelled"], [5]),
            (["--status", "cancelled", "--status", "scheduled"], [1, 2, 3, 4, 5]),
            (["--phase-id", "3"], [3]),
            (["--project-id", "12345", "--state", "START"], []),
            (["--search", "phase 2"], [2]),
            (["--ordering=-endTime", "--status", "scheduled"], [4, 3, 2, 1]),
            (["--overdue"], []),
            (["--overdue", "false"], [1, 2, 3, 4, 5]),
        ],
    )
    def test_filters_as_the_api_does(self, jobs, arguments, expected):
        assert listed(*arguments) == expected

    def test_takes_due_after_inclusively_and_due_before_exclusively(self, jobs):
        after, before = (format_instant(job.due_at) for job in (jobs[1], jobs[3]))

        assert listed("--due-after", after, "--due-before", before) == [2, 3]

    def test_finds_what_is_overdue(self, jobs, now):
        due_at = now - timedelta(seconds=5)
        ScheduledTransition.objects.filter(job_id=jobs[2].job_id).update(
            due_at=due_at, ready_at=due_at
        )

        assert listed("--overdue") == [3]

    def test_prints_the_api_s_page(self, jobs):
        page = json.loads(
            run("--json", "--page", "2", "--page-size", "2", "--state", "END")
        )

        assert page["count"] == 5
        assert page["next"] == "/api/v1/transitions/?state=END&page=3&pageSize=2"
        assert page["previous"] == "/api/v1/transitions/?state=END&page=1&pageSize=2"
        assert [job["phaseId"] for job in page["results"]] == [3, 4]

    def test_prints_a_table_for_people(self, jobs):
        lines = run("--page-size", "2").splitlines()

        assert lines[0].split() == [
            *("job", "state", "phase", "due", "status"),
            *("late", "by", "(ms)"),
        ]
        assert lines[1].split()[:2] == [jobs[0].job_id, "END"]
        assert lines[3:] == [
            "2 of 5 jobs",
            "There are more: --page and --page-size show them.",
        ]

    def test_shows_no_control_characters_of_strangers(self, jobs):
        ScheduledTransition.objects.filter(job_id=jobs[0].job_id).update(
            phase_type_name="[red]\x1b[2J\nx"
        )

        output = run("--phase-id", "1")

        assert r"[red]\x1b[2J\nx" in output

    def test_refuses_a_page_beyond_the_end(self, jobs):
        assert refused("--page", "2")["code"] == "not_found"

    def test_shows_an_empty_first_page(self, db):
        assert json.loads(run("--json")) == {
            "count": 0,
            "next": None,
            "previous": None,
            "results": [],
        }

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            (["--page", "0"], "page"),
            (["--page-size", "501"], "pageSize"),
            (["--project-id", "x"], "projectId"),
            (["--due-after", "2030-01-01"], "dueAfter"),
            (["--ordering", "phaseId"], "ordering"),
        ],
    )
    def test_names_the_option_that_is_wrong(self, db, arguments, field):
        problem = refused(*arguments)

        assert problem["code"] == "invalid_request"
        assert [error["field"] for error in problem["errors"]] == [field]
