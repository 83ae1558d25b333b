"""Each condition is told once and once when it is over; a broken target harms nothing."""

import dataclasses
import http.server
import json
import re
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command

from autopilot_site.alerts import companion, sending, watch
from autopilot_site.alerts.targets import Target, configured
from autopilot_site.health import facts
from autopilot_site.management.commands import verify as verify_command
from autopilot_site.verification.report import Report
from recovery.models import RecoveryRun
from scheduling.adapters import broker_probe
from scheduling.adapters.clock import database_now
from scheduling.domain.phases import format_instant
from scheduling.models import Alert, CircuitBreaker, Notification, ProcessState
from tests.support.histories import FAILED, make_job

pytestmark = pytest.mark.django_db(transaction=True)
README = Path(__file__).resolve().parents[3] / "README.md"


@pytest.fixture
def look(now):
    """Return a round of the watch over a system whose processes live."""

    def run(*, targets=("a",), is_consumer_alive=True, has_looked=True, broker_error=""):
        instant = database_now()
        ProcessState.objects.all().delete()
        kinds = ["cluster", *(["consumer"] if is_consumer_alive else [])]
        looked = {"lastLookAt": format_instant(instant)} if has_looked else {}
        for kind in kinds:
            ProcessState.objects.create(
                kind=kind,
                host="here",
                pid=7,
                started_at=instant,
                seen_at=instant,
                figures={"workers": 2, "lag": {}, **looked},
            )
        known = facts.Facts(
            database=facts._read_database(now=instant),
            database_error="",
            broker=broker_probe.BrokerAnswer(
                brokers=int(not broker_error), error=broker_error
            ),
            disk=facts.DiskFacts(free_bytes=10**12, total_bytes=10**13),
        )
        watch.look(known, now=instant, targets=targets, overdue_seconds=60)

    return run


@pytest.fixture
def told():
    """Return a target that takes every message, and what it took."""
    taken = []
    return {"a": Target(digest="a", notify=taken.append)}, taken


def opened():
    return {alert.key for alert in Alert.objects.filter(ended_at=None)}


def send(targets, *, later=0.0):
    return sending.send_waiting(targets, now=database_now() + timedelta(seconds=later))


class TestLook:
    def test_tells_nothing_where_all_is_well(self, look):
        look()

        assert not Alert.objects.exists()

    def test_tells_nothing_of_a_cluster_that_starts(self, look):
        look(has_looked=False)

        assert not Alert.objects.exists()

    def test_tells_each_condition_once_for_each_target(self, look, now):
        make_job(now=now, due_in=-90)

        for _ in range(3):
            look(targets=("a", "b"))

        assert opened() == {"overdue"}
        assert sorted(Notification.objects.values_list("target", flat=True)) == ["a", "b"]

    def test_tells_when_it_is_over(self, look, now):
        job = make_job(now=now, due_in=-90)
        look()
        job.delete()

        for _ in range(2):
            look()

        assert opened() == set()
        first, second = Notification.objects.order_by("id")
        assert (first.is_resolved, second.is_resolved) == (False, True)
        assert second.title == "Autopilot: resolved: overdue"

    def test_tells_again_where_it_comes_again(self, look, now):
        make_job(now=now, due_in=-90).delete()
        for _ in range(2):
            job = make_job(now=now, due_in=-90)
            look()
            job.delete()
            look()

        assert Notification.objects.count() == 4

    def test_tells_each_failed_job_until_it_is_dealt_with(self, look, now):
        dealt_with = make_job(FAILED, now=now)
        left = make_job(FAILED, now=now)
        look()
        both = opened()
        dealt_with.replaced_by = "job-new"
        dealt_with.save()

        look()

        assert both == {f"job failed:{job.job_id}" for job in (dealt_with, left)}
        assert opened() == {f"job failed:{left.job_id}"}

    def test_tells_many_failed_jobs_together(self, look, now):
        for _ in range(25):
            make_job(FAILED, now=now)

        look()

        assert len(opened()) == 21
        assert "jobs failed" in opened()

    def test_tells_an_open_breaker_and_that_it_closed(self, look, now):
        row = CircuitBreaker.objects.create(name="scheduler", state="open", opened_at=now)
        look()
        seen = opened()
        row.state = "closed"
        row.save()

        look()

        assert seen == {"breaker:scheduler"}
        assert opened() == set()

    def test_tells_a_failed_run_of_recovery(self, look, now):
        RecoveryRun.objects.create(
            trigger="sync",
            status="FAILED",
            actor="system:recovery",
            role="operator",
            created_at=now,
            started_at=now,
            finished_at=now,
        )

        look()

        assert opened() == {"recovery"}

    def test_tells_a_silent_consumer_and_an_absent_broker(self, look):
        look(is_consumer_alive=False)
        look(is_consumer_alive=True, broker_error="Connection refused")

        (alert,) = Alert.objects.all()
        assert alert.key == "check:kafka"
        assert "no consumer runs" in alert.summary

    def test_tells_what_verify_found(self, look, monkeypatch, now):
        report = Report(with_topic=False)
        invariant = next(iter(report.invariants.values()))
        monkeypatch.setattr(verify_command, "verify", lambda *a, **k: report)
        invariant.violation_count = 2
        with pytest.raises(CommandError):
            call_command("verify", "--json", stdout=_Silent())
        look()
        seen = opened()
        invariant.violation_count = 0
        call_command("verify", "--json", stdout=_Silent())

        look()

        assert seen == {"verify"}
        assert opened() == set()

    def test_changes_nothing_without_a_database(self, look, now):
        make_job(now=now, due_in=-90)
        look()
        blind = facts.Facts(
            database=None,
            database_error="away",
            broker=broker_probe.BrokerAnswer(brokers=1),
            disk=None,
        )

        watch.look(blind, now=now, targets=["a"], overdue_seconds=60)

        assert opened() == {"overdue"}


