"""The OpenAPI document tells the truth about what is only read."""

import json

import jsonschema
import pytest

from scheduling.models import Challenge, DeadLetter, Phase, ProcessState
from scheduling.services.cancel import cancel_transition

PREFIX = "/api/v1/"
LISTS = {
    "audit/": "AuditPage",
    "challenges/": "ChallengePage",
    "dead-letters/": "DeadLetterPage",
}


@pytest.fixture
def document(client):
    """Return the document as the site serves it."""
    response = client.get("/api/schema/", headers={"Accept": "application/json"})
    return json.loads(response.content)


def check(document, name, value):
    """Check a value against a shape, and that neither has what the other lacks."""
    shapes = document["components"]["schemas"]
    shape = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(shape).validate(value)
    assert set(value) == set(shapes[name]["properties"])


@pytest.fixture
def rows(add_job, operator, now):
    """Fill every table that is read."""
    job = add_job(challengeId=7)
    cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)
    challenge = Challenge.objects.create(
        challenge_id="7", project_id="12345", status="ACTIVE", read_at=now
    )
    Phase.objects.create(challenge=challenge, phase_id="1", name="Review", predecessor="2")
    DeadLetter.objects.create(
        cluster_id="c",
        topic="autopilot.command",
        partition=0,
        offset=1,
        key=b"1",
        value=b"garbage",
        code="invalid_request",
        category="validation",
        message="the record: is no JSON",
        errors=[{"field": "", "message": "is no JSON"}],
        set_aside_at=now,
    )
    ProcessState.objects.create(
        kind="consumer",
        host="here",
        pid=1,
        started_at=now,
        seen_at=now,
        figures={"handled": 1, "isPaused": False, "lag": {"a[0]": 2}},
    )


class TestDocument:
    @pytest.mark.parametrize("path", LISTS)
    def test_describes_a_list_and_what_is_in_it(self, document, as_viewer, rows, path):
        page = as_viewer.get(PREFIX + path).json()

        check(document, LISTS[path], page)
        item = {"AuditPage": "AuditEntry"}.get(
            LISTS[path], LISTS[path].removesuffix("Page")
        )
        assert page["results"]
        for result in page["results"]:
            check(document, item, result)

    def test_describes_a_challenge_with_its_phases_and_jobs(
        self, document, as_viewer, rows
    ):
        challenge = as_viewer.get(f"{PREFIX}challenges/7/").json()

        check(document, "Challenge", challenge)
        check(document, "Phase", challenge["phases"][0])
        check(document, "Job", challenge["jobs"][0])

    def test_describes_the_figures(self, document, as_viewer, rows):
        stats = as_viewer.get(f"{PREFIX}stats/").json()

        check(document, "Stats", stats)
        check(document, "SchedulerStats", stats["scheduler"])
        check(document, "Lateness", stats["scheduler"]["latenessMs"])
        check(document, "Process", stats["scheduler"]["processes"][0])
        check(document, "KafkaStats", stats["kafka"])
        check(document, "ConsumerStats", stats["kafka"]["consumer"])

    def test_describes_a_dead_letter(self, document, as_operator, rows):
        letter = DeadLetter.objects.get()
        path = f"{PREFIX}dead-letters/{letter.pk}/"

        discarded = as_operator.post(f"{path}discard/", {"reason": "x"}, format="json")

        check(document, "DeadLetter", as_operator.get(path).json())
        check(document, "DeadLetter", discarded.json())

    @pytest.mark.parametrize("path", LISTS)
    def test_knows_the_parameters_that_a_list_knows(self, document, as_viewer, path):
        told = document["paths"][PREFIX + path]["get"]["parameters"]

        refusal = as_viewer.get(PREFIX + path, {"foo": "1"}).json()["errors"][0]["message"]

        known = refusal.partition("known are: ")[2].split(", ")
        assert sorted(known) == sorted(one["name"] for one in told if one["in"] == "query")

    def test_tells_in_which_formats_the_audit_comes(self, document):
        answer = document["paths"][f"{PREFIX}audit/"]["get"]["responses"]["200"]

        assert list(answer["content"]) == [
            "application/json",
            "text/csv",
            "application/x-ndjson",
        ]
