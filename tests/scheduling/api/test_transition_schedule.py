"""POST transitions/: what is scheduled, what is refused."""

import json
import threading
from datetime import timedelta
from uuid import UUID

import pytest
import time_machine
from django.db import connection, connections

from scheduling.domain.phases import format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from tests.scheduling.api.support import TRANSITIONS, assert_problem


def post(client, data, **headers):
    return client.post(TRANSITIONS, data, format="json", **headers)


def post_raw(client, body, content_type="application/json"):
    return client.post(TRANSITIONS, body, content_type=content_type)


@pytest.mark.django_db
class TestScheduleTransition:
    def test_makes_a_job_and_shows_it_whole(self, as_operator, phase_data, now):
        data = phase_data(
            challengeId="3F2504E0-4F89-11D3-9A0C-0305E82C3301",
            metadata={"why": ["é", 1.5, None, {"deep": True}]},
            date="2026-03-07T18:00:00.1239+02:00",
        )

        response = post(as_operator, data)

        assert response.status_code == 201
        job = response.json()
        row = ScheduledTransition.objects.get(job_id=job["jobId"])
        assert UUID(job.pop("eventId")) == row.event_id
        assert job.pop("jobId").startswith("job-")
        assert (
            job.pop("createdAt") == job.pop("updatedAt") == format_instant(row.created_at)
        )
        assert job == {
            "projectId": 12345,
            "phaseId": 67890,
            "challengeId": "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
            "phaseTypeName": "Registration",
            "state": "END",
            "endTime": data["endTime"].replace("+00:00", "Z"),
            "operator": "admin",
            "projectStatus": "ACTIVE",
            "metadata": {"why": ["é", 1.5, None, {"deep": True}]},
            "date": "2026-03-07T16:00:00.123Z",
            "status": "scheduled",
            "attempts": 0,
            "maxAttempts": 4,
            "nextAttemptAt": None,
            "lastError": None,
            "startedAt": None,
            "completedAt": None,
            "latenessMs": None,
            "replaces": None,
            "replacedBy": None,
            "topicPartition": None,
            "topicOffset": None,
        }

    def test_says_where_the_job_is(self, as_operator, phase_data):
        response = post(as_operator, phase_data())

        found = as_operator.get(response.headers["Location"])
        assert found.json()["jobId"] == response.json()["jobId"]

    def test_the_login_name_is_the_operator_unless_one_is_given(
        self, as_operator, phase_data
    ):
        unnamed = phase_data(phaseId=1)
        del unnamed["operator"]

        operators = [
            post(as_operator, data).json()["operator"]
            for data in (
                unnamed,
                phase_data(phaseId=2, operator=None),
                phase_data(phaseId=3, operator="somebody else"),
            )
        ]

        assert operators == ["olivia", "olivia", "somebody else"]

    def test_the_audit_names_the_user_whoever_is_given_as_operator(
        self, as_operator, phase_data
    ):
        post(
            as_operator,
            phase_data(operator="somebody else"),
            headers={"X-Request-Id": "gesture-1"},
        )

        entry = AuditEntry.objects.get()
        assert (entry.action, entry.actor, entry.role, entry.request_id) == (
            "transition.scheduled",
            "user:olivia",
            "operator",
            "gesture-1",
        )

    def test_the_same_again_is_the_live_job(self, as_operator, phase_data):
        data = phase_data()
        first = post(as_operator, data)

        second = post(as_operator, data)

        assert second.status_code == 200
        assert second.json() == first.json()
        assert ScheduledTransition.objects.count() == 1

    def test_another_instant_is_a_conflict_that_names_the_live_job(
        self, as_operator, phase_data
    ):
        live = post(as_operator, phase_data()).json()["jobId"]

        response = post(as_operator, phase_data(due_in=7200))

        problem = assert_problem(response, 409, "duplicate_job")
        assert problem["jobId"] == live
        assert problem["category"] == "scheduling"

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"projectId": True}, "projectId"),
            ({"projectId": 1.0}, "projectId"),
            ({"projectId": "12345"}, "projectId"),
            ({"projectId": 2**53}, "projectId"),
            ({"projectId": {"$ne": 1}}, "projectId"),
            ({"projectId": None}, "projectId"),
            ({"phaseId": []}, "phaseId"),
            ({"phaseId": -1}, "phaseId"),
            ({"challengeId": "x"}, "challengeId"),
            ({"phaseTypeName": ""}, "phaseTypeName"),
            ({"phaseTypeName": " "}, "phaseTypeName"),
            ({"phaseTypeName": "x" * 256}, "phaseTypeName"),
            ({"phaseTypeName": 5}, "phaseTypeName"),
            ({"state": "Start"}, "state"),
            ({"state": ["END"]}, "state"),
            ({"operator": "x" * 256}, "operator"),
            ({"operator": 1}, "operator"),
            ({"projectStatus": False}, "projectStatus"),
            ({"metadata": []}, "metadata"),
            ({"metadata": {"a": "x" * 70_000}}, "metadata"),
            ({"date": "yesterday"}, "date"),
            ({"jobId": "job-1"}, "jobId"),
            ({"status": "completed"}, "status"),
            ({"eventId": "3f2504e0-4f89-11d3-9a0c-0305e82c3301"}, "eventId"),
            ({"createdAt": "2026-01-01T00:00:00Z"}, "createdAt"),
            ({"foo": 1}, "foo"),
            ({"__proto__": {}}, "__proto__"),
            ({"": 1}, ""),
        ],
    )
    def test_names_the_field_that_is_wrong(self, as_operator, phase_data, change, field):
        response = post(as_operator, phase_data() | change)

        problem = assert_problem(response, 400, "invalid_phase_data")
        assert [error["field"] for error in problem["errors"]] == [field]
        assert not ScheduledTransition.objects.exists()

    def test_names_every_field_that_is_missing(self, as_operator):
        problem = assert_problem(post(as_operator, {}), 400, "invalid_phase_data")

        assert [error["field"] for error in problem["errors"]] == [
            "projectId",
            "phaseId",
            "phaseTypeName",
            "state",
            "endTime",
            "projectStatus",
        ]

    @pytest.mark.parametrize(
        "instant",
        [
            "2030-01-01T00:00:00",
            "2030-01-01",
            "2030-06-31T00:00:00Z",
            "2030-W01-1T00:00:00Z",
            "2030-01-01T25:00:00Z",
            "20300101T000000Z",
            1893456000000,
            "",
            "0001-01-01T00:00:00+10:00",
        ],
    )
    def test_refuses_an_instant_that_is_none(self, as_operator, phase_data, instant):
        response = post(as_operator, phase_data(endTime=instant))

        assert_problem(response, 400, "invalid_schedule_time")

    @pytest.mark.parametrize(
        ("due_in", "code"),
        [
            (-1, "past_schedule_time"),
            (0.5, "schedule_too_soon"),
            (91 * 86400, "schedule_too_far"),
        ],
    )
    def test_refuses_an_instant_outside_the_window(
        self, as_operator, phase_data, now, due_in, code
    ):
        with time_machine.travel(now, tick=False):
            response = post(as_operator, phase_data(due_in=due_in))

        problem = assert_problem(response, 400, code)
        assert [error["field"] for error in problem["errors"]] == ["endTime"]

    @pytest.mark.parametrize(
        "name",
        [
            "'; DROP TABLE scheduling_scheduledtransition; --",
            "<script>alert(1)</script>",
            "{{ 7*7 }} ${7*7} %s %(x)s {0}",
            "\u202eright to left\u202c \u0000".replace("\u0000", ""),
            "\U0001f600" * 255,
            "\x7f\x01\x1b[31m",
            "null",
        ],
    )
    def test_keeps_a_hostile_text_as_it_is(self, as_operator, phase_data, name):
        job = post(as_operator, phase_data(phaseTypeName=name)).json()

        assert job["phaseTypeName"] == name
        assert (
            as_operator.get(f"{TRANSITIONS}{job['jobId']}/").json()["phaseTypeName"] == name
        )

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b'"text"',
            b"1",
            b"{",
            b'{"projectId": NaN}',
            b'{"projectId": 1, "projectId": 2}',
            b"{} trailing",
            b'{"phaseTypeName": "a\\u0000b"}',
            b'{"phaseTypeName": "\\ud800"}',
            b'{"phaseTypeName": "\xff"}',
            b'{"metadata": ' + b'{"a":' * 64 + b"1" + b"}" * 65,
            b'{"a":' * 50_000,
        ],
    )
    def test_refuses_a_body_that_is_no_json_object(self, as_operator, body):
        code = "invalid_request" if body else "invalid_phase_data"

        assert_problem(post_raw(as_operator, body), 400, code)

    def test_accepts_a_byte_order_mark(self, as_operator, phase_data):
        body = b"\xef\xbb\xbf" + json.dumps(phase_data()).encode()

        assert post_raw(as_operator, body).status_code == 201

    def test_accepts_a_charset_beside_the_media_type(self, as_operator, phase_data):
        response = post_raw(
            as_operator, json.dumps(phase_data()), "application/json; charset=utf-8"
        )

        assert response.status_code == 201

    def test_takes_a_body_up_to_256_kib_and_no_byte_more(self, as_operator, phase_data):
        body = json.dumps(phase_data()).encode().ljust(256 * 1024)

        assert post_raw(as_operator, body).status_code == 201
        assert_problem(post_raw(as_operator, body + b" "), 413, "payload_too_large")

    @pytest.mark.parametrize(
        "content_type",
        [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "x",
        ],
    )
    def test_refuses_other_media_types(self, as_operator, content_type):
        assert_problem(
            post_raw(as_operator, b"{}", content_type), 415, "unsupported_media_type"
        )

    def test_refuses_a_query(self, as_operator, phase_data):
        response = as_operator.post(
            f"{TRANSITIONS}?projectId=1", phase_data(), format="json"
        )

        problem = assert_problem(response, 400, "invalid_request")
        assert problem["errors"][0]["field"] == "projectId"
        assert not ScheduledTransition.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestParallelRequests:
    def test_twenty_identical_ones_make_one_job(
        self, make_user, client_of, phase_data, now
    ):
        client_class = client_of(make_user("olivia", group="operator"))
        data, answers = phase_data(), []
        barrier = threading.Barrier(20)

        def request():
            try:
                barrier.wait(20)
                answers.append(post(client_class, data))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=request, daemon=True) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)

        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 19 + [201]
        assert len({answer.json()["jobId"] for answer in answers}) == 1
        assert ScheduledTransition.objects.count() == 1
        assert AuditEntry.objects.filter(action="transition.scheduled").count() == 1
        assert connection.vendor in {"sqlite", "postgresql"}
        assert ScheduledTransition.objects.get().created_at >= now - timedelta(minutes=1)
