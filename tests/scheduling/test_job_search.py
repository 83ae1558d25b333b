"""Jobs found by a part of an id or a name, by the index of trigrams where there is one."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection, connections, transaction
from django.db.models.functions import Lower, Upper

from scheduling.adapters.job_texts import follow_one_seal, is_indexed, ready_some
from scheduling.domain.errors import InvalidRequestError
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
            # Without a trigram.
            *["77", "a", "B", "é", "Üb", "ü", "1-9", "9 7", "__", "_c", "%b_c", "b\\c"],
            *["\\C", "\\", "'", "d'", "' & '", "s:*", ":*", "e", "-", "p a%", "q", "x'q"],
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
        make_job(now=now, phase_type_name="It's d' & 's:*e 1- -9")
        if is_followed:
            follow_all(now)

        assert find(text) == listed(text, now)[0] == scan(text)

    def test_goes_across_no_border_between_two_texts(self, now):
        make_job(now=now, job_id="job-1-2-abc", phase_type_name="def")
        follow_all(now)

        assert find("abcdef") == find("abc def") == []
        assert listed("abc\x1f\x1fdef", now)[0] == []

    def test_leaves_to_others_what_grows_in_upper_case(self, now):
        job = make_job(now=now, phase_type_name="ß")
        follow_all(now)

        assert find("ß") is None
        assert listed("ß", now)[0] == pks(job)

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

    def test_asks_no_text_for_its_pairs_where_a_large_part_has_them(self, now, monkeypatch):
        monkeypatch.setattr(job_search, "LEAST_PART", 10**9)
        make_job(now=now)
        follow_all(now)

        assert find("gi") is None
        assert "STRPOS" in listed("gi", now)[1]
        assert "scheduling_jobtext" in listed("registration", now)[1]

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
    """The API's list where it is searched."""

    @pytest.fixture(params=["sorted", "walked", "behind", "part behind"])
    def four(self, request, now, monkeypatch):
        """Return four jobs in due order, of which two are due at one instant."""
        is_walk = request.param == "walked"
        # So few rows are all a large part of them.
        monkeypatch.setattr(job_search, "LEAST_PART", 10**9 if is_walk else 0)
        make_job(now=now, due_in=60, phase_type_name="Other")
        follow_all(now)
        jobs = []
        for seconds in (900, 300, 300, 600):
            jobs.append(make_job(now=now, due_in=seconds))
            if request.param == "part behind" and len(jobs) == 2:
                follow_all(now)
        if request.param in {"sorted", "walked"}:
            follow_all(now)
        return [jobs[1], jobs[2], jobs[3], jobs[0]]

    @pytest.mark.parametrize("ordering", ["endTime", "-endTime"])
    @pytest.mark.parametrize("text", ["registration", "gi", "R"])
    def test_shows_what_the_list_shows(self, now, four, ordering, text):
        filters = {"search": text, "ordering": ordering}
        rows = list(list_jobs(filters, now=now, live_by_default=False))
        if text != "R":
            assert set(rows) == set(four)

        for start, stop in [(0, 10), (0, 2), (1, 3), (2, 4), (3, 9), (4, 9), (9, 12)]:
            found = search_in_due_order(filters, now=now)
            assert found.cut(start, stop) == rows[start:stop]
            if start < len(rows):
                assert found.count(at_least=1) == len(rows)

    @pytest.mark.parametrize(
        ("more", "places"),
        [
            ({"state": "START"}, []),
            ({"state": "END"}, [0, 1, 2, 3]),
            ({"status": ["scheduled", "failed"], "overdue": "false"}, [0, 1, 2, 3]),
            ({"status": "completed"}, []),
            ({"due_after": 600}, [2, 3]),
            ({"due_before": 600}, [0, 1]),
            ({"due_after": 301, "due_before": 900, "status": "scheduled"}, [2]),
            ({"overdue": "true"}, []),
        ],
    )
    @pytest.mark.parametrize("text", ["registration", "gi"])
    def test_knows_the_other_filters(self, now, four, more, places, text):
        filters = {"search": text, **more}
        for name in {"due_after", "due_before"} & more.keys():
            filters[name] = (now + timedelta(seconds=more[name])).isoformat()
        rows = list(list_jobs(filters, now=now, live_by_default=False))

        found = search_in_due_order(filters, now=now)

        assert rows == [four[place] for place in places]
        # Where many have it, the jobs' own indexes serve other filters sooner.
        if job_search.LEAST_PART and set(more) - {"due_after", "due_before"}:
            assert found is None
        else:
            assert found.cut(0, 10) == rows

    @pytest.mark.parametrize("name", ["project_id", "phase_id"])
    def test_finds_among_what_an_id_names(self, now, four, name):
        value = getattr(four[2], name)

        rows = list_jobs({"search": "re", name: value}, now=now, live_by_default=False)
        found = search_in_due_order({"search": "re", name: value}, now=now)

        shown = list(rows) if job_search.LEAST_PART else found.cut(0, 10)
        assert shown == [job for job in four if getattr(job, name) == value]

    def test_counts_as_far_as_it_says_and_estimates_beyond(self, now, four, monkeypatch):
        follow_all(now)
        monkeypatch.setattr(job_search, "MOST_COUNTED_IN_SEARCH", 2)
        jobs = ScheduledTransition._meta.db_table
        estimate = lambda rows: 77 if jobs in str(rows.query) else 99  # noqa: E731
        monkeypatch.setattr(job_search, "estimate_rows", estimate)

        due = {"due_after": now.isoformat()}
        for more, number in ({}, 99), (due | {"state": "END"}, 77):
            if more and job_search.LEAST_PART:
                continue
            found = search_in_due_order({"search": "registration", **more}, now=now)
            assert found.cut(0, 2) == four[:2]
            assert found.count(at_least=3) == number
            assert found.cut(2, 5) == four[2:]
            assert found.count(at_least=3) == 4

    @pytest.mark.parametrize(
        "filters",
        [
            {"search": "registration", "ordering": "-createdAt"},
            {"search": "registration", "ordering": "nothing"},
            {"search": " "},
            {"search": "abc\x1fdef"},
            {"state": "END"},
            {},
        ],
    )
    def test_leaves_the_rest_to_the_list(self, now, four, filters):
        assert search_in_due_order(filters, now=now) is None

    def test_tells_what_is_wrong_with_the_other_filters(self, now, four):
        filters = {"search": "re", "due_after": "soon", "state": "MIDDLE", "color": "red"}

        with pytest.raises(InvalidRequestError) as caught:
            search_in_due_order(filters, now=now)

        named = {name for name, _ in caught.value.errors}
        assert named == {"dueAfter", "state", "color"}

    def test_leaves_to_the_list_what_is_far_behind(self, now, four, monkeypatch):
        monkeypatch.setattr(job_search, "MOST_BEHIND", 0)
        make_job(now=now)

        assert search_in_due_order({"search": "registration"}, now=now) is None

    def test_leaves_to_the_list_what_many_have_and_is_behind(self, now, monkeypatch):
        monkeypatch.setattr(job_search, "MOST_BEHIND_COMMON", 0)
        make_job(now=now)
        follow_all(now)
        job = make_job(now=now)
        for part, is_left in ((10**9, True), (0, False)):
            monkeypatch.setattr(job_search, "LEAST_PART", part)
            found = search_in_due_order({"search": "registration"}, now=now)
            assert (found is None) is is_left
        assert job in found.cut(0, 9)

    def test_shows_a_job_once_whose_text_is_kept_meanwhile(self, now, four, monkeypatch):
        job = make_job(now=now, due_in=100)
        look_up = job_search._look_up

        def follow_and_look_up(text):
            follow_all(now)
            return look_up(text)

        monkeypatch.setattr(job_search, "_look_up", follow_and_look_up)
        monkeypatch.setattr(job_search, "_behind", lambda *_, **__: [(job.due_at, job.pk)])
        found = search_in_due_order({"search": "registration"}, now=now)

        assert JobText.objects.filter(pk=job.pk).exists()
        assert found.cut(0, 9) == [job, *four]

    @pytest.mark.parametrize(
        ("text", "most", "index"),
        [
            ("registration", 1_000, "job_text_trigrams"),
            ("registration", -1, "job_text_due_order"),
            ("gi", 1_000, "job_text_bigrams"),
            ("g", 1_000, "job_text_bigrams"),
            ("1-2", 1_000, "job_text_bigrams"),
            ("gi", -1, "job_text_due_order"),
        ],
    )
    def test_reads_the_index_that_serves_it(self, now, monkeypatch, text, most, index):
        monkeypatch.setattr(job_search, "MOST_SORTED", most)
        monkeypatch.setattr(job_search, "LEAST_PART", 0)
        for seconds in range(100, 120):
            make_job(now=now, due_in=seconds)
        follow_all(now)
        with connection.cursor() as cursor:
            # So few rows would be read whole.
            away = ["seqscan"] if most < 0 else ["seqscan", "indexscan", "indexonlyscan"]
            for way in away:
                cursor.execute(f"SET enable_{way} = off")
            try:
                found = search_in_due_order({"search": text}, now=now)
                plan = found._places[:10].explain()
            finally:
                cursor.execute("RESET ALL")

        assert index in plan
        assert ("due_at + " in plan) == (most > 0)
        assert "Seq Scan" not in plan

    def test_asks_no_text_for_its_pairs_within_a_part_of_the_order(self, now, monkeypatch):
        monkeypatch.setattr(job_search, "LEAST_PART", 0)
        job = make_job(now=now)
        follow_all(now)

        filters = {"search": "gi", "due_after": now.isoformat()}
        found = search_in_due_order(filters, now=now)

        assert found.cut(0, 9) == [job]
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            assert "job_text_due_order" not in found._places.explain()

    def test_waits_until_the_texts_of_the_release_before_are_ready(
        self, now, four, monkeypatch
    ):
        follow_all(now)
        JobText.objects.update(text=Lower("text"), form=None)
        JobText.objects.filter(pk=four[0].pk).update(due_at=None)
        JobText.objects.create(pk=10**9, text="of a job that is gone")
        monkeypatch.setattr("scheduling.adapters.job_texts.MOST_READIED", 4)
        assert search_in_due_order({"search": "registration"}, now=now) is None
        assert find("gi") is None
        assert set(find("registration")) == {job.pk for job in four}

        assert ready_some()
        assert search_in_due_order({"search": "registration"}, now=now) is None
        Round(threading.Event()).look()

        assert search_in_due_order({"search": "registration"}, now=now).cut(0, 9) == four
        assert not ready_some()
        assert not JobText.objects.exclude(text=Upper("text")).exists()
        assert set(JobText.objects.values_list("form", flat=True)) == {1}


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

    def test_go_too_where_they_are_kept_meanwhile(self, now, settings):
        make_job(now=now)
        follow_all(now)
        job = make_job(COMPLETED, now=now)
        ScheduledTransition.objects.filter(pk=job.pk).update(finalized_at=job.created_at)
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"max_completed_job_age": 1}
        )
        Sealer().seal_next(now=now)
        kept, may_end = threading.Event(), threading.Event()

        def keep():
            try:
                with transaction.atomic():
                    assert follow_one_seal()
                    kept.set()
                    assert may_end.wait(20)
            finally:
                connections.close_all()

        def clean():
            try:
                return clean_up(now=now)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(2) as pool:
            keeping = pool.submit(keep)
            assert kept.wait(10)
            cleaning = pool.submit(clean)
            with suppress(TimeoutError):
                cleaning.result(1)
            may_end.set()
            keeping.result(20)
            assert cleaning.result(20) == 1

        assert not JobText.objects.filter(pk=job.pk).exists()
        assert JobText.objects.count() == ScheduledTransition.objects.count() == 1

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
