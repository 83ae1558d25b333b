"""ETag, If-Match and If-None-Match: who changes what they did not see, loses."""

from datetime import timedelta

import pytest

from scheduling.api.conditional import entity_tag
from scheduling.models import ScheduledTransition
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import clean_up
from tests.scheduling.api.support import TRANSITIONS, assert_problem
from tests.support.histories import FAILED, SCHEDULED, make_job, state_of
from tests.support.threads import run_together

# How each conditional request is made, and from which past of a job it succeeds.
WRITES = {
    "update": ("patch", "", {"projectStatus": "DRAFT"}, SCHEDULED),
    "cancel": ("post", "cancel/", {"reason": "x"}, SCHEDULED),
    "run-now": ("post", "run-now/", {"reason": "x"}, SCHEDULED),
    "retry": ("post", "retry/", {"reason": "x"}, FAILED),
}
ALL_WRITES = pytest.mark.parametrize("write", WRITES)
STALE = '"0123456789abcdef0123456789abcdef"'


def send(client, write, job, **headers):
    """Make the conditional request of that name."""
    method, path, data, _ = WRITES[write]
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return getattr(client, method)(
        f"{TRANSITIONS}{job.job_id}/{path}", data, format="json", headers=names
    )


def show(client, job, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"{TRANSITIONS}{job.job_id}/", headers=names)


@pytest.mark.django_db
class TestEntityTag:
    def test_is_a_strong_tag_and_the_same_as_long_as_the_job_is(self, as_viewer, add_job):
        job = add_job(metadata={"b": 1e300, "a": -0.0})

        tags = {show(as_viewer, job).headers["ETag"] for _ in range(2)}

        (tag,) = tags
        assert tag[0] == tag[-1] == '"'
        assert tag.strip('"').isalnum()

    def test_is_another_after_every_change(self, as_operator, now):
        job = make_job(now=now)
        tags = [entity_tag(job)]

        for values in (
            {"attempts": 1},
            {"last_error": "x"},
            {"next_attempt_at": now},
            {"updated_at": job.updated_at + timedelta(microseconds=1)},
            {"replaced_by": "job-1-2-3"},
            {"status": "cancelled", "finalized_at": now},
        ):
            ScheduledTransition.objects.update(**values)
            tags.append(show(as_operator, job).headers["ETag"])

        assert len(set(tags)) == len(tags)

    def test_of_two_jobs_is_never_the_same(self, now):
        one, two = make_job(now=now), make_job(now=now)

        assert entity_tag(one) != entity_tag(two)

    def test_is_on_every_answer_that_is_one_job(self, as_operator, phase_data, now):
        created = as_operator.post(TRANSITIONS, phase_data(), format="json")
        existing = as_operator.post(TRANSITIONS, phase_data(), format="json")
        answers = [created, existing]
        for write, (*_, start) in WRITES.items():
            answers.append(send(as_operator, write, make_job(start, now=now)))

        for answer in answers:
            found = as_operator.get(f"{TRANSITIONS}{answer.json()['jobId']}/")
            assert answer.headers["ETag"] == found.headers["ETag"]
            assert (
                as_operator.get(answer.headers["Content-Location"]).json() == found.json()
            )
        assert "Location" in created.headers
        assert "Location" not in existing.headers

    def test_of_a_cleaned_up_job_is_another(self, as_viewer, add_job, operator, now):
        job = add_job()
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)
        before = show(as_viewer, job).headers["ETag"]
        clean_up(now=now + timedelta(days=1))

        after = [show(as_viewer, job).headers["ETag"] for _ in range(2)]

        assert after[0] == after[1] != before


