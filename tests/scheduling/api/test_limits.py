"""What a caller may send: no field that is not theirs, no text that breaks anything."""

import gzip
import json

import pytest

from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.queries import camel_case
from tests.scheduling.api.support import TRANSITIONS, assert_problem
from tests.support.histories import FAILED, make_job, state_of
from tests.support.threads import run_together

BULK = f"{TRANSITIONS}bulk/"
COLUMNS = [field.attname for field in ScheduledTransition._meta.concrete_fields]
# As the wire and as the table spell each column, and what only the wire knows.
SPELLINGS = sorted(
    {*COLUMNS, *map(camel_case, COLUMNS), "archivedAt", "key", "pk", "_state", "__class__"}
)
WRITABLE = {"state", "operator", "metadata", "date"} | {
    "projectId",
    "phaseId",
    "challengeId",
    "phaseTypeName",
    "projectStatus",
    "endTime",
}
CHANGEABLE = {"phaseTypeName", "projectStatus", "endTime", "metadata"}
INJECTIONS = [
    "'; DROP TABLE scheduling_scheduledtransition; --",
    "' OR '1'='1",
    '" OR ""="',
    "1) UNION SELECT password FROM auth_user--",
    "%' AND 1=1 --",
    "%",
    "_",
    "\\",
    "%%s %(x)s {0} {{7*7}} ${7*7}",
    "*) (|(a=*",
    "../../../etc/passwd",
    "<script>alert(1)</script>",
    "\x00",
    "a\x00b",
    "\r\nX-Injected: 1",
    "\U0001f600",
    "\ufeff\u202e",
    "1e400",
    "-1",
    "0",
    "999999999999999999999999999999",
    "١٢٣",
    "true",
    "null",
    "[]",
    "{}",
    "x" * 5_000,
]


def assert_names(response, field):
    """Check the answer to be a 400 that names the field."""
    assert response.status_code == 400, response.content
    assert field in [error["field"] for error in response.json()["errors"]]


@pytest.mark.django_db
class TestMassAssignment:
    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    def test_of_a_new_job_is_named(self, request, client, phase_data):
        client, data = request.getfixturevalue(client), phase_data()

        for field in [name for name in SPELLINGS if name not in WRITABLE]:
            single = client.post(TRANSITIONS, data | {field: "1"}, format="json")
            bulk = client.post(BULK, {"transitions": [data | {field: 1}]}, format="json")

            assert_names(single, field)
            (result,) = bulk.json()["results"]
            assert [error["field"] for error in result["error"]["errors"]] == [field]
        assert not ScheduledTransition.objects.exists()

    @pytest.mark.parametrize("client", ["as_operator", "as_admin"])
    def test_of_a_job_is_named(self, request, client, now):
        client = request.getfixturevalue(client)
        scheduled, failed = make_job(now=now), make_job(FAILED, now=now)
        before = [state_of(scheduled), state_of(failed)]
        doors = [(scheduled, "cancel"), (scheduled, "run-now"), (failed, "retry")]

        for field in [name for name in SPELLINGS if name not in CHANGEABLE]:
            path = f"{TRANSITIONS}{scheduled.job_id}/"
            assert_names(client.patch(path, {field: "1"}, format="json"), field)
            for job, verb in doors:
                path = f"{TRANSITIONS}{job.job_id}/{verb}/"
                data = {"reason": "x", field: 1}
                assert_names(client.post(path, data, format="json"), field)

        assert [state_of(scheduled), state_of(failed)] == before

    @pytest.mark.parametrize("client", ["as_viewer", "as_stranger"])
    def test_by_others_is_refused_whatever_the_field(
        self, request, client, phase_data, now
    ):
        client, job = request.getfixturevalue(client), make_job(now=now)
        before = state_of(job)

        for field in SPELLINGS:
            for response in (
                client.post(TRANSITIONS, phase_data() | {field: "1"}, format="json"),
                client.patch(f"{TRANSITIONS}{job.job_id}/", {field: "1"}, format="json"),
            ):
                assert_problem(response, 403, "permission_denied")

        assert state_of(job) == before
        assert ScheduledTransition.objects.count() == 1


