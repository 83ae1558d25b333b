"""Idempotency-Key: a client that lost an answer asks again, and nothing happens twice."""

import time
from contextlib import nullcontext
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.db import InterfaceError, OperationalError
from django.urls import get_resolver

from scheduling.api import idempotency
from scheduling.api.base import ApiView
from scheduling.api.overrides import TransitionRunNow
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import AuditEntry, IdempotencyKey, ScheduledTransition
from scheduling.services.clean_up import clean_up
from tests.scheduling.api.support import (
    TRANSITIONS,
    assert_problem,
    let_takers_die,
    losing_the_answer,
    views_below,
)
from tests.support.histories import FAILED, SCHEDULED, make_job
from tests.support.threads import run_together

BULK = f"{TRANSITIONS}bulk/"
ADJUST = "/api/v1/schedule-adjustments/"


def post(client, data, *, key="k-1", path=TRANSITIONS, headers=None):
    return client.post(
        path, data, format="json", headers={"Idempotency-Key": key, **(headers or {})}
    )


def fire(job, *, now):
    """Let the job be published."""
    ScheduledTransition.objects.filter(pk=job.pk).update(
        status=TransitionStatus.COMPLETED,
        attempts=1,
        started_at=now,
        next_attempt_at=None,
        completed_at=now,
        finalized_at=now,
        topic_partition=0,
        topic_offset=0,
        lateness_ms=4.0,
    )


def assert_replayed(response, first):
    """Check the answer to be the first one again."""
    assert response.status_code == first.status_code
    assert response.content == first.content
    assert response.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    for name in ("Content-Type", "Location", "Content-Location", "ETag"):
        assert response.headers.get(name) == first.headers.get(name), name


@pytest.mark.django_db
class TestRepeatedRequest:
    def test_is_answered_as_the_first_time(self, as_operator, phase_data):
        data = phase_data(
            phaseTypeName="Übergabe \U0001f600", metadata={"z": 1.50, "a": [None]}
        )
        first = post(as_operator, data)

        again = post(as_operator, data)

        assert first.status_code == 201
        assert_replayed(again, first)

    def test_is_answered_so_whatever_became_of_the_job(self, as_operator, phase_data):
        first = post(as_operator, phase_data())
        job_id = first.json()["jobId"]
        post(as_operator, {"reason": "x"}, key="k-2", path=f"{TRANSITIONS}{job_id}/cancel/")

        again = post(as_operator, phase_data())

        assert_replayed(again, first)
        assert ScheduledTransition.objects.count() == 1

    @pytest.mark.parametrize(
        ("verb", "start", "actions"),
        [
            ("cancel", SCHEDULED, ["transition.cancelled"]),
            ("run-now", SCHEDULED, ["transition.run_now"]),
            ("retry", FAILED, ["transition.retried", "transition.scheduled"]),
        ],
    )
    def test_has_no_second_effect(self, as_operator, now, verb, start, actions):
        job = make_job(start, now=now)
        path = f"{TRANSITIONS}{job.job_id}/{verb}/"
        old = set(AuditEntry.objects.values_list("pk", flat=True))

        answers = [post(as_operator, {"reason": "x"}, path=path) for _ in range(3)]

        assert answers[0].status_code in {200, 202}
        for answer in answers[1:]:
            assert_replayed(answer, answers[0])
        made = AuditEntry.objects.exclude(pk__in=old).order_by("action")
        assert [entry.action for entry in made] == actions

    def test_may_be_an_update(self, as_operator, add_job):
        path = f"{TRANSITIONS}{add_job().job_id}/"

        answers = [
            as_operator.patch(
                path,
                {"projectStatus": "DRAFT"},
                format="json",
                headers={"Idempotency-Key": "k"},
            )
            for _ in range(2)
        ]

        assert answers[0].status_code == 200
        assert_replayed(answers[1], answers[0])

    def test_may_be_many_items(self, as_operator, phase_data):
        data = {"transitions": [phase_data(phaseId=1), "x"]}
        first = post(as_operator, data, path=BULK)

        again = post(as_operator, data, path=BULK)

        assert first.json()["created"] == 1
        assert_replayed(again, first)

    def test_is_known_by_its_values_whatever_their_order(self, as_operator, phase_data):
        data = phase_data(metadata={"a": 1, "b": 2})
        first = post(as_operator, data)
        data["metadata"] = {"b": 2, "a": 1}

        assert_replayed(post(as_operator, dict(reversed(data.items()))), first)

    @pytest.mark.parametrize(
        ("change", "status"),
        [({"phaseTypeName": ""}, 400), ({"endTime": "soon"}, 400), ({"due_in": 7200}, 409)],
    )
    def test_is_refused_as_the_first_time(
        self, as_operator, phase_data, add_job, change, status
    ):
        add_job()
        data = phase_data(**change)
        first = post(as_operator, data)
        ScheduledTransition.objects.all().delete()

        again = post(as_operator, data)

        assert first.status_code == status
        assert_replayed(again, first)

    def test_without_a_key_is_handled_afresh(self, as_operator, phase_data):
        post(as_operator, phase_data())

        response = as_operator.post(TRANSITIONS, phase_data(), format="json")

        assert response.status_code == 200
        assert "Idempotency-Replayed" not in response.headers


