"""Jobs found by a part of an id or a name, by the index of trigrams where there is one."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection, connections, transaction

from scheduling.adapters.job_texts import date_some, is_indexed
from scheduling.models import JobText, ScheduledTransition
from scheduling.models.job_text import INDEX_STATEMENT, Reach
from scheduling.queries import job_search
from scheduling.queries.attention import find_by_part
from scheduling.queries.job_search import find_by_index, part_of_a_text
from scheduling.queries.jobs import list_jobs, search_in_due_order
from scheduling.sealer import FOLLOW_EVERY, Round
from scheduling.services.clean_up import clean_up
from scheduling.services.seals import Sealer
from tests.support.histories import CANCELLED, COMPLETED, make_job
from tests.support.job_texts import follow, follow_all
from tests.support.threads import run_together

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="DATABASE_URL names no PostgreSQL"
    ),
]
CHALLENGE = "0b4de5f1-7a6c-4f0e-9d3b-2f1c5a6b7c8d"


def scan(text):
    """Return what a look at each job finds."""
    found = ScheduledTransition.objects.filter(part_of_a_text(text))
    return sorted(found.values_list("pk", flat=True))


def find(text, most=2_000):
    """Return what the index finds."""
    return find_by_index(text, most=most)


def listed(text, now):
    """Return what the API's list shows, and its condition."""
    rows = list_jobs({"search": text}, now=now, live_by_default=False)
    return pks(*rows), str(rows.query)


def pks(*jobs):
    return sorted(job.pk for job in jobs)


@pytest.fixture
def late(now):
    """Return a function that makes a job in a transaction that ends when it is told to."""
    pool = ThreadPoolExecutor(1)
    made, may_end = threading.Event(), threading.Event()

    def run(fields):
        try:
            with transaction.atomic():
                job = make_job(now=now, **fields)
                made.set()
                assert may_end.wait(20)
            return job
        finally:
            connections.close_all()

    def begin(**fields):
        job = pool.submit(run, fields)
        assert made.wait(10)

        def end():
            may_end.set()
            return job.result(20)

        return end

    yield begin
    may_end.set()
    pool.shutdown()


class TestFindByIndex:
    @pytest.mark.parametrize(
        "text",
        [
            *["9771", "977199", "JOB-1-9771", "sign-UP", "a%b_cde", "ÜBER", "über"],
            *[CHALLENGE[9:20], CHALLENGE.upper(), "nobody", "long b\\c", "Sign-up a%b_c"],
        ],
    )
    @pytest.mark.parametrize("is_followed", [True, False], ids=["kept", "behind"])
    def test_finds_what_a_look_at_each_finds(self, now, text, is_followed):
        make_job(now=now, project_id="1", phase_id="2")
        follow_all(now)
        made = {"project_id": "977199", "challenge_id": CHALLENGE}
        make_job(
            now=now, job_id="job-1-977199-3", phase_type_name="Sign-up a%b_cde", **made
        )
        make_job(COMPLETED, now=now, phase_type_name="Überlong b\\c")
        if is_followed:
            follow_all(now)

        assert find(text) == listed(text, now)[0] == scan(text)

    def test_goes_across_no_border_between_two_texts(self, now):
        make_job(now=now, job_id="job-1-2-abc", phase_type_name="def")
        follow_all(now)

        assert find("abcdef") == find("abc def") == []
        assert listed("abc\x1f\x1fdef", now)[0] == []

    @pytest.mark.parametrize("text", ["77", "a", "1-2", "__", "a b c", "%b_c", "b\\c"])
    def test_leaves_to_others_what_has_no_trigram(self, now, text):
        make_job(now=now)
        follow_all(now)

        assert find(text) is None

    def test_leaves_to_others_what_nobody_keeps(self, now):
        make_job(now=now)

        assert find("Registration") is None

    def test_leaves_to_others_what_many_have(self, now):
        jobs = [make_job(now=now) for _ in range(3)]
        follow_all(now)

        assert find("Registration", most=3) == pks(*jobs)
        jobs.append(make_job(now=now))
        assert find("Registration", most=3) is None

    def test_leaves_to_others_what_is_far_behind(self, now, monkeypatch):
        follow_all(now)
        make_job(now=now)
        follow_all(now)
        monkeypatch.setattr(job_search, "MOST_BEHIND", 2)

        make_job(CANCELLED, now=now)
        assert find("Registration") is not None
        make_job(now=now)
        assert find("Registration") is None

    def test_finds_one_that_commits_under_an_id_that_was_passed(self, now, late):
        end = late(phase_type_name="Late")
        other = make_job(now=now)
        follow_all(now)
        assert Reach.read().waiting

        job = end()

        assert find("Late") == pks(job)
        follow_all(now)
        make_job(now=now)
        follow_all(now)
        assert Reach.read().waiting == ()
        assert set(JobText.objects.values_list("pk", flat=True)) > {job.pk, other.pk}
        assert find("Late") == pks(job)

    def test_is_what_the_list_and_the_admin_ask(self, now, monkeypatch):
        old = make_job(COMPLETED, now=now, phase_type_name="Long ago")
        make_job(COMPLETED, now=now)
        follow_all(now)
        monkeypatch.setattr("scheduling.queries.attention.SEARCHED", 0)

        assert find_by_part("ong Ag") == pks(old)
        rows = list_jobs({"search": "ong Ag"}, now=now, live_by_default=False)
        assert list(rows) == [old]
        assert "scheduling_jobtext" in str(rows.query)