@pytest.mark.django_db
class TestInjection:
    @pytest.mark.parametrize(
        "name",
        [
            "projectId",
            "challengeId",
            "phaseId",
            "state",
            "status",
            "dueAfter",
            "dueBefore",
            "overdue",
            "search",
            "ordering",
            "page",
            "pageSize",
            "foo",
        ],
    )
    def test_into_a_filter_finds_nothing_and_breaks_nothing(self, as_viewer, now, name):
        make_job(now=now)
        # Numbers and flags that are good values of these.
        good = {
            "page": {"1"},
            "pageSize": set(),
            "overdue": {"true"},
            "search": {"0", "-1"},
        }

        for text in INJECTIONS:
            if text in good.get(name, ()):
                continue
            response = as_viewer.get(TRANSITIONS, {name: text})
            assert response.status_code in {200, 400, 404}, (text, response.content)
            if response.status_code == 200:
                assert response.json()["results"] == [], text
        assert ScheduledTransition.objects.count() == 1

    def test_into_a_parameter_s_name_is_a_400(self, as_viewer):
        for text in INJECTIONS:
            assert as_viewer.get(TRANSITIONS, {text: "1"}).status_code == 400, text

    def test_into_a_path_finds_no_job(self, as_operator):
        for text in INJECTIONS:
            if "/" in text:
                continue
            path = f"{TRANSITIONS}{text.replace('%', '%25')}/"
            for response in (
                as_operator.get(path),
                as_operator.patch(path, {}, format="json"),
                as_operator.post(f"{path}cancel/", {"reason": "x"}, format="json"),
            ):
                assert_problem(response, 404, "job_not_found")

    def test_into_a_header_breaks_nothing(self, as_operator, phase_data, now):
        path = f"{TRANSITIONS}{make_job(now=now).job_id}/"

        # No client can send a line break in a header.
        for text in [text for text in INJECTIONS if "\r" not in text]:
            for name in ("If-None-Match", "If-Match", "Idempotency-Key", "X-Request-Id"):
                headers = {name: text}
                for response in (
                    as_operator.get(path, headers=headers),
                    as_operator.post(
                        TRANSITIONS, phase_data(), format="json", headers=headers
                    ),
                ):
                    assert response.status_code < 500, (name, response.content)

    def test_into_a_text_is_kept_as_it_is(self, as_operator, phase_data):
        for number, text in enumerate(INJECTIONS, start=1):
            if "\x00" in text or len(text) > 255:
                continue
            data = phase_data(phaseId=number, phaseTypeName=text, projectStatus=text)
            job = as_operator.post(TRANSITIONS, data, format="json").json()
            path = f"{TRANSITIONS}{job['jobId']}/cancel/"
            # Something of a reason can be seen.
            reason = f"x{text}"
            cancelled = as_operator.post(path, {"reason": reason}, format="json")

            assert (job["phaseTypeName"], job["projectStatus"]) == (text, text)
            assert cancelled.status_code == 200
            assert AuditEntry.objects.last().reason == reason


@pytest.mark.django_db
class TestBodies:
    PATHS = ("", "bulk/", "job-1/", "job-1/cancel/", "job-1/run-now/", "job-1/retry/")

    @pytest.mark.parametrize("path", PATHS)
    def test_are_bounded_everywhere(self, as_operator, path):
        limit = 2**22 if path == "bulk/" else 2**18
        method = as_operator.patch if path == "job-1/" else as_operator.post
        body = b'{"reason":"x"}'.ljust(limit + 1)

        response = method(TRANSITIONS + path, body, content_type="application/json")

        assert_problem(response, 413, "payload_too_large")

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"[]", 400),
            (b"null", 400),
            (b"{", 400),
            (b'{"a":1,"a":2}', 400),
            (b'{"a":NaN}', 400),
            (b'{"a":"\\u0000"}', 400),
            (b'{"a":' * 65 + b"1" + b"}" * 65, 400),
            (b'{"a":' * 100_000, 400),
            (b'{"a":1e999}', 400),
            (b"\xff", 400),
        ],
    )
    def test_are_strict_json_everywhere(self, as_operator, path, body, status):
        method = as_operator.patch if path == "job-1/" else as_operator.post
        if len(body) > 2**18 and path != "bulk/":
            status = 413

        response = method(TRANSITIONS + path, body, content_type="application/json")

        code = "invalid_request" if status == 400 else "payload_too_large"
        assert_problem(response, status, code)

    @pytest.mark.parametrize("path", PATHS)
    def test_are_of_one_media_type(self, as_operator, path):
        method = as_operator.patch if path == "job-1/" else as_operator.post

        response = method(TRANSITIONS + path, b"{}", content_type="text/plain")

        problem = assert_problem(response, 415, "unsupported_media_type")
        assert "application/json" in problem["detail"]

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("coding", ["gzip", "br", "GZIP, identity"])
    def test_are_not_compressed(self, as_operator, path, coding):
        method = as_operator.patch if path == "job-1/" else as_operator.post

        response = method(
            TRANSITIONS + path,
            gzip.compress(b"{}"),
            content_type="application/json",
            headers={"Content-Encoding": coding},
        )

        problem = assert_problem(response, 415, "unsupported_media_type")
        assert coding in problem["detail"]

    def test_may_nest_as_deep_as_a_metadata_may(self, as_operator, phase_data):
        # One level is the body's own.
        deep = json.loads('{"a":' * 63 + "1" + "}" * 63)

        response = as_operator.post(TRANSITIONS, phase_data(metadata=deep), format="json")

        assert response.status_code == 201


@pytest.mark.django_db(transaction=True)
class TestFiftyIdenticalRequests:
    @pytest.mark.timeout(120)
    def test_make_one_job(self, make_user, client_of, phase_data):
        client = client_of(make_user("olivia", group="operator"))
        data = phase_data()

        answers = run_together(50, lambda _: client.post(TRANSITIONS, data, format="json"))

        assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
        assert len({answer.json()["jobId"] for answer in answers}) == 1
        assert ScheduledTransition.objects.count() == 1
        assert AuditEntry.objects.filter(action="transition.scheduled").count() == 1

    @pytest.mark.timeout(120)
    def test_in_bulk_make_one_job_of_each(self, make_user, client_of, phase_data):
        client = client_of(make_user("olivia", group="operator"))
        items = [phase_data(phaseId=n) for n in range(1, 6)]

        answers = run_together(
            50,
            # Each in another order: two must not wait for one another's rows.
            lambda n: client.post(
                BULK, {"transitions": items[n % 5 :] + items[: n % 5]}, format="json"
            ),
        )

        bodies = [answer.json() for answer in answers]
        assert [body.get("failed") for body in bodies] == [0] * 50
        assert sum(body["created"] for body in bodies) == 5
        assert ScheduledTransition.objects.count() == 5
