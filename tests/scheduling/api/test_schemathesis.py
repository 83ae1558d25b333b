"""The API against its own document: generated requests, good and bad, as each role.

A few in the usual run; `SCHEMATHESIS_EXAMPLES=2000` makes that many for each role.
"""

import collections
import os
from datetime import timedelta

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi import checks as openapi_checks

from scheduling.api.own_tokens import AccessToken
from scheduling.domain.phases import format_instant
from tests.support.histories import ALL, make_job

# Cases for each role, over all operations together.
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "60"))
REJECTION = openapi_checks.negative_data_rejection
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]
# What no role may do, or what a generated request rarely gets past.
REFUSALS = {400, 401, 403, 404, 406, 409, 412, 413, 415, 429}


@pytest.fixture
def api(transactional_db, settings):
    """Return the document, with the application that it describes.

    Not in one transaction: to think of requests takes longer than PostgreSQL lets one
    stand idle.
    """
    for setting in ("API_THROTTLE_USER", "API_THROTTLE_TOKEN"):
        setattr(settings, setting, "1000000/min")
    return schemathesis.openapi.from_wsgi("/api/schema/?format=json", WSGIHandler())


@pytest.fixture
def headers_of(make_user):
    """Return a maker of the headers of a role's user."""

    def make(role):
        token = AccessToken.for_user(make_user("somebody", group=role))
        # Thousands of cases take longer than a token's five minutes.
        token.set_exp(lifetime=timedelta(hours=6))
        return {"Authorization": f"Bearer {token}"}

    return make


def operations_of(api):
    return [found.ok() for found in api.get_all_operations()]


class TestEveryOperation:
    @pytest.mark.timeout(max(120, EXAMPLES))
    @pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
    def test_answers_as_its_document_says(self, api, headers_of, role, now):
        headers = headers_of(role)
        operations = operations_of(api)
        statuses = collections.Counter()

        for operation in operations:
            exercise(
                operation,
                examples=max(2, -(-EXAMPLES // len(operations))),
                headers=headers,
                # For each operation anew: another one may have cancelled them.
                job_ids=[make_job(past, now=now).job_id for past in ALL.values()],
                soon=format_instant(now + timedelta(hours=6)),
                statuses=statuses,
            )

        print(f"{role}: {sum(statuses.values())} cases: {dict(sorted(statuses.items()))}")
        assert sum(statuses.values()) >= EXAMPLES
        assert {200, 400, 404} <= statuses.keys()
        assert statuses.keys() <= {200, 201, 202, 304} | REFUSALS


def exercise(operation, *, examples, headers, job_ids, soon, statuses):
    """Make generated requests of one operation, each judged by the document."""
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        # The usual run is the same each time; the one by hand looks further.
        derandomize="SCHEMATHESIS_EXAMPLES" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of([operation.as_strategy(mode) for mode in modes]),
        job_id=st.sampled_from([None, *job_ids]),
        is_soon=st.booleans(),
    )
    def one(case, job_id, is_soon):
        # Most requests are about jobs that there are, at instants that may be.
        if job_id and "jobId" in (case.path_parameters or {}):
            case.path_parameters["jobId"] = job_id
        is_repaired = is_soon and isinstance(case.body, dict) and "endTime" in case.body
        if is_repaired:
            case.body["endTime"] = soon
        response = case.call(headers=headers)
        statuses[response.status_code] += 1
        is_refused = is_to_be_refused(case) and not is_repaired
        judged_by = [*CHECKS, REJECTION] if is_refused else CHECKS
        case.validate_response(response, checks=judged_by, headers=headers)

    one()


def is_to_be_refused(case):
    """Tell whether the body breaks the document.

    A wrong query or header may come to nothing on its way: an empty list is no
    parameter. What is wrong with an item of many is told in its result.
    """
    body = case.meta.components.get(ParameterLocation.BODY)
    is_wrong = body is not None and body.mode is GenerationMode.NEGATIVE
    return is_wrong and not case.operation.path.endswith("/bulk/")
