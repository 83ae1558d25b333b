"""How much one caller may ask, over all processes."""

import re

import pytest
from django.conf import settings as site_settings
from rest_framework.test import APIClient

from autopilot_site.env import RATE_FORM
from scheduling.adapters.rate_counter import Rate, RateCounter
from scheduling.api import throttles
from scheduling.api.throttles import read_rate
from scheduling.models import AuditEntry
from tests.scheduling.api.support import PASSWORD, TRANSITIONS, assert_problem
from tests.support.threads import run_together

OBTAIN = "/api/v1/auth/token/"
REFRESH = "/api/v1/auth/token/refresh/"


@pytest.fixture(autouse=True)
def _fresh_counts(monkeypatch):
    """Let the process forget what other tests have used up."""
    monkeypatch.setattr(throttles, "requests", RateCounter())


def limit_log_ins(settings, rate):
    settings.API_THROTTLE_TOKEN = rate


def obtain(n=0, **extra):
    data = {"username": f"name {n}", "password": PASSWORD}
    return APIClient().post(OBTAIN, data, format="json", **extra)


class TestUserThrottle:
    def test_answers_429_and_says_when_to_ask_again(self, as_viewer, settings):
        settings.API_THROTTLE_USER = "3/min"

        answers = [as_viewer.get(TRANSITIONS) for _ in range(5)]

        assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
        problem = assert_problem(answers[-1], 429, "throttled")
        assert 55 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert problem["category"] == "validation"

    def test_counts_every_user_apart_wherever_from(self, as_viewer, as_operator, settings):
        settings.API_THROTTLE_USER = "2/min"

        for n in range(4):
            as_viewer.get(TRANSITIONS, REMOTE_ADDR=f"10.0.0.{n}")

        assert as_viewer.get(TRANSITIONS).status_code == 429
        assert as_operator.get(TRANSITIONS).status_code == 200

    def test_counts_every_route_and_method_and_refusal_together(
        self, as_viewer, settings, phase_data
    ):
        settings.API_THROTTLE_USER = "4/min"

        statuses = [
            as_viewer.get(TRANSITIONS).status_code,
            as_viewer.post(TRANSITIONS, phase_data(), format="json").status_code,
            as_viewer.delete(TRANSITIONS).status_code,
            as_viewer.get(f"{TRANSITIONS}job-1/").status_code,
            as_viewer.get(TRANSITIONS).status_code,
        ]

        assert statuses == [200, 403, 405, 404, 429]

    def test_bounds_what_a_user_without_a_role_may_write_to_the_audit(
        self, as_stranger, settings
    ):
        settings.API_THROTTLE_USER = "3/min"

        statuses = [as_stranger.get(TRANSITIONS).status_code for _ in range(6)]

        assert statuses == [403] * 3 + [429] * 3
        assert AuditEntry.objects.filter(action="access.refused").count() == 3

    def test_allows_six_thousand_a_minute_unless_told_otherwise(self):
        assert read_rate(site_settings.API_THROTTLE_USER) == Rate(6000, 60)


@pytest.mark.django_db
class TestLogInThrottle:
    def test_counts_the_log_ins_of_an_address_whatever_headers_say(self, settings):
        limit_log_ins(settings, "4/min")

        answers = [
            obtain(n, headers={"X-Forwarded-For": f"9.9.9.{n}", "X-Real-Ip": f"9.9.9.{n}"})
            for n in range(6)
        ]

        assert [answer.status_code for answer in answers] == [401] * 4 + [429] * 2
        assert_problem(answers[-1], 429, "throttled")
        assert 55 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert obtain(REMOTE_ADDR="10.0.0.9").status_code == 401

    def test_counts_a_whole_network_of_ipv6_together(self, settings):
        limit_log_ins(settings, "2/min")

        statuses = [
            obtain(n, REMOTE_ADDR=f"2001:db8::{n}").status_code for n in range(1, 5)
        ]

        assert statuses == [401, 401, 429, 429]

    def test_behind_a_proxy_counts_the_last_hop(self, settings):
        settings.TRUST_PROXY = True
        limit_log_ins(settings, "2/min")

        forwarded = ["1.1.1.1, 9.9.9.9", "2.2.2.2, 9.9.9.9", "9.9.9.9", "9.9.9.9, 1.1.1.1"]
        statuses = [
            obtain(headers={"X-Forwarded-For": value}).status_code for value in forwarded
        ]

        assert statuses == [401, 401, 429, 401]

    def test_leaves_those_who_are_logged_in_alone(self, as_viewer, settings):
        limit_log_ins(settings, "1/min")
        for n in range(3):
            obtain(n)

        assert as_viewer.get(TRANSITIONS).status_code == 200
        refresh = APIClient().post(REFRESH, {"refresh": "x"}, format="json")
        assert refresh.status_code == 401

    def test_allows_thirty_a_minute_unless_told_otherwise(self):
        assert read_rate(site_settings.API_THROTTLE_TOKEN) == Rate(30, 60)


@pytest.mark.django_db(transaction=True)
class TestParallelRequests:
    def test_fifty_at_once_get_exactly_what_is_allowed(
        self, make_user, client_of, settings
    ):
        settings.API_THROTTLE_USER = "20/min"
        client = client_of(make_user("victor", group="viewer"))
        authorization = client.defaults["HTTP_AUTHORIZATION"]

        answers = run_together(
            50, lambda _: APIClient(HTTP_AUTHORIZATION=authorization).get(TRANSITIONS)
        )

        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 20 + [429] * 30


class TestReadRate:
    @pytest.mark.parametrize(
        ("text", "rate"),
        [
            ("5/s", Rate(5, 1)),
            ("5/sec", Rate(5, 1)),
            ("5/m", Rate(5, 60)),
            ("30/min", Rate(30, 60)),
            ("30/minute", Rate(30, 60)),
            ("7/hour", Rate(7, 3600)),
            ("7/day", Rate(7, 86_400)),
        ],
    )
    def test_reads_what_a_setting_may_hold(self, text, rate):
        assert re.fullmatch(RATE_FORM, text)
        assert read_rate(text) == rate
