"""The OpenAPI document and its page: valid, true, and from this host alone."""

import io
import json
import re
from datetime import datetime

import jsonschema
import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.urls import get_resolver

from tests.scheduling.api.routes_table import PUBLIC, ROUTES
from tests.scheduling.api.support import TRANSITIONS, assert_problem, views_below
from tests.support.histories import EXPIRED, make_job

METHODS = {"get", "post", "put", "patch", "delete"}
CODES = [
    "invalid_request",
    "invalid_phase_data",
    "invalid_schedule_time",
    "past_schedule_time",
    "schedule_too_soon",
    "schedule_too_far",
    "not_authenticated",
    "permission_denied",
    "not_found",
    "job_not_found",
    "duplicate_job",
    "job_not_cancellable",
    "job_not_updatable",
    "job_not_runnable",
    "job_not_retryable",
    "conflict",
    "precondition_failed",
    "payload_too_large",
    "unsupported_media_type",
    "throttled",
    "service_unavailable",
]
# An inline script, style or handler, which the policy forbids; JSON is data.
INLINE = re.compile(
    r"""<script(?![^>]*\bsrc=)(?![^>]*type="application/json")|<style|\son[a-z]+\s*="""
    r"""|\sstyle\s*=|javascript:""",
    re.IGNORECASE,
)


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


def media_types(document):
    """Yield every body and answer of the document."""
    for operation in operations(document).values():
        yield from operation.get("requestBody", {}).get("content", {}).values()
        for answer in operation["responses"].values():
            yield from answer.get("content", {}).values()


def check(document, name, value):
    """Check a value against one of the document's shapes, and that it has no more."""
    shape = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(shape).validate(value)
    assert set(value) <= set(document["components"]["schemas"][name]["properties"])