@pytest.mark.django_db
class TestAnotherRequest:
    def test_under_the_same_key_is_a_conflict(self, as_operator, phase_data, add_job):
        job = add_job(phaseId=9)
        post(as_operator, phase_data())

        for response in (
            post(as_operator, phase_data(phaseTypeName="Review")),
            post(as_operator, {"transitions": [phase_data()]}, path=BULK),
            post(as_operator, {"reason": "x"}, path=f"{TRANSITIONS}{job.job_id}/cancel/"),
        ):
            assert_problem(response, 409, "conflict")

        assert ScheduledTransition.objects.filter(status="scheduled").count() == 2

    def test_of_another_path_is_one_whatever_its_body(self, as_operator, now):
        jobs = [make_job(now=now), make_job(now=now)]
        paths = [f"{TRANSITIONS}{job.job_id}/cancel/" for job in jobs]
        first = post(as_operator, {"reason": "x"}, path=paths[0])

        second = post(as_operator, {"reason": "x"}, path=paths[1])

        assert first.status_code == 200
        assert_problem(second, 409, "conflict")
        jobs[1].refresh_from_db()
        assert jobs[1].status == "scheduled"

    def test_is_not_mistaken_for_true_is_not_1(self, as_operator, phase_data):
        post(as_operator, phase_data(metadata={"a": 1}))

        response = post(as_operator, phase_data(metadata={"a": True}))

        assert_problem(response, 409, "conflict")

    def test_of_another_user_is_none_of_its_business(
        self, as_operator, as_admin, phase_data
    ):
        first = post(as_operator, phase_data())

        other = post(as_admin, phase_data())

        assert (first.status_code, other.status_code) == (201, 200)
        assert "Idempotency-Replayed" not in other.headers


@pytest.mark.django_db
class TestKey:
    @pytest.mark.parametrize("key", ["a", "x" * 255, "8e03978e-40d5-43dd", "~!\"'%;--"])
    def test_is_any_visible_text(self, as_operator, phase_data, key):
        answers = [post(as_operator, phase_data(), key=key) for _ in range(2)]

        assert_replayed(answers[1], answers[0])

    @pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "\x7f", "a\tb"])
    def test_of_another_form_is_named(self, as_operator, phase_data, key):
        problem = assert_problem(
            post(as_operator, phase_data(), key=key), 400, "invalid_request"
        )

        assert [error["field"] for error in problem["errors"]] == ["Idempotency-Key"]
        assert not ScheduledTransition.objects.exists()

    def test_changes_nothing_for_a_reader(self, as_viewer, add_job):
        path = f"{TRANSITIONS}{add_job().job_id}/"

        answers = [
            as_viewer.get(path, headers={"Idempotency-Key": key}) for key in ("k", "", "k")
        ]

        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert not IdempotencyKey.objects.exists()

    def test_is_honoured_by_every_door_that_changes_something(self):
        doors = [
            (path, view)
            for path, view in views_below("", get_resolver())
            if path.startswith("api/v1/") and "/auth/" not in path
        ]

        # The base class honours it; a door without it would change things twice.
        assert len(doors) >= 7
        assert [path for path, view in doors if not issubclass(view, ApiView)] == []