@pytest.mark.django_db
class TestIfMatch:
    @ALL_WRITES
    @pytest.mark.parametrize("form", ["{}", "*", '"x", {}', '"x",W/"y", {} , "z"', None])
    def test_lets_through_what_it_names(self, as_operator, now, write, form):
        job = make_job(WRITES[write][3], now=now)
        tag = show(as_operator, job).headers["ETag"]
        headers = {} if form is None else {"If_Match": form.format(tag)}

        response = send(as_operator, write, job, **headers)

        assert response.status_code in {200, 202}

    @ALL_WRITES
    @pytest.mark.parametrize("form", [STALE, f'{STALE}, "y"', "W/{}", "", "x", "**", "{}x"])
    def test_stops_everything_else(self, as_operator, now, write, form):
        job = make_job(WRITES[write][3], now=now)
        before = state_of(job)
        tag = entity_tag(job)
        # Without its quotes a tag is none.
        header = form.format(tag if form != "{}x" else tag.strip('"'))

        response = send(as_operator, write, job, If_Match=header)

        problem = assert_problem(response, 412, "precondition_failed")
        assert problem["jobId"] == job.job_id
        assert ("with its quotes" in problem["detail"]) is ('"' not in header)
        assert ("without W/" in problem["detail"]) is header.startswith("W/")
        assert state_of(job) == before

    @ALL_WRITES
    def test_stops_who_saw_the_job_before_its_last_change(self, as_operator, now, write):
        job = make_job(WRITES[write][3], now=now)
        seen = show(as_operator, job).headers["ETag"]
        assert send(as_operator, write, job).status_code in {200, 202}
        before = state_of(job)

        response = send(as_operator, write, job, If_Match=seen)

        assert_problem(response, 412, "precondition_failed")
        assert state_of(job) == before

    def test_holds_also_where_nothing_would_change(self, as_operator, add_job):
        job = add_job()
        path = f"{TRANSITIONS}{job.job_id}/"

        response = as_operator.patch(path, {}, format="json", headers={"If-Match": STALE})

        assert_problem(response, 412, "precondition_failed")

    @ALL_WRITES
    def test_finds_no_unknown_job(self, as_operator, now, write):
        job = ScheduledTransition(job_id="job-1-2-3")

        response = send(as_operator, write, job, If_Match="*")

        assert_problem(response, 404, "job_not_found")

    def test_holds_for_a_cleaned_up_job(self, as_operator, add_job, operator, now):
        job = add_job()
        cancel_transition(job_id=job.job_id, actor=operator, reason="over", now=now)
        clean_up(now=now + timedelta(days=1))
        tag = show(as_operator, job).headers["ETag"]

        stale = send(as_operator, "cancel", job, If_Match=STALE)
        fresh = send(as_operator, "cancel", job, If_Match=tag)

        assert_problem(stale, 412, "precondition_failed")
        assert_problem(fresh, 409, "job_not_cancellable")

    def test_holds_for_a_reader(self, as_viewer, add_job):
        job = add_job()

        assert show(as_viewer, job, If_Match=entity_tag(job)).status_code == 200
        assert_problem(show(as_viewer, job, If_Match=STALE), 412, "precondition_failed")


@pytest.mark.django_db(transaction=True)
class TestRace:
    @ALL_WRITES
    def test_of_two_with_the_same_tag_one_wins(self, make_user, client_of, now, write):
        client = client_of(make_user("olivia", group="operator"))
        job = make_job(WRITES[write][3], now=now)
        tag = show(client, job).headers["ETag"]

        answers = run_together(8, lambda _: send(client, write, job, If_Match=tag))

        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] in {200, 202}
        assert statuses[1:] == [412] * 7


@pytest.mark.django_db
class TestIfNoneMatch:
    @pytest.mark.parametrize("form", ["{}", "W/{}", "*", '"x", W/{}'])
    def test_spares_who_has_the_job_as_it_is(self, as_viewer, add_job, form):
        job = add_job()
        tag = show(as_viewer, job).headers["ETag"]

        response = show(as_viewer, job, If_None_Match=form.format(tag))

        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["ETag"] == tag
        assert "Content-Type" not in response.headers

    @pytest.mark.parametrize("form", [STALE, f"W/{STALE}", "x", ""])
    def test_shows_the_job_to_others(self, as_viewer, add_job, form):
        job = add_job()

        response = show(as_viewer, job, If_None_Match=form)

        assert response.json()["jobId"] == job.job_id

    def test_finds_no_unknown_job(self, as_viewer, db):
        job = ScheduledTransition(job_id="job-1-2-3")

        assert_problem(show(as_viewer, job, If_None_Match="*"), 404, "job_not_found")