class TestSearch:
    @pytest.mark.parametrize(
        "text", ["Registration", "regIStration", "9771", "Über", "77", "a%b", "b\\c", "_"]
    )
    @pytest.mark.parametrize("is_followed", [True, False], ids=["kept", "behind"])
    def test_finds_the_same_where_many_have_it(self, now, monkeypatch, text, is_followed):
        monkeypatch.setattr(job_search, "MOST_FOUND", 0)
        make_job(now=now, project_id="1", phase_id="2")
        follow_all(now)
        made = {"project_id": "977199", "challenge_id": CHALLENGE}
        make_job(now=now, phase_type_name="Sign-up a%b_cde", **made)
        make_job(COMPLETED, now=now, phase_type_name="Überlong b\\c")
        if is_followed:
            follow_all(now)

        found, condition = listed(text, now)

        assert found == scan(text) != []
        assert "STRPOS" in condition

    def test_believes_the_figures_that_many_have_it(self, now, monkeypatch):
        make_job(now=now)
        follow_all(now)
        monkeypatch.setattr(job_search, "estimate_rows", lambda rows: 10**6)

        assert "STRPOS" in listed("Registration", now)[1]

    def test_asks_the_index_for_what_has_a_border_in_it(self, now):
        job = make_job(now=now, phase_type_name="Round b-77")
        follow_all(now)

        assert find("b-77") == pks(job)
        kept = JobText.objects.filter(text__icontains="b-77").order_by()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            plan = kept.explain()
        assert "Index Cond: (upper(text) ~~ '%B-77%'" in plan

    def test_counts_what_many_have_by_the_figures_of_the_texts(self, now):
        assert job_search.estimate_found("Registration") is None
        make_job(now=now)
        follow_all(now)

        assert job_search.estimate_found("Registration") >= 1


