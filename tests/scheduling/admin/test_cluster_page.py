"""The cluster's page: who is there, what they hold, how far the consumers are behind."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from scheduling.adapters.broker_probe import BrokerAnswer
from scheduling.models import ProcessState, ScheduledTransition
from tests.support.admin_client import HOSTILE, page_of, signed_in
from tests.support.histories import RUNNING, make_job

pytestmark = pytest.mark.django_db
URL = "/admin/cluster/"


@pytest.fixture(autouse=True)
def brokers(monkeypatch):
    """Return what the page hears of Kafka, to be changed: here nobody listens."""
    probe = SimpleNamespace(answer=BrokerAnswer(brokers=3))
    probe.ask = lambda: probe.answer
    monkeypatch.setattr("scheduling.admin.cluster.process_probe", lambda: probe)
    return probe


@pytest.fixture
def browser():
    return signed_in("viewer")


def add_process(now, *, seen=0, figures=None, **fields):
    return ProcessState.objects.create(
        **{"kind": "consumer", "host": "alpha", "pid": 7, **fields},
        started_at=now - timedelta(hours=1),
        seen_at=now - timedelta(seconds=seen),
        figures=figures or {},
    )


class TestCluster:
    def test_shows_processes_by_host_and_who_is_silent(self, browser, now):
        add_process(now, figures={"restarts": 3})
        add_process(now, host="beta", pid=8, kind="recovery", seen=120)

        response = browser.get(URL)

        html = page_of(response)
        hosts = response.context["hosts"]
        assert [host for host, _ in hosts] == ["alpha", "beta"]
        assert [one.is_alive for _, rows in hosts for one in rows] == [True, False]
        assert "silent" in html

    def test_tells_what_they_hold_and_how_far_they_are_behind(self, browser, now):
        add_process(now, figures={"lag": {"t[0]": 3, "t[1]": 40}, "isPaused": True})
        make_job(RUNNING, now=now)
        make_job(RUNNING, now=now)
        ScheduledTransition.objects.update(claimed_by="alpha/boot/1|9@12|")

        response = browser.get(URL)

        page_of(response)
        assert response.context["workers"] == [("alpha", 9, 2)]
        assert response.context["lag"] == [("t[1]", 40), ("t[0]", 3)]
        ((_, (process,)),) = response.context["hosts"]
        assert process.holds == "2 partitions, paused: no reason known"

    def test_tells_whether_kafka_answers(self, browser, brokers):
        assert "The cluster has 3 brokers" in page_of(browser.get(URL))

        brokers.answer = BrokerAnswer(brokers=0, error="connection refused")

        html = page_of(browser.get(URL))
        assert "No broker answers this host" in html
        assert "connection refused" not in html

    def test_says_what_to_do_where_nobody_is_there(self, browser):
        html = page_of(browser.get(URL))

        assert "No process has said anything" in html
        assert "no consumer is alive" in html

    def test_shows_hostile_texts_as_texts(self, browser, now):
        add_process(
            now,
            host=HOSTILE,
            kind=HOSTILE[:20],
            figures={
                "lag": {HOSTILE: 1},
                "restarts": HOSTILE,
                "isPaused": True,
                "pauseReason": HOSTILE,
                "pausedSince": HOSTILE,
            },
        )

        assert "&lt;script&gt;" in page_of(browser.get(URL))

    @pytest.mark.parametrize("claimed_by", ["", "x", "|||", "h|x@y|", "h|\u0661@1|"])
    def test_passes_over_what_names_no_process(self, browser, now, claimed_by):
        make_job(RUNNING, now=now)
        ScheduledTransition.objects.update(claimed_by=claimed_by)

        assert browser.get(URL).context["workers"] == []

    def test_can_t_be_posted_to(self):
        assert signed_in("admin").post(URL).status_code == 405

    def test_asks_the_same_number_of_queries_for_any_number(self, browser, now):
        browser.get(URL)
        with CaptureQueriesContext(connection) as few:
            browser.get(URL)
        for pid in range(20):
            add_process(now, pid=pid + 100)

        with CaptureQueriesContext(connection) as many:
            browser.get(URL)

        assert len(many) == len(few)
