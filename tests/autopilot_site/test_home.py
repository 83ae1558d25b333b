"""The admin's home page: the line of truth, what comes next, what needs somebody."""

import re
from collections import Counter
from datetime import timedelta
from unittest.mock import Mock

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from autopilot_site.health import Check, CheckStatus, Health, HealthStatus, judgement
from autopilot_site.home import latest_health
from autopilot_site.home import page as home
from autopilot_site.home.day import (
    SLICE,
    SLICES,
    DayReader,
    bucket_of,
    quantile_ms,
    share_within,
    upper_ms,
)
from autopilot_site.home.latest_health import LatestHealth
from autopilot_site.home.pictures import draw_histogram, sparkline
from autopilot_site.home.verification import SILENT_AFTER, judge
from scheduling.models import (
    AuditEntry,
    DeadLetter,
    ScheduledTransition,
    VerificationResult,
)
from scheduling.services.schedule import schedule_transition
from tests.support.consumer import wait_until

REFRESH = "/admin/home/"


def health(now, **checks):
    """Return a reading in which everything is up but what is given."""
    figures = checks.pop("figures", {})
    found = {
        name: Check(status=CheckStatus.UP, detail="well", figures=figures.get(name, {}))
        for name in ("database", "scheduler", "kafka", "recovery")
    }
    for name, (status, detail) in checks.items():
        found[name] = Check(status=status, detail=detail, figures=found[name].figures)
    is_well = not checks
    return Health(
        status=HealthStatus.OK if is_well else HealthStatus.DEGRADED,
        timestamp=now,
        checks=found,
    )


@pytest.fixture
def well(monkeypatch, now):
    """Let all be well, whatever runs here."""
    monkeypatch.setattr(home.latest_health, "read", lambda *, now: health(now))


@pytest.fixture
def client(db):
    """Return a client signed in as a viewer."""
    user = get_user_model().objects.create_user("vera")
    user.groups.add(Group.objects.get(name="viewer"))
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


class TestTruth:
    def test_is_that_all_is_well_and_when_the_next_one_is(self, now, db):
        job = ScheduledTransition(due_at=now + timedelta(seconds=200))

        truth = home.tell_truth(health(now), [job], [], now=now)

        assert truth.text == "All well: next transition in 3 min 20 s"
        assert truth.tone == "good"

    @pytest.mark.parametrize(
        ("due_in", "count", "text"),
        [
            (200, 1, "Next transition in 3 min 20 s; 1 thing needs you"),
            (None, 2, "Nothing is scheduled; 2 things need you"),
        ],
    )
    def test_is_not_that_all_is_well_while_something_waits_for_a_person(
        self, now, due_in, count, text
    ):
        coming = []
        if due_in:
            coming.append(ScheduledTransition(due_at=now + timedelta(seconds=due_in)))
        need = home.Need(text="2 transitions failed", url="/", kind="failed")

        truth = home.tell_truth(health(now), coming, [need] * count, now=now)

        assert (truth.text, truth.tone, truth.url) == (text, "warning", "#needs")

    def test_is_why_something_is_overdue_not_once_more_that_it_is(self, now, db):
        late = f"1 job{judgement.OVERDUE_SAID}46 s"
        found = health(
            now,
            scheduler=(CheckStatus.DEGRADED, late),
            kafka=(CheckStatus.DOWN, "no broker answers"),
            figures={"scheduler": {"overdueJobs": 1, "oldestOverdueSeconds": 46.0}},
        )

        truth = home.tell_truth(found, [], [], now=now)

        assert truth.text == "1 overdue (oldest 46 s): no broker answers"

    def test_is_what_is_overdue_and_why(self, now, db):
        found = health(
            now,
            kafka=(CheckStatus.DOWN, "no broker answers; more"),
            figures={"scheduler": {"overdueJobs": 2, "oldestOverdueSeconds": 41.0}},
        )

        truth = home.tell_truth(found, [], [], now=now)

        assert truth.text == "2 overdue (oldest 41 s): no broker answers"
        assert truth.tone == "bad"
        assert truth.url.endswith("?overdue=true")

    def test_is_the_first_thing_that_is_wrong(self, now, db):
        found = health(now, recovery=(CheckStatus.DEGRADED, "the last run failed"))

        truth = home.tell_truth(found, [], [], now=now)

        assert (truth.text, truth.tone) == ("The last run failed", "warning")