@pytest.mark.django_db
class TestUnkeptAnswer:
    def test_of_a_server_s_failure_is_not_given_again(self, as_operator, phase_data):
        with patch("scheduling.api.views.schedule_transition") as schedule:
            schedule.side_effect = RuntimeError("broken")
            broken = post(as_operator, phase_data())
            schedule.side_effect = ServiceUnavailableError("later")
            later = post(as_operator, phase_data())

        response = post(as_operator, phase_data())

        assert (broken.status_code, later.status_code) == (500, 503)
        assert response.status_code == 201

    def test_of_a_role_too_low_is_not_given_again(
        self, make_user, client_of, phase_data, django_user_model
    ):
        user = make_user("victor", group="viewer")
        client = client_of(user)
        assert post(client, phase_data()).status_code == 403
        django_user_model.objects.filter(pk=user.pk).update(is_superuser=True)

        assert post(client, phase_data()).status_code == 201

    def test_of_an_unreadable_body_is_not_given_again(self, as_operator, phase_data):
        headers = {"Idempotency-Key": "k-1"}
        broken = as_operator.post(
            TRANSITIONS, b"{", content_type="application/json", headers=headers
        )

        response = post(as_operator, phase_data())

        assert (broken.status_code, response.status_code) == (400, 201)

    def test_of_a_method_that_is_not_there_takes_no_key(self, as_operator, add_job):
        path = f"{TRANSITIONS}{add_job().job_id}/"

        assert_problem(post(as_operator, {}, path=path), 405, "method_not_allowed")
        assert not IdempotencyKey.objects.exists()

    def test_is_not_given_to_who_may_no_longer_do_it(
        self, make_user, client_of, phase_data
    ):
        user = make_user("olivia", group="operator")
        client = client_of(user)
        assert post(client, phase_data()).status_code == 201
        user.groups.clear()

        assert_problem(post(client, phase_data()), 403, "permission_denied")

    def test_that_cannot_be_kept_is_given_all_the_same(self, as_operator, phase_data):
        with patch(
            "scheduling.api.idempotency.store", side_effect=OperationalError("gone")
        ):
            response = post(as_operator, phase_data())

        assert response.status_code == 201

    def test_of_a_process_that_died_has_no_second_effect(self, as_operator, phase_data):
        lost = losing_the_answer(lambda: post(as_operator, phase_data()))

        again = post(as_operator, phase_data())

        assert (again.status_code, again.json()) == (201, lost.json())
        assert again.headers["Location"] == lost.headers["Location"]
        assert ScheduledTransition.objects.count() == 1
        assert_replayed(post(as_operator, phase_data()), again)

    @pytest.mark.parametrize("fate", ["fired", "cancelled", "moved", "cleaned up"])
    def test_of_a_process_that_died_makes_no_second_job(
        self, as_operator, phase_data, now, fate
    ):
        """A second one would fire what was called off, or what has fired."""
        data = phase_data()
        lost = losing_the_answer(lambda: post(as_operator, data)).json()
        path = f"{TRANSITIONS}{lost['jobId']}/"
        match fate:
            case "cancelled":
                post(as_operator, {"reason": "x"}, key="k-2", path=f"{path}cancel/")
            case "moved":
                later = phase_data(due_in=99_000)["endTime"]
                as_operator.patch(path, {"endTime": later}, format="json")
            case _:
                job = ScheduledTransition.objects.get()
                fire(job, now=now - timedelta(days=2) if fate == "cleaned up" else now)
                clean_up(now=now)
        before = ScheduledTransition.objects.count()

        again = post(as_operator, data)

        assert again.status_code == 201
        assert again.json()["jobId"] == lost["jobId"]
        assert again.json()["status"] == as_operator.get(path).json()["status"]
        assert ScheduledTransition.objects.count() == before

    def test_of_a_process_that_died_may_be_of_many_items(self, as_operator, phase_data):
        first, bad = phase_data(), phase_data(phaseId="x y")
        second = phase_data(phaseId=4_711)
        body = {"transitions": [first, bad, second, first]}
        lost = losing_the_answer(lambda: post(as_operator, body, path=BULK)).json()
        for one in (0, 2):
            path = f"{TRANSITIONS}{lost['results'][one]['jobId']}/cancel/"
            post(as_operator, {"reason": "x"}, key=f"k-{one}-2", path=path)

        again = post(as_operator, body, path=BULK)

        assert (again.status_code, again.json()) == (200, lost)
        assert (lost["created"], lost["existing"], lost["failed"]) == (2, 1, 1)
        assert ScheduledTransition.objects.count() == 2

    def test_of_a_process_that_died_may_be_an_adjustment(self, as_operator, phase_data):
        data = phase_data()
        change = {name: data[name] for name in ("projectId", "phaseId", "state")}
        change |= {"newEndTime": data["endTime"], "phaseTypeName": "Review"}
        body = {"changes": [change], "updateReason": "x"}
        lost = losing_the_answer(lambda: post(as_operator, body, path=ADJUST)).json()
        job = ScheduledTransition.objects.get()
        path = f"{TRANSITIONS}{job.job_id}/cancel/"
        post(as_operator, {"reason": "x"}, key="k-2", path=path)

        again = post(as_operator, body, path=ADJUST)

        assert (again.status_code, again.json()) == (200, lost)
        assert lost["batchId"] is None
        assert ScheduledTransition.objects.count() == 1
        # Another request is another one, whatever its body.
        assert post(as_operator, body, key="k-3", path=ADJUST).status_code == 200
        assert ScheduledTransition.objects.count() == 2

    def test_of_a_process_that_died_is_of_its_own_jobs_alone(
        self, as_operator, phase_data, make_user, client_of
    ):
        data = phase_data()
        # Made before by another request, and called off.
        first = post(as_operator, data, key="k-0").json()
        path = f"{TRANSITIONS}{first['jobId']}/cancel/"
        post(as_operator, {"reason": "x"}, key="k-1", path=path)
        with (
            patch("scheduling.api.views.schedule_transition", side_effect=SystemExit),
            pytest.raises(SystemExit),
        ):
            post(as_operator, data, key="k-2")
        let_takers_die()

        again = post(as_operator, data, key="k-2")

        assert again.status_code == 201
        assert again.json()["jobId"] != first["jobId"]

    def test_of_a_process_that_died_demands_the_same_tag(self, as_operator, add_job):
        path = f"{TRANSITIONS}{add_job().job_id}/cancel/"
        tag = as_operator.get(path.removesuffix("cancel/")).headers["ETag"]
        post(as_operator, {"reason": "x"}, path=path, headers={"If-Match": tag})

        other = post(as_operator, {"reason": "x"}, path=path, headers={"If-Match": '"x"'})

        assert_problem(other, 409, "conflict")

    @pytest.mark.parametrize(
        ("verb", "start"),
        [("cancel", SCHEDULED), ("run-now", SCHEDULED), ("retry", FAILED)],
    )
    def test_of_a_process_that_died_is_answered_by_its_effect(
        self, as_operator, now, verb, start
    ):
        job = make_job(start, now=now)
        path = f"{TRANSITIONS}{job.job_id}/{verb}/"
        tag = {"If-Match": as_operator.get(f"{TRANSITIONS}{job.job_id}/").headers["ETag"]}
        lost = losing_the_answer(
            lambda: post(as_operator, {"reason": "x"}, path=path, headers=tag)
        )
        if verb == "run-now":
            # It has fired since, and can't be run any more.
            fire(job, now=now)
        entries = AuditEntry.objects.count()

        again = post(as_operator, {"reason": "x"}, path=path, headers=tag)

        assert again.status_code == lost.status_code
        assert again.json()["jobId"] == lost.json()["jobId"]
        assert AuditEntry.objects.count() == entries

    def test_of_a_process_that_died_may_be_a_move(self, as_operator, add_job):
        path = f"{TRANSITIONS}{add_job().job_id}/"

        def move():
            return as_operator.patch(
                path,
                {"projectStatus": "DRAFT"},
                format="json",
                headers={"Idempotency-Key": "k"},
            )

        lost = losing_the_answer(move)

        again = move()

        assert (again.status_code, again.json()) == (200, lost.json())
        assert again.headers["Content-Location"] == lost.headers["Content-Location"]

    def test_of_a_move_that_died_in_vain_is_no_move_to_elsewhere(
        self, as_operator, add_job
    ):
        path = f"{TRANSITIONS}{add_job().job_id}/"

        def move(status, key):
            return as_operator.patch(
                path,
                {"projectStatus": status},
                format="json",
                headers={"Idempotency-Key": key},
            )

        with (
            patch("scheduling.api.views.update_transition", side_effect=SystemExit),
            pytest.raises(SystemExit),
        ):
            move("DRAFT", "k")
        let_takers_die()
        # The same user moves it by another request.
        moved = move("CANCELLED", "k-2")

        again = move("DRAFT", "k")

        assert moved.status_code == 200
        problem = assert_problem(again, 409, "job_not_updatable")
        assert problem["replacedBy"] == moved.json()["jobId"]

    def test_of_a_process_that_died_in_vain_is_handled_afresh(self, as_operator, now):
        job = make_job(SCHEDULED, now=now)
        path = f"{TRANSITIONS}{job.job_id}/run-now/"
        # The same was done before, by another request.
        first = post(as_operator, {"reason": "x"}, key="k-0", path=path)
        with (
            patch.object(TransitionRunNow, "service", side_effect=SystemExit),
            pytest.raises(SystemExit),
        ):
            post(as_operator, {"reason": "x"}, path=path)
        let_takers_die()

        again = post(as_operator, {"reason": "x"}, path=path)

        assert (first.status_code, again.status_code) == (202, 202)
        ran = AuditEntry.objects.filter(action="transition.run_now", job_id=job.job_id)
        assert ran.count() == 2