class TestSendWaiting:
    @pytest.fixture(autouse=True)
    def _queued(self, look, now):
        make_job(now=now, due_in=-90)
        look(targets=("a", "b"))

    def test_sends_each_message_once(self, told):
        targets, taken = told
        both = {**targets, "b": dataclasses.replace(targets["a"], digest="b")}

        assert (send(both), send(both)) == (2, 0)

        assert {message.key for message in taken} == {"overdue"}
        assert "oldest by" in taken[0].body
        assert Notification.objects.filter(was_sent=True).count() == 2

    def test_a_target_that_fails_holds_up_no_other(self, told):
        targets, _ = told

        def fail(message):
            raise ConnectionError("https://user:hunter2@example is away")

        both = {**targets, "b": Target(digest="b", notify=fail)}

        assert send(both) == 1

        waits = Notification.objects.get(settled_at=None)
        assert (waits.target, waits.attempts) == ("b", 1)
        assert waits.last_error == "ConnectionError"
        assert waits.next_attempt_at > database_now()

    def test_a_target_that_hangs_is_left_behind(self, told, monkeypatch):
        monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.1)
        targets, _ = told
        release = threading.Event()
        both = {"b": Target(digest="b", notify=lambda _: release.wait(20)), **targets}
        began_at = time.monotonic()

        assert send(both) == 1

        release.set()
        assert time.monotonic() - began_at < 5
        assert Notification.objects.get(settled_at=None).last_error.startswith("no answer")

    def test_gives_up_after_so_many_attempts(self):
        def fail(message):
            raise ConnectionError

        targets = {name: Target(digest=name, notify=fail) for name in "ab"}

        for _ in range(sending.MOST_ATTEMPTS + 2):
            send(targets, later=3_600)

        assert not Notification.objects.filter(settled_at=None).exists()
        assert not Notification.objects.filter(was_sent=True).exists()
        assert {n.attempts for n in Notification.objects.all()} == {sending.MOST_ATTEMPTS}

    def test_two_hosts_send_one_message_once(self):
        message = Notification.objects.first()
        other = Notification.objects.get(pk=message.pk)

        assert (sending._take(message), sending._take(other)) == (True, False)

    def test_a_message_that_is_being_sent_is_left_to_its_sender(self, told):
        targets, taken = told
        sending._take(Notification.objects.get(target="a"))

        send(targets)

        assert taken == []

    def test_gives_up_what_is_for_nobody_any_more(self, told):
        targets, _ = told

        send(targets)

        assert Notification.objects.get(target="b").last_error


# apprise imports it for its mails.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
class TestConfigured:
    def test_delivers_by_apprise(self, settings, look, now):
        received = []

        class Hook(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                received.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"json://127.0.0.1:{server.server_port}/hook"
        settings.ALERTS = {**settings.ALERTS, "urls": [url], "notifiers": []}
        targets = {target.digest: target for target in configured()}
        make_job(now=now, due_in=-90)
        look(targets=list(targets))

        try:
            assert send(targets) == 1
        finally:
            server.shutdown()
            server.server_close()

        assert received[0]["title"] == "Autopilot: overdue"
        assert "127.0.0.1" not in str(Notification.objects.values().get())

    def test_the_readme_s_notifier_is_told(
        self, settings, look, now, tmp_path, monkeypatch
    ):
        (code,) = re.findall(
            r"```python\n([^`]*?def note\(.*?)```", README.read_text(), re.DOTALL
        )
        pager = tmp_path / "pager.ndjson"
        (tmp_path / "pager.py").write_text(
            re.sub(r'Path\("[^"]+"\)', f'Path("{pager}")', code)
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        settings.ALERTS = {**settings.ALERTS, "urls": [], "notifiers": ["pager.note"]}
        targets = {target.digest: target for target in configured()}
        make_job(now=now, due_in=-90)
        look(targets=list(targets))

        send(targets)

        sys.modules.pop("pager")
        line = json.loads(pager.read_text())
        assert (line["key"], line["over"]) == ("overdue", False)

    @pytest.mark.parametrize(
        ("urls", "notifiers"),
        [(["nonsense-scheme://joe:hunter2@x"], []), ([], ["no.such.thing"])],
    )
    def test_what_can_t_be_used_is_refused_without_its_secret(
        self, settings, urls, notifiers
    ):
        settings.ALERTS = {**settings.ALERTS, "urls": urls, "notifiers": notifiers}

        with pytest.raises(ImproperlyConfigured) as error:
            configured()

        assert "hunter2" not in str(error.value)


class TestAttend:
    def test_watches_and_tells_until_it_is_to_stop(self, settings, now, monkeypatch, told):
        settings.KAFKA_CLIENT = {
            **settings.KAFKA_CLIENT,
            "bootstrap.servers": "127.0.0.1:9",
        }
        targets, taken = told
        monkeypatch.setattr(companion, "configured", lambda: list(targets.values()))
        monkeypatch.setattr(companion.os, "nice", lambda by: by)
        make_job(now=now, due_in=-90)

        class OneRound:
            rounds = 0

            def is_set(self):
                return self.rounds > 0

            def wait(self, timeout=None):
                self.rounds += 1
                return True

        companion.attend(OneRound())

        assert "overdue" in {message.key for message in taken}


class _Silent:
    """Takes what a command prints."""

    def write(self, text):
        """Drop it."""

    def isatty(self):
        return False
