"""The OpenAPI document and its page: valid, true, and from this host alone."""

import io
import json
import re

import jsonschema
import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command

from tests.scheduling.api.support import TRANSITIONS

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(client):
    """Return the document as the site serves it."""
    response = client.get("/api/schema/", headers={"Accept": "application/json"})
    assert response.status_code == 200
    return json.loads(response.content)


def operations(document):
    return {
        f"{method} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def check(document, name, value):
    """Check a value against one of the document's shapes, and that it has no more."""
    shape = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(shape).validate(value)
    assert set(value) == set(document["components"]["schemas"][name]["properties"])


class TestSchema:
    def test_is_valid_without_a_warning(self):
        output = io.StringIO()

        call_command(
            "spectacular", validate=True, fail_on_warn=True, stdout=output, stderr=output
        )

        assert output.getvalue().startswith("openapi: 3.1.0")

    def test_knows_every_endpoint(self, document):
        assert set(operations(document)) == {
            "post /api/v1/auth/token/",
            "post /api/v1/auth/token/refresh/",
            "post /api/v1/auth/token/blacklist/",
            "get /api/v1/transitions/",
            "post /api/v1/transitions/",
            "get /api/v1/transitions/{jobId}/",
            "post /api/v1/transitions/{jobId}/cancel/",
            "get /api/v1/transitions/{jobId}/audit/",
        }

    def test_says_what_each_operation_does(self, document):
        for name, operation in operations(document).items():
            assert operation["summary"], name
            assert operation["description"], name
            if name.startswith("post"):
                body = operation["requestBody"]["content"]["application/json"]
                assert body["examples"], name
            for status, answer in operation["responses"].items():
                kind = "problem+json" if status >= "400" else "json"
                assert list(answer["content"]) == [f"application/{kind}"], name
                assert answer["description"], name

    def test_asks_for_a_bearer_token(self, document):
        schemes = document["components"]["securitySchemes"]

        assert schemes == {
            "bearerToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        }
        for name, operation in operations(document).items():
            is_open = "/auth/" in name
            assert bool(operation.get("security")) is not is_open, name

    def test_describes_what_is_answered(self, document, as_operator, add_job):
        job_id = add_job().job_id

        page = as_operator.get(TRANSITIONS).json()
        job = as_operator.get(f"{TRANSITIONS}{job_id}/").json()
        records = as_operator.get(f"{TRANSITIONS}{job_id}/audit/").json()
        cancelled = as_operator.post(
            f"{TRANSITIONS}{job_id}/cancel/", {"reason": "x"}, format="json"
        ).json()
        missing = as_operator.get(f"{TRANSITIONS}job-0/").json()

        check(document, "JobPage", page)
        check(document, "Job", page["results"][0])
        check(document, "JobWithArchive", job)
        check(document, "AuditEntry", records[0])
        check(document, "Job", cancelled)
        check(document, "Problem", missing | {"errors": []})

    def test_its_example_can_be_posted(self, document, as_operator):
        post = operations(document)["post /api/v1/transitions/"]
        examples = post["requestBody"]["content"]["application/json"]["examples"]
        (example,) = (example["value"] for example in examples.values())

        response = as_operator.post(TRANSITIONS, example, format="json")

        # It is dated far ahead: understood, and only refused for that.
        assert response.json()["code"] == "schedule_too_far"

    def test_knows_the_filters_that_the_list_knows(self, document, as_viewer):
        listed = operations(document)["get /api/v1/transitions/"]["parameters"]

        refusal = as_viewer.get(TRANSITIONS, {"foo": "1"}).json()["errors"][0]["message"]

        known = refusal.partition("known are: ")[2].split(", ")
        assert sorted(known) == sorted(parameter["name"] for parameter in listed)


class TestDocs:
    def test_asks_no_other_host(self, client):
        page = client.get("/api/docs/")

        assert page.status_code == 200
        html = page.content.decode()
        assert "swagger-ui" in html
        assert not re.findall(r"""["'(](?:https?:)?//[^"')]+""", html)

    def test_its_files_are_here(self, client):
        html = client.get("/api/docs/").content.decode()

        addresses = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)

        assert len(addresses) >= 3
        for address in addresses:
            assert finders.find(address.removeprefix("/static/")), address


class TestLivez:
    def test_answers_without_a_neighbour(self, client):
        # No database is allowed in this test: a query would fail it.
        response = client.get("/livez")

        assert (response.status_code, response.content) == (200, b"ok")