class TestPage:
    def test_shows_what_comes_next_and_what_needs_somebody(
        self, client, well, operator, phase_data, now
    ):
        jobs = [
            schedule_transition(
                phase_data(phaseId=10 + n, due_in=3_600 + n), actor=operator, now=now
            ).job
            for n in range(10)
        ]
        ScheduledTransition.objects.filter(pk=jobs[9].pk).update(
            status="failed", finalized_at=now
        )

        html = client.get("/admin/").content.decode()

        assert [job.job_id in html for job in jobs] == [True] * 8 + [False] * 2
        assert "1 transition failed: retry or cancel" in html
        assert 'data-refresh="/admin/home/"' in html

    def test_says_that_nothing_needs_anybody(self, client, well):
        html = client.get("/admin/").content.decode()

        assert "Nothing needs you." in html
        assert "Nothing is scheduled." in html

    def test_names_what_is_down_among_what_needs_somebody(self, client, monkeypatch, now):
        found = health(now, kafka=(CheckStatus.DOWN, "no broker answers (timed out)"))
        monkeypatch.setattr(home.latest_health, "read", lambda *, now: found)

        html = client.get("/admin/").content.decode()

        assert "Kafka: no broker answers (timed out)" in html
        assert "Nothing needs you." not in html

    def test_is_refreshed_by_a_part_without_the_frame(self, client, well):
        html = client.get(REFRESH).content.decode()

        assert "<html" not in html
        assert 'data-part="truth"' in html

    def test_costs_few_queries_however_much_there_is(
        self, client, well, operator, phase_data, now
    ):
        home.day_reader.read(now=now, seconds=5)
        for n in range(5):
            data = phase_data(phaseId=10 + n)
            schedule_transition(data, actor=operator, now=now)

        with CaptureQueriesContext(connection) as queries:
            client.get(REFRESH)

        assert len(queries) <= 16

    def test_is_for_those_with_a_role(self, db):
        assert Client().get(REFRESH).status_code == 302

    def test_counts_dead_letters(self, client, well, now):
        DeadLetter.objects.create(
            cluster_id="c",
            topic="t",
            partition=0,
            offset=0,
            code="x",
            category="validation",
            message="m",
            set_aside_at=now,
        )

        assert "1 dead letter: replay or discard" in client.get("/admin/").content.decode()


class TestVerification:
    def result(self, now, *, ago=timedelta(minutes=3), unchecked=(), **violations):
        found = {"1": 0, "9": 0} | {name[1:]: n for name, n in violations.items()}
        return VerificationResult(
            name="scheduled",
            started_at=now - ago - timedelta(milliseconds=340),
            finished_at=now - ago,
            is_ok=not (unchecked or violations),
            violations=found,
            unchecked=list(unchecked),
            findings=[
                {"id": int(one), "jobId": "job-1-2-3", "detail": "<b>early</b>"}
                for one, count in found.items()
                if count
            ],
        )

    @pytest.mark.parametrize(
        ("fields", "text", "kind"),
        [
            ({}, "no violations", "good"),
            ({"_1": 2, "_9": 1}, "3 violations", "bad"),
            ({"_1": 1, "ago": 3 * SILENT_AFTER}, "1 violation", "bad"),
            ({"unchecked": ["no"]}, "not all could be checked", "warning"),
            ({"ago": SILENT_AFTER * 1.01}, "unknown since", "quiet"),
        ],
    )
    def test_is_told_in_a_word(self, now, fields, text, kind):
        verdict = judge(self.result(now, **fields), now=now)

        assert (verdict.text, verdict.kind) == (text, kind)

    def test_is_unknown_before_the_first_one(self, now):
        assert judge(None, now=now).text == "unknown: none yet"

    def test_stands_on_home_and_leads_to_what_was_found(self, client, well, now):
        self.result(now, _1=2).save()

        home_page = client.get(REFRESH).content.decode()
        strip = home_page.partition('data-part="strip"')[2]
        page = client.get("/admin/verification/").content.decode()

        assert "The last verification found 2 violations" in home_page
        assert 'href="/admin/verification/"' in strip
        assert "2 violations" in strip
        assert re.search(r"3 min( \d+ s)? ago", strip)
        assert "1: no early fire" in page
        assert "&lt;b&gt;early&lt;/b&gt;" in page
        assert "/job/job-1-2-3/" in page
        assert "needs the topic" in page

    def test_has_a_page_before_the_first_one(self, client):
        assert "none yet" in client.get("/admin/verification/").content.decode()