class TestSchema:
    def test_is_valid_without_a_warning(self):
        output = io.StringIO()

        call_command(
            "spectacular", validate=True, fail_on_warn=True, stdout=output, stderr=output
        )

        assert output.getvalue().startswith("openapi: 3.1.0")

    def test_knows_every_endpoint(self, document):
        answered = {
            f"{method} /{path}".replace("<", "{").replace(">", "}")
            for path, view in views_below("", get_resolver())
            if path.startswith("api/v1/")
            for method in METHODS & {name.lower() for name in view().allowed_methods}
        }

        assert set(operations(document)) == answered

    def test_says_what_each_operation_does(self, document):
        for name, operation in operations(document).items():
            assert 3 <= len(operation["summary"]) <= 60, name
            assert not operation["summary"].endswith("."), name
            assert operation["description"], name
            for status, answer in operation["responses"].items():
                assert answer["description"], name
                if status >= "400":
                    assert list(answer["content"]) == ["application/problem+json"], name
                elif status != "304":
                    assert "application/json" in answer["content"], name

    def test_says_that_an_idempotency_key_may_be_a_conflict(self, document):
        keyed = {
            name: operation["responses"].keys()
            for name, operation in operations(document).items()
            if any(
                one["name"] == "Idempotency-Key" for one in operation.get("parameters", [])
            )
        }

        assert keyed
        assert [name for name, answers in keyed.items() if "409" not in answers] == []

    def test_says_who_may_ask_for_each_operation(self, document):
        told = {
            name: re.findall(r"Needs the role `(\w+)`\.", operation["description"])
            for name, operation in operations(document).items()
        }

        assert told == {
            f"{method.lower()} /api/v1/{route}".replace("<", "{").replace(">", "}"): (
                [] if role == PUBLIC else [role]
            )
            for route, methods in ROUTES.items()
            for method, role in methods.items()
        }

    def test_shows_the_job_as_each_override_leaves_it(self, document):
        def shown(name, status):
            answer = operations(document)[name]["responses"][status]
            (example,) = answer["content"]["application/json"]["examples"].values()
            return example["value"]

        path = "/api/v1/transitions/{jobId}/"
        assert shown(f"post {path}cancel/", "200")["status"] == "cancelled"
        moved = shown(f"patch {path}", "200")
        before = shown(f"get {path}", "200")
        assert moved["replaces"] == before["jobId"] != moved["jobId"]
        assert moved["endTime"] > before["endTime"]
        for job in (before, moved):
            made = datetime.fromisoformat(job["createdAt"])
            assert job["jobId"].split("-")[1] == str(int(made.timestamp() * 1000))

    def test_gives_examples_of_each_operation(self, document):
        for name, operation in operations(document).items():
            bodies = [
                content["application/json"]
                for content in (
                    operation.get("requestBody", {}).get("content", {}),
                    *(
                        answer["content"]
                        for status, answer in operation["responses"].items()
                        if status < "300"
                    ),
                )
                if "application/json" in content
            ]
            assert any(body.get("examples") for body in bodies), name

    def test_gives_examples_of_each_error(self, document):
        codes = set()
        for name, operation in operations(document).items():
            assert operation["responses"].keys() >= {"400", "401", "429", "500"}, name
            for status, answer in operation["responses"].items():
                if status < "400":
                    continue
                examples = answer["content"]["application/problem+json"]["examples"]
                problems = [example["value"] for example in examples.values()]
                assert {problem["status"] for problem in problems} == {int(status)}, name
                codes |= {problem["code"] for problem in problems}

        # Those of the errors that a client can cause by what it sends.
        assert codes >= set(CODES)

    def test_has_only_examples_of_its_own_shapes(self, document):
        checked = 0
        for media_type in media_types(document):
            shape = {**media_type["schema"], "components": document["components"]}
            validator = jsonschema.Draft202012Validator(shape)
            for example in media_type.get("examples", {}).values():
                validator.validate(example["value"])
                checked += 1

        assert checked > 100

    def test_says_that_a_body_has_no_other_fields(self, document):
        for name, operation in operations(document).items():
            body = operation.get("requestBody")
            if body is None:
                continue
            shape = body["content"]["application/json"]["schema"]
            if "$ref" in shape:
                shape = document["components"]["schemas"][shape["$ref"].split("/")[-1]]
            assert shape["additionalProperties"] is False, name

    def test_knows_the_headers_of_a_careful_client(self, document):
        for name, operation in operations(document).items():
            parameters = operation.get("parameters", [])
            headers = {one["name"] for one in parameters if one["in"] == "header"}
            changes_something = not name.startswith("get") and "/auth/" not in name
            is_of_a_job = "{jobId}" in name and not name.endswith("audit/")
            assert ("Idempotency-Key" in headers) is changes_something, name
            assert ("If-Match" in headers) is is_of_a_job, name
            assert ("If-None-Match" in headers) is (
                not changes_something and is_of_a_job
            ), name

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
        jobs = document["components"]["schemas"]["JobWithArchive"]
        assert set(job) == set(jobs["properties"])
        check(document, "Job", page["results"][0])
        check(document, "JobWithArchive", job)
        check(document, "AuditEntry", records[0])
        check(document, "Job", cancelled)
        check(document, "Problem", missing)

    def test_knows_each_member_of_a_problem(
        self, document, as_viewer, as_operator, add_job, now
    ):
        live = add_job()
        old = make_job(EXPIRED, now=now, project_id=live.project_id, phase_id=live.phase_id)
        reason = {"reason": "x"}
        moved = as_operator.patch(
            f"{TRANSITIONS}{live.job_id}/", {"projectStatus": "DRAFT"}, format="json"
        ).json()["jobId"]

        refusals = {
            verb: client.post(f"{TRANSITIONS}{job_id}/{verb}/", reason, format="json")
            for client, verb, job_id in (
                (as_operator, "run-now", old.job_id),
                (as_operator, "cancel", live.job_id),
                (as_viewer, "retry", moved),
            )
        }

        told = {verb: answer.json() for verb, answer in refusals.items()}
        for problem in told.values():
            check(document, "Problem", problem)
        assert told["run-now"]["liveJobId"] == moved
        assert told["cancel"]["jobStatus"] == "cancelled"
        assert told["cancel"]["replacedBy"] == moved
        assert (told["retry"]["operation"], told["retry"]["role"]) == ("retry", "viewer")

    def test_its_example_can_be_posted(self, document, as_operator):
        post = operations(document)["post /api/v1/transitions/"]
        examples = post["requestBody"]["content"]["application/json"]["examples"]
        (example,) = (example["value"] for example in examples.values())

        response = as_operator.post(TRANSITIONS, example, format="json")

        assert response.status_code == 201, response.content

    def test_knows_the_filters_that_the_list_knows(self, document, as_viewer):
        listed = operations(document)["get /api/v1/transitions/"]["parameters"]

        refusal = as_viewer.get(TRANSITIONS, {"foo": "1"}).json()["errors"][0]["message"]

        known = refusal.partition("known are: ")[2].split(", ")
        assert sorted(known) == sorted(parameter["name"] for parameter in listed)


