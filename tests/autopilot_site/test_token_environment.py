"""The variables of tokens, their outside issuer, and throttles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from autopilot_site.env import (
    SiteSettings,
    check_outside_issuer,
    load_secret_files,
    read,
    verifying_keys,
)

MANAGE = str(Path(settings.BASE_DIR) / "manage.py")
KEY = "k" * 32
SECRET = "s" * 50
ISSUER = {
    "JWT_ISSUER": "https://issuer.example/",
    "JWT_AUDIENCE": "https://autopilot.example",
    "JWT_JWKS_URL": "https://issuer.example/.well-known/jwks.json",
}


@pytest.fixture
def site(monkeypatch):
    """Return a reader of the variables given, and no others of theirs."""

    def make(**variables):
        for name in (*ISSUER, "JWT_VERIFYING_KEYS", "DEBUG"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return read(SiteSettings)

    return make


def start(**variables):
    """Return how `manage.py check` ends with these variables alone."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, MANAGE, "check"],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


class TestSigningKey:
    @pytest.mark.parametrize("key", ["short", SECRET])
    def test_that_is_short_or_the_sites_secret_stops_the_start(self, key):
        bad = start(SECRET_KEY=SECRET, JWT_SIGNING_KEY=key)

        assert bad.returncode == 1
        assert "JWT_SIGNING_KEY=…: must have at least 32 bytes and differ" in bad.stderr
        assert key not in bad.stderr


class TestVerifyingKeys:
    def test_are_read_by_commas(self, site):
        keys = f" {KEY} ,,{KEY[::-1]}x,"

        read_keys = verifying_keys(site(JWT_VERIFYING_KEYS=keys), secret_key=SECRET)

        assert read_keys == (KEY, f"{KEY}x")

    def test_are_none_unless_given(self, site):
        assert verifying_keys(site(), secret_key=SECRET) == ()

    @pytest.mark.parametrize("keys", ["short", f"{KEY},short", f"{KEY},{SECRET}"])
    def test_that_are_bad_are_refused_and_not_shown(self, site, keys):
        with pytest.raises(ImproperlyConfigured) as refusal:
            verifying_keys(site(JWT_VERIFYING_KEYS=keys), secret_key=SECRET)

        assert str(refusal.value).startswith("JWT_VERIFYING_KEYS=…: ")
        assert "at least 32 bytes" in str(refusal.value)
        assert "short" not in str(refusal.value)
        assert SECRET not in str(refusal.value)

    def test_may_come_from_a_file(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text(f"{KEY},{KEY}\n")
        environ = {"JWT_VERIFYING_KEYS_FILE": str(file)}

        load_secret_files(environ)

        assert environ["JWT_VERIFYING_KEYS"] == f"{KEY},{KEY}"


class TestOutsideIssuer:
    @pytest.mark.parametrize("missing", ISSUER)
    def test_is_named_whole_or_not_at_all(self, site, missing):
        halves = {name: value for name, value in ISSUER.items() if name != missing}

        with pytest.raises(ImproperlyConfigured, match=f"^{missing}: "):
            check_outside_issuer(site(**halves))

    def test_may_be_absent_or_whole(self, site):
        check_outside_issuer(site())
        check_outside_issuer(site(**ISSUER))

    @pytest.mark.parametrize(
        "address",
        [
            "http://issuer.example/jwks.json",
            "http://127.0.0.1:8080/jwks.json",
            "http://localhost/jwks.json",
            "ftp://issuer.example/jwks.json",
            "file:///etc/passwd",
            "https://",
            "https:///jwks.json",
            "https://user:word@issuer.example/jwks.json",
            "https://issuer.example/jwks.json#x",
            "https://issuer.example:port/jwks.json",
            "https://[::1/jwks.json",
            "issuer.example",
        ],
    )
    def test_has_its_keys_at_an_https_address(self, site, address):
        with pytest.raises(ImproperlyConfigured) as refusal:
            check_outside_issuer(site(**{**ISSUER, "JWT_JWKS_URL": address}))

        assert str(refusal.value).startswith(f"JWT_JWKS_URL={address!r}: ")
        assert "https://HOST/PATH" in str(refusal.value)

    @pytest.mark.parametrize(
        ("address", "is_allowed"),
        [
            ("http://127.0.0.1:8080/jwks.json", True),
            ("http://localhost:8080/jwks.json", True),
            ("http://[::1]:8080/jwks.json", True),
            ("http://127.0.0.1.example/jwks.json", False),
            ("http://10.0.0.1/jwks.json", False),
        ],
    )
    def test_may_be_on_this_host_with_debug_on(self, site, address, is_allowed):
        variables = site(**{**ISSUER, "JWT_JWKS_URL": address, "DEBUG": "1"})

        if is_allowed:
            check_outside_issuer(variables)
        else:
            with pytest.raises(ImproperlyConfigured):
                check_outside_issuer(variables)

    def test_takes_the_place_of_a_signing_key(self):
        assert start(SECRET_KEY=SECRET, **ISSUER).returncode == 0

        without = start(SECRET_KEY=SECRET)
        assert without.returncode == 1
        assert "JWT_SIGNING_KEY=…: " in without.stderr

    def test_that_is_bad_stops_the_start(self):
        bad = start(SECRET_KEY=SECRET, **{**ISSUER, "JWT_JWKS_URL": "http://a/"})

        assert bad.returncode == 1
        assert "JWT_JWKS_URL='http://a/': " in bad.stderr
        assert "Traceback" not in bad.stderr


class TestThrottles:
    @pytest.mark.parametrize(
        ("name", "default"),
        [("API_THROTTLE_USER", "6000/min"), ("API_THROTTLE_TOKEN", "30/min")],
    )
    def test_have_the_contract_s_default(self, monkeypatch, name, default):
        monkeypatch.delenv(name, raising=False)

        assert getattr(read(SiteSettings), name.lower()) == default

    @pytest.mark.parametrize("name", ["API_THROTTLE_USER", "API_THROTTLE_TOKEN"])
    @pytest.mark.parametrize(
        "value",
        [
            "",
            "0/min",
            "-1/min",
            "30",
            "30/",
            "/min",
            "30/week",
            "30 /min",
            "1e3/min",
            "30/min\n",
        ],
    )
    def test_that_are_none_are_named_with_what_is_allowed(self, monkeypatch, name, value):
        monkeypatch.setenv(name, value)

        with pytest.raises(ImproperlyConfigured) as refusal:
            read(SiteSettings)

        assert str(refusal.value).startswith(f"{name}={value!r}: ")
        assert "allowed: N/sec, N/min, N/hour, N/day" in str(refusal.value)