class TestDay:
    def add(self, now, *, ago, lateness_ms, action="transition.completed"):
        AuditEntry.objects.create(
            at=now - ago,
            action=action,
            actor="system:scheduler",
            role="system",
            changes={"latenessMs": lateness_ms},
        )

    def test_counts_what_was_published_and_failed_by_slice(self, db, now):
        self.add(now, ago=timedelta(0), lateness_ms=5)
        self.add(now, ago=timedelta(hours=3), lateness_ms=2_000)
        self.add(now, ago=timedelta(hours=3), lateness_ms=0, action="transition.failed")
        self.add(now, ago=timedelta(hours=25), lateness_ms=5)

        day = DayReader().read(now=now, seconds=5)

        assert day.is_whole
        assert day.lateness() == Counter({bucket_of(5): 1, bucket_of(2_000): 1})
        assert sum(one.failed for one in day.counted()) == 1

    def test_counts_an_ended_slice_once(self, db, now):
        reader = DayReader()
        reader.read(now=now, seconds=60)
        self.add(now, ago=timedelta(hours=3), lateness_ms=5)

        with CaptureQueriesContext(connection) as queries:
            day = reader.read(now=now, seconds=60)

        assert day.lateness().total() == 0
        assert len(queries) <= 1

    def test_counts_each_once_while_time_goes_on(self, db, now):
        reader = DayReader()
        at, added = now.replace(minute=3, second=7), 0

        for _ in range(30):
            at += timedelta(seconds=37)
            self.add(at, ago=timedelta(0), lateness_ms=5)
            self.add(at, ago=timedelta(seconds=50), lateness_ms=5)
            added += 2
            told = reader.read(now=at, seconds=0).lateness().total()

            assert told == added

    def test_counts_a_settled_minute_once(self, db, now):
        now = now.replace(minute=4, second=30)
        reader = DayReader()
        reader.read(now=now, seconds=60)
        self.add(now, ago=timedelta(minutes=3), lateness_ms=5)
        self.add(now, ago=timedelta(seconds=70), lateness_ms=5)

        day = reader.read(now=now, seconds=5)

        assert day.lateness().total() == 1

    # In the middle of a slice, and while the one before may still get entries.
    @pytest.mark.parametrize("minute", [8, 10, 11])
    def test_goes_on_where_time_was_up(self, db, now, minute):
        now = now.replace(minute=minute, second=5)
        reader = DayReader()

        first = reader.read(now=now, seconds=0)
        for _ in range(SLICES):
            last = reader.read(now=now, seconds=0)

        assert 0 < len(first.counted()) < SLICES
        assert last.is_whole

    def test_forgets_what_is_out_of_sight(self, db, now):
        reader = DayReader()
        reader.read(now=now, seconds=5)

        reader.read(now=now + SLICE * SLICES, seconds=5)

        assert len(reader._ended) <= SLICES


class TestFigures:
    def test_tell_quantiles_to_a_bucket(self):
        lateness = Counter({bucket_of(5): 98, bucket_of(900): 2})

        assert 5 <= quantile_ms(lateness, 0.5) <= 7
        assert 900 <= quantile_ms(lateness, 0.99) <= 1_201
        assert quantile_ms(Counter(), 0.5) is None

    def test_tell_the_share_within_a_limit(self):
        lateness = Counter({bucket_of(5): 9_998, bucket_of(1_500): 2})

        assert share_within(lateness, 1_000) == 0.9998
        assert home._percent(0.99999) == "99.99 %"

    def test_end_buckets_at_whole_decades(self):
        assert upper_ms(bucket_of(999.9)) == pytest.approx(1_000)

    def test_draw_what_lies_outside_at_the_ends(self):
        lateness = Counter({bucket_of(0.2): 3, bucket_of(9_000_000): 1})

        picture = draw_histogram(lateness, slo_ms=1_000)

        assert len(picture.bars) == 2
        assert picture.bars[-1].is_late
        assert all(0 <= bar.x <= 720 for bar in picture.bars)

    def test_draw_no_line_through_one_point(self):
        assert sparkline([None, 3.0]) == ""
        assert sparkline([0.0, 3.0]).startswith("0.0,26.0")


class TestLatestHealth:
    class Reader:
        def __init__(self):
            self.asked = 0

        def read(self, *, now):
            self.asked += 1
            return health(now)

    def test_is_read_at_once_where_there_is_none_or_an_old_one(self, now):
        reader = self.Reader()
        latest = LatestHealth(reader.read)

        latest.read(now=now)
        latest.read(now=now + timedelta(seconds=1))
        found = latest.read(now=now + timedelta(minutes=1))

        assert reader.asked == 2
        assert found.timestamp == now + timedelta(minutes=1)

    def test_goes_on_though_one_behind_the_page_failed(self, now, caplog, monkeypatch):
        monkeypatch.setattr(latest_health, "AFTER", timedelta(0))
        reader = self.Reader()
        latest = LatestHealth(reader.read)
        latest.read(now=now)

        with monkeypatch.context() as broken:
            broken.setattr(latest, "_ask", Mock(side_effect=RuntimeError("no memory")))
            latest.read(now=now + timedelta(seconds=5))
            wait_until(lambda: not latest._is_reading, what="the end of the failed one")
        latest.read(now=now + timedelta(seconds=6))
        wait_until(lambda: not latest._is_reading, what="the end of the next one")

        assert "the home page's health could not be read" in caplog.text
        assert reader.asked == 2