class TestDocument:
    @pytest.mark.parametrize(
        ("query", "accepted", "kind"),
        [
            ({}, "*/*", "application/vnd.oai.openapi"),
            ({}, "application/json", "application/json"),
            ({"format": "json"}, "*/*", "application/vnd.oai.openapi+json"),
            ({"format": "yaml"}, "application/json", "application/vnd.oai.openapi"),
        ],
    )
    def test_comes_in_the_format_that_is_asked_for(self, client, query, accepted, kind):
        response = client.get("/api/schema/", query, headers={"Accept": accepted})

        assert response.headers["Content-Type"].partition(";")[0] == kind
        assert response.content.startswith(b"{" if "json" in kind else b"openapi: 3.1.0")

    @pytest.mark.parametrize("path", ["/api/schema/", "/api/docs/"])
    def test_refuses_as_problems(self, client, path):
        queries = {"foo": "1"}, {"format": "xml"}
        for query in queries:
            problem = assert_problem(client.get(path, query), 400, "invalid_request")
            assert [error["field"] for error in problem["errors"]] == list(query)
        for method in ("post", "options"):
            answer = getattr(client, method)(path)
            assert_problem(answer, 405, "method_not_allowed")
            assert answer.headers["Allow"] == "GET, HEAD"
        nothing = client.get(path, headers={"Accept": "image/png"})
        assert_problem(nothing, 406, "not_acceptable")


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

    def test_its_script_is_a_file(self, client):
        html = client.get("/api/docs/").content.decode()
        (address,) = re.findall(r'src="(/api/docs/[^"]*)"', html)

        script = client.get(address)

        assert script.headers["Content-Type"].startswith("application/javascript")
        assert b"SwaggerUIBundle" in script.content
        assert b"/api/schema/" in script.content


class TestContentSecurityPolicy:
    def policy(self, response):
        parts = response.headers["Content-Security-Policy"].split("; ")
        return {name: sources for name, *sources in (part.split() for part in parts)}

    def test_lets_pages_load_files_of_this_host_only(self, client):
        policy = self.policy(client.get("/api/docs/"))

        assert policy["default-src"] == policy["base-uri"] == ["'none'"]
        assert policy["frame-ancestors"] == ["'none'"]
        assert policy["script-src"] == policy["style-src"] == ["'self'"]
        for sources in policy.values():
            assert set(sources) <= {"'self'", "'none'", "data:"}
        assert "data:" not in policy["script-src"]

    @pytest.mark.parametrize(
        ("path", "more"), [("/api/docs/", []), ("/admin/login/", ["'unsafe-eval'"])]
    )
    def test_leaves_nothing_out_of_a_page(self, client, path, more):
        """The admin's look evaluates the expressions of its own pages; nothing inline."""
        page = client.get(path)

        assert self.policy(page)["script-src"] == ["'self'", *more]
        assert not INLINE.findall(page.content.decode())

    def test_holds_on_every_answer(self, client, as_viewer):
        answers = [client.get("/api/schema/"), as_viewer.get(TRANSITIONS), client.get("/x")]

        for answer in answers:
            assert self.policy(answer)["default-src"] == ["'none'"]


class TestLivez:
    def test_answers_without_a_neighbour(self, client):
        # No database is allowed in this test: a query would fail it.
        response = client.get("/livez")

        assert (response.status_code, response.content) == (200, b"ok")
