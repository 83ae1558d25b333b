"""GET challenges/: what was last read, with phases and jobs, in few queries."""

from datetime import timedelta

import pytest

from scheduling.domain.phases import format_instant
from scheduling.models import Challenge, Phase
from tests.scheduling.api.support import TRANSITIONS, assert_problem, queries_of
from tests.support.histories import CANCELLED, make_job

CHALLENGES = "/api/v1/challenges/"
UUID = "0b4de5f1-7a6c-4f0e-9d3b-2f1c5a6b7c8d"


@pytest.fixture
def add_challenge(db, now):
    """Return a maker of challenges that were read just now."""

    def make(challenge_id, *, project_id="1", phases=(), **fields):
        challenge = Challenge.objects.create(
            challenge_id=challenge_id,
            project_id=project_id,
            **{"status": "ACTIVE", "read_at": now, **fields},
        )
        for position, phase_id in enumerate(phases):
            Phase.objects.create(
                challenge=challenge, phase_id=phase_id, name="Review", position=position
            )
        return challenge

    return make


def ids(response):
    assert response.status_code == 200, response.content
    return [challenge["challengeId"] for challenge in response.json()["results"]]


class TestChallenge:
    def test_shows_what_was_last_read(self, as_viewer, add_challenge, now):
        challenge = add_challenge(UUID, project_id="12345", name="A page")
        Phase.objects.create(
            challenge=challenge,
            phase_id="11",
            template_id=UUID,
            name="Registration",
            position=1,
            scheduled_start_at=now,
            scheduled_end_at=now + timedelta(hours=1),
            actual_start_at=now + timedelta(seconds=1),
            predecessor="10",
        )
        Phase.objects.create(challenge=challenge, phase_id="10", name="Brief", position=0)

        shown = as_viewer.get(f"{CHALLENGES}{UUID.upper()}/").json()

        nothing = dict.fromkeys(
            ["scheduledStartDate", "scheduledEndDate", "actualStartDate", "actualEndDate"]
        )
        assert shown == {
            "challengeId": UUID,
            "projectId": 12345,
            "name": "A page",
            "status": "ACTIVE",
            "readAt": format_instant(now),
            "newestMessageAt": None,
            "mustBeReadSince": None,
            "phases": [
                {
                    "phaseId": 10,
                    "templateId": None,
                    "phaseTypeName": "Brief",
                    **nothing,
                    "predecessor": None,
                },
                {
                    "phaseId": 11,
                    "templateId": UUID,
                    "phaseTypeName": "Registration",
                    **nothing,
                    "scheduledStartDate": format_instant(now),
                    "scheduledEndDate": format_instant(now + timedelta(hours=1)),
                    "actualStartDate": format_instant(now + timedelta(seconds=1)),
                    "predecessor": 10,
                },
            ],
            "jobs": [],
        }

    def test_has_its_jobs_in_due_order_as_the_list_of_jobs_shows_them(
        self, as_viewer, add_challenge, now
    ):
        add_challenge("7", project_id="1", phases=["11", "12"])
        late = make_job(now=now, challenge_id="7", project_id="1", phase_id="99", due_in=9)
        over = make_job(CANCELLED, now=now, challenge_id="7", due_in=5)
        # Scheduled by somebody who named the project alone.
        unnamed = make_job(now=now, project_id="1", phase_id="11", due_in=7)
        make_job(now=now, project_id="1", phase_id="13")
        make_job(now=now, project_id="2", phase_id="11")
        make_job(now=now, challenge_id="8", project_id="1", phase_id="12")

        shown = as_viewer.get(f"{CHALLENGES}7/").json()["jobs"]

        assert [job["jobId"] for job in shown] == [
            over.job_id,
            unnamed.job_id,
            late.job_id,
        ]
        for job in shown:
            listed = as_viewer.get(TRANSITIONS, {"search": job["jobId"]}).json()
            assert listed["results"] == [job]

    @pytest.mark.parametrize("path", ["7", "0", "x", "1.5", UUID, "%00", "9" * 40])
    def test_an_unknown_one_is_not_found(self, as_viewer, path):
        problem = assert_problem(as_viewer.get(f"{CHALLENGES}{path}/"), 404, "not_found")
        assert "challenge" in problem["detail"]


class TestListChallenges:
    def test_shows_each_as_by_itself(self, as_viewer, add_challenge, now):
        for number in ("1", "2"):
            add_challenge(number, project_id="5", phases=[f"{number}1", f"{number}2"])
            make_job(now=now, project_id="5", phase_id=f"{number}1")
            make_job(now=now, challenge_id=number)

        page = as_viewer.get(CHALLENGES).json()

        assert page["count"] == 2
        for challenge in page["results"]:
            path = f"{CHALLENGES}{challenge['challengeId']}/"
            assert as_viewer.get(path).json() == challenge
            assert len(challenge["jobs"]) == 2

    @pytest.mark.parametrize(
        ("query", "fields"),
        [
            ({"projectId": "77"}, {"project_id": "77"}),
            (
                {"status": "CANCELLED_CLIENT_REQUEST"},
                {"status": "CANCELLED_CLIENT_REQUEST"},
            ),
        ],
    )
    def test_filters_by(self, as_viewer, add_challenge, query, fields):
        add_challenge("1")
        add_challenge("2", **fields)

        assert ids(as_viewer.get(CHALLENGES, query)) == [2]

    def test_pages_follow_each_other_through_next(self, as_viewer, add_challenge):
        for number in "12345":
            add_challenge(number)
        address, found = f"{CHALLENGES}?pageSize=2", []

        while address:
            page = as_viewer.get(address).json()
            found += [challenge["challengeId"] for challenge in page["results"]]
            address = page["next"]

        assert found == [1, 2, 3, 4, 5]

    def test_asks_the_same_number_of_queries_whatever_the_page_holds(
        self, as_viewer, add_challenge, now
    ):
        add_challenge("1", phases=["11"])
        make_job(now=now, challenge_id="1")
        one = queries_of(as_viewer, CHALLENGES)
        for number in range(2, 20):
            add_challenge(f"{number}", phases=[f"{number}1", f"{number}2"])
            make_job(now=now, challenge_id=f"{number}")
            make_job(now=now, project_id="1", phase_id=f"{number}1")

        assert len(as_viewer.get(CHALLENGES).json()["results"]) == 19
        assert queries_of(as_viewer, CHALLENGES) == one

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("projectId=x", "projectId"),
            ("status=", "status"),
            ("status=%00", "status"),
            ("status=" + "x" * 256, "status"),
            ("challengeId=1", "challengeId"),
            ("pageSize=501", "pageSize"),
        ],
    )
    def test_names_what_is_wrong_in_the_query(self, as_viewer, query, field):
        problem = assert_problem(
            as_viewer.get(f"{CHALLENGES}?{query}"), 400, "invalid_request"
        )

        assert [error["field"] for error in problem["errors"]] == [field]