class TestFindInDueOrder:
    """The API's list where it is searched and nothing else."""

    @pytest.fixture
    def four(self, now):
        """Return four jobs in due order, of which two are due at one instant."""
        jobs = [make_job(now=now, due_in=seconds) for seconds in (900, 300, 300, 600)]
        make_job(now=now, due_in=60, phase_type_name="Other")
        follow_all(now)
        return [jobs[1], jobs[2], jobs[3], jobs[0]]

    @pytest.mark.parametrize("ordering", ["endTime", "-endTime"])
    def test_shows_what_the_list_shows(self, now, four, ordering):
        filters = {"search": "registration", "ordering": ordering}
        found = search_in_due_order(filters)

        rows = list_jobs(filters, now=now, live_by_default=False)
        assert found.cut(0, 10) == list(rows)
        assert set(found.cut(0, 10)) == set(four)
        assert found.cut(1, 3) == list(rows)[1:3]
        assert found.count(at_least=1) == 4

    @pytest.mark.parametrize(
        "filters",
        [
            {"search": "registration", "state": "END"},
            {"search": "registration", "ordering": "-createdAt"},
            {"search": "registration", "ordering": "nothing"},
            {"search": " "},
            {"search": "re"},
            {"search": "abc\x1fdef"},
            {"state": "END"},
            {},
        ],
    )
    def test_leaves_the_rest_to_the_list(self, four, filters):
        assert search_in_due_order(filters) is None

    def test_leaves_to_the_list_what_it_does_not_know_all_of(self, now, four):
        make_job(now=now)

        assert search_in_due_order({"search": "registration"}) is None
        assert search_in_due_order({"search": "other"}) is not None

    def test_leaves_to_the_list_what_too_many_have(self, four, monkeypatch):
        monkeypatch.setattr(job_search, "MOST_SORTED", 0)

        assert search_in_due_order({"search": "registration"}) is None

    def test_waits_until_the_texts_of_the_release_before_have_their_instants(
        self, now, four, monkeypatch
    ):
        JobText.objects.update(due_at=None)
        JobText.objects.create(pk=10**9, text="of a job that is gone")
        monkeypatch.setattr("scheduling.adapters.job_texts.MOST_DATED", 4)
        assert search_in_due_order({"search": "registration"}) is None

        assert date_some()
        assert search_in_due_order({"search": "registration"}) is None
        Round(threading.Event()).look()

        assert search_in_due_order({"search": "registration"}).cut(0, 9) == four
        assert not date_some()


class TestJobTexts:
    def test_have_an_index_that_serves_the_search(self, now):
        assert is_indexed()
        kept = JobText.objects.filter(text__icontains="Registration").order_by()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            assert "job_text_trigrams" in kept.explain()

    def test_are_kept_once_however_many_follow(self, now):
        for _ in range(3):
            make_job(now=now)
            Sealer().seal_next(now=now)

        assert run_together(4, follow) == [None] * 4
        follow_all(now)

        assert JobText.objects.count() == ScheduledTransition.objects.count() == 3

    def test_go_with_their_jobs(self, now, settings):
        job = make_job(COMPLETED, now=now)
        stays = make_job(now=now)
        follow_all(now)
        ScheduledTransition.objects.filter(pk=job.pk).update(finalized_at=job.created_at)
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"max_completed_job_age": 1}
        )

        clean_up(now=now)

        assert list(JobText.objects.values_list("pk", flat=True)) == [stays.pk]

    def test_are_kept_by_the_sealers_looks(self, now):
        job = make_job(now=now)
        looks = Round(threading.Event())

        looks.look()

        assert list(JobText.objects.values_list("pk", flat=True)) == [job.pk]
        make_job(now=now)
        Sealer().seal_next(now=now)
        for _ in range(FOLLOW_EVERY + 1):
            looks.look()
        assert JobText.objects.count() == 2

    def test_may_lack_the_index_where_the_database_refuses_it(self, caplog):
        migration = import_module("scheduling.migrations.0014_job_texts")
        role = f"test{os.getpid()}_nobody"
        with connection.cursor() as cursor, connection.schema_editor() as editor:
            cursor.execute("DROP INDEX job_text_trigrams")
            # Roles belong to the whole server; this one goes with the transaction.
            cursor.execute(f"CREATE ROLE {role}")
            cursor.execute(f"GRANT {role} TO CURRENT_USER")
            cursor.execute(f"SET LOCAL ROLE {role}")

            migration.create_index(apps, editor)

            assert "`manage.py doctor` says how" in caplog.text
            cursor.execute("RESET ROLE")
            assert not is_indexed()
            editor.connection.set_rollback(True)
        assert is_indexed()
        assert migration.INDEX == INDEX_STATEMENT

    def test_are_not_kept_without_the_index(self, now, monkeypatch):
        monkeypatch.setattr("scheduling.sealer.is_indexed", lambda: False)
        make_job(now=now)

        Round(threading.Event()).look()

        assert not JobText.objects.exists()
        assert Reach.read() is None
