"""Circuit breakers in the admin: how they stand, and who may reset one."""

from datetime import timedelta

import pytest

from scheduling.models import AuditEntry, CircuitBreaker
from tests.support.admin_client import HOSTILE, page_of, signed_in

pytestmark = pytest.mark.django_db
URL = "/admin/circuit-breakers/"
RESET = f"{URL}scheduler/reset/"


@pytest.fixture
def opened(now):
    return CircuitBreaker.objects.create(
        name="scheduler",
        state="open",
        failure_count=5,
        total_calls=12,
        rejected_count=7,
        changed_at=now - timedelta(minutes=2),
        opened_at=now - timedelta(seconds=10),
        last_failure_at=now,
        last_error=f"no broker {HOSTILE}",
    )


class TestCircuitBreakers:
    def test_shows_every_breaker_also_one_that_never_failed(self, opened):
        response = signed_in("viewer").get(URL)

        html = page_of(response)
        words = {one.row.name: one.word for one in response.context["breakers"]}
        assert words == {"scheduler": "open", "recovery": "closed", "challenge": "closed"}
        assert "no broker &lt;script&gt;" in html
        assert "it never opened" in html

    def test_tells_when_it_will_be_tried_again(self, opened, settings):
        (shown,) = [
            one
            for one in signed_in("viewer").get(URL).context["breakers"]
            if one.row.name == "scheduler"
        ]

        assert shown.next_try_at == opened.opened_at + timedelta(milliseconds=60_000)

    @pytest.mark.parametrize(
        ("group", "is_shown"), [("viewer", False), ("operator", False), ("admin", True)]
    )
    def test_has_a_button_for_admins_alone(self, opened, group, is_shown):
        assert (RESET in page_of(signed_in(group).get(URL))) is is_shown


class TestResetBreaker:
    def test_closes_it_with_a_reason(self, opened):
        browser = signed_in("admin")
        page_of(browser.get(RESET))

        html = page_of(browser.post(RESET, {"reason": "the broker is back"}, follow=True))

        assert "The breaker scheduler is closed." in html
        opened.refresh_from_db()
        assert opened.state == "closed"
        entry = AuditEntry.objects.get(action="breaker.reset")
        assert (entry.actor, entry.reason) == ("user:admin-1", "the broker is back")

    @pytest.mark.parametrize("reason", ["", " ", "x" * 2_001])
    def test_demands_a_reason(self, opened, reason):
        response = signed_in("admin").post(RESET, {"reason": reason})

        assert "reason: " in page_of(response, status=400)
        opened.refresh_from_db()
        assert opened.state == "open"

    @pytest.mark.parametrize("group", ["viewer", "operator"])
    @pytest.mark.parametrize("method", ["get", "post"])
    def test_is_an_admin_s_alone(self, opened, group, method):
        response = getattr(signed_in(group), method)(RESET, {"reason": "x"})

        assert response.status_code == 403
        opened.refresh_from_db()
        assert opened.state == "open"

    def test_knows_the_breakers_there_are(self):
        assert signed_in("admin").get(f"{URL}oven/reset/").status_code == 404