@pytest.mark.django_db(transaction=True)
class TestKeyThatOutlivesAnOutage:
    @pytest.mark.parametrize("is_done", [True, False])
    def test_is_settled_when_the_database_is_back(
        self, as_operator, phase_data, monkeypatch, is_done
    ):
        monkeypatch.setattr(idempotency, "SETTLE_SECONDS", 0.01)
        name = "store" if is_done else "let_go"
        settle = getattr(idempotency, name)
        outage = [OperationalError("gone"), InterfaceError("gone")]

        def fail_at_first(*args):
            if outage:
                raise outage.pop()
            settle(*args)

        monkeypatch.setattr(idempotency, name, fail_at_first)
        with nullcontext() if is_done else _unavailable():
            first = post(as_operator, phase_data())
        assert first.status_code == (201 if is_done else 503)

        deadline = time.monotonic() + 10
        while (again := post(as_operator, phase_data())).status_code == 409:
            assert time.monotonic() < deadline
            assert again.json()["code"] == "conflict"

        assert again.status_code == 201
        assert ("Idempotency-Replayed" in again.headers) is is_done


def _unavailable():
    return patch(
        "scheduling.api.views.schedule_transition",
        side_effect=ServiceUnavailableError("later"),
    )


@pytest.mark.django_db(transaction=True)
class TestTwins:
    def test_have_one_effect_and_one_answer(self, make_user, client_of, now):
        client = client_of(make_user("olivia", group="operator"))
        job = make_job(now=now)
        path = f"{TRANSITIONS}{job.job_id}/run-now/"

        answers = run_together(10, lambda _: post(client, {"reason": "x"}, path=path))

        answered = [answer for answer in answers if answer.status_code == 202]
        (first,) = [one for one in answered if "Idempotency-Replayed" not in one.headers]
        for answer in answers:
            if answer.status_code != 202:
                assert_problem(answer, 409, "conflict")
                assert int(answer.headers["Retry-After"]) > 0
            elif answer is not first:
                assert_replayed(answer, first)
        entries = AuditEntry.objects.filter(job_id=job.job_id, action="transition.run_now")
        assert entries.count() == 1

    def test_wait_for_a_moment_and_are_then_told_when_to_ask_again(
        self, make_user, client_of, phase_data, monkeypatch
    ):
        monkeypatch.setattr(idempotency, "WAIT_SECONDS", 0.2)
        client = client_of(make_user("olivia", group="operator"))
        with patch("scheduling.api.idempotency.store"):
            post(client, phase_data())

        started = time.monotonic()
        response = post(client, phase_data())

        assert 0.2 <= time.monotonic() - started < 5
        assert_problem(response, 409, "conflict")
        assert response.headers["Retry-After"] == "1"
