"""Every path of the site answers with the same guard of headers, whoever asks."""

import re
from unittest.mock import Mock

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import get_resolver

from autopilot_site.health import facts
from scheduling.adapters.broker_probe import BrokerAnswer
from tests.scheduling.api.test_routes import routes_of

PASSWORD = "a-secret-for-tests"  # noqa: S105 -- opens nothing
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# What would tell of the server, or let other sites read what is ours.
NEVER = {
    "Server",
    "X-Powered-By",
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
}
POLICY = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    "form-action": "'self'",
    "connect-src": "'self'",
    "font-src": "'self'",
    "img-src": "'self' data:",
}
ICON = "/static/autopilot/icon.svg"


def addresses():
    """Return an address of each route; what it names is not there."""
    found = {"/no-such-page", "/api/v1/no-such-path/"}
    for route in routes_of(get_resolver()):
        plain = re.sub(r"\(\?P<\w+>[^)]*\)|<[^>]+>", "1", route)
        found.add("/" + re.sub(r"[\^$]|\\Z|\\", "", plain).replace("(?:", ""))
    return sorted(found)


def policy_of(response):
    parts = response.headers["Content-Security-Policy"].split("; ")
    return dict(part.partition(" ")[::2] for part in parts)


def assert_guarded(address, response):
    for name, value in ALWAYS.items():
        assert response.headers.get(name) == value, (address, name)
    assert not NEVER & set(response.headers), address
    policy = policy_of(response)
    assert {name: policy[name] for name in POLICY} == POLICY, address
    for source in ("script-src", "style-src"):
        assert "'unsafe-inline'" not in policy[source], address
        assert "'self'" in policy[source], address
    if address.startswith("/api/v1/") and "no-such" not in address:
        kept = {"private, no-cache", "no-store"}
        assert response.headers.get("Cache-Control") in kept, address
    # The admin's look evaluates the expressions of its own pages.
    if not address.startswith("/admin/"):
        assert "'unsafe-eval'" not in policy["script-src"], address


@pytest.fixture(autouse=True)
def _nearby_broker(monkeypatch):
    """Let a broker answer at once; to wait for one is health's own matter."""
    answer = BrokerAnswer(brokers=1)
    monkeypatch.setattr(facts, "process_probe", lambda: Mock(ask=lambda: answer))


@pytest.fixture
def root(db):
    """Return a browser in which a superuser is signed in."""
    user = get_user_model().objects.create_superuser("ada", password=PASSWORD)
    browser = Client()
    browser.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return browser


@pytest.mark.first_start
@pytest.mark.django_db
class TestEveryRoute:
    def test_is_known_here(self):
        assert len(addresses()) > 80
        assert {"/livez", "/health", "/metrics", "/api/docs/", "/admin/"} < set(addresses())

    @pytest.mark.django_db
    def test_answers_strangers_with_all_guards(self, client):
        for address in addresses():
            assert_guarded(address, client.get(address))

    def test_answers_a_superuser_with_all_guards(self, root):
        for address in addresses():
            # Each visit may end the session: signing out is a page too.
            if address.startswith("/admin/") and "logout" not in address:
                assert_guarded(address, root.get(address))

    def test_lets_no_file_be_taken_for_another_kind(self, client):
        icon = client.get(ICON)
        icon.close()

        for name, value in ALWAYS.items():
            if name != "X-Frame-Options":
                assert icon.headers[name] == value

    @pytest.mark.django_db
    def test_is_kept_on_https_where_it_is_asked_for(self, client, settings):
        settings.SECURE_SSL_REDIRECT = True
        settings.SECURE_HSTS_SECONDS = 31_536_000
        probes = re.compile(r"/(livez|metrics|health(/\w+)?)")

        for address in addresses():
            plain = client.get(address)
            if probes.fullmatch(address):
                assert plain.status_code in {200, 503}, address
            else:
                assert plain.status_code == 301, address
                assert plain.headers["Location"].startswith("https://testserver/")
        secure = client.get("/api/docs/", secure=True)
        assert secure.headers["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.django_db
class TestSession:
    def test_is_a_cookie_that_scripts_and_other_sites_don_t_get(self, settings):
        settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = True
        get_user_model().objects.create_superuser("ada", password=PASSWORD)
        browser = Client()
        form = browser.get("/admin/login/", secure=True)

        answer = browser.post(
            "/admin/login/?next=/admin/",
            {"username": "ada", "password": PASSWORD},
            secure=True,
        )

        session = answer.cookies["sessionid"]
        assert session["httponly"]
        assert session["secure"]
        assert session["samesite"] == "Lax"
        assert session["max-age"] == 12 * 3600
        assert form.cookies["csrftoken"]["secure"]

    def test_is_another_one_after_the_log_in(self):
        get_user_model().objects.create_superuser("ada", password=PASSWORD)
        browser = Client()
        browser.cookies["sessionid"] = "planted"

        browser.post("/admin/login/", {"username": "ada", "password": PASSWORD})

        assert browser.cookies["sessionid"].value != "planted"

    def test_moves_nothing_for_another_site(self, settings):
        user = get_user_model().objects.create_superuser("ada", password=PASSWORD)
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        before = user.password

        answer = browser.post(
            f"/admin/auth/user/{user.pk}/password/",
            {"password1": "another-long-one", "password2": "another-long-one"},
            headers={"Origin": "https://elsewhere.example"},
        )

        user.refresh_from_db()
        assert answer.status_code == 403
        assert user.password == before
