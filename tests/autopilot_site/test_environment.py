"""The environment: defaults, least values, and what a bad value is answered with."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from pydantic import ValidationError

from autopilot_site.env import SiteSettings, load_secret_files, prepare_first_start, read
from scheduling.conf import RecoverySettings, SchedulerSettings

MANAGE = str(Path(settings.BASE_DIR) / "manage.py")
# Name, default, least value (contract, section 10).
NUMBERS = [
    ("SCHEDULER_JOB_TIMEOUT", 60_000, 1_000),
    ("SCHEDULER_MAX_RETRIES", 3, 0),
    ("SCHEDULER_RETRY_DELAY", 5_000, 100),
    ("SCHEDULER_MAX_CONCURRENT_JOBS", 50, 1),
    ("SCHEDULER_CLEANUP_INTERVAL", 300_000, 1_000),
    ("SCHEDULER_MAX_COMPLETED_JOB_AGE", 3_600_000, 1_000),
    ("SCHEDULER_MAX_FAILED_JOB_AGE", 86_400_000, 1_000),
    ("SCHEDULER_MIN_SCHEDULE_ADVANCE", 1_000, 0),
    ("SCHEDULER_MAX_SCHEDULE_ADVANCE", 7_776_000_000, 1_000),
    ("RECOVERY_MAX_PHASE_AGE_HOURS", 72, 1),
    ("RECOVERY_STARTUP_TIMEOUT", 120_000, 1_000),
    ("RECOVERY_SYNC_INTERVAL", 180_000, 0),
    ("RECOVERY_MAX_CONCURRENT_PHASES", 10, 1),
    ("RECOVERY_PHASE_TIMEOUT", 30_000, 1_000),
    ("RECOVERY_MAX_BATCH_SIZE", 50, 1),
    ("RECOVERY_BATCH_DELAY", 100, 0),
    ("RECOVERY_CHALLENGE_SERVICE_TIMEOUT", 15_000, 1_000),
    ("RECOVERY_CHALLENGE_SERVICE_RETRIES", 3, 0),
]
FLAGS = [
    ("SCHEDULER_ALLOW_PAST_SCHEDULING", False),
    ("SCHEDULER_ENABLE_DEBUG_LOGGING", False),
    ("SCHEDULER_LOG_JOB_DETAILS", True),
    ("RECOVERY_CHALLENGE_SERVICE_MOCK_MODE", False),
    ("RECOVERY_ENABLED", True),
    ("RECOVERY_PROCESS_OVERDUE_PHASES", True),
    ("RECOVERY_SKIP_INVALID_PHASES", True),
]


def value_of(name):
    """Return a variable as its settings group reads it."""
    for kind, prefix in (
        (SchedulerSettings, "SCHEDULER_"),
        (RecoverySettings, "RECOVERY_"),
    ):
        if name.startswith(prefix):
            return getattr(read(kind), name.removeprefix(prefix).lower())
    return getattr(read(SiteSettings), name.lower())


def complaint_about(name):
    with pytest.raises(ImproperlyConfigured) as refusal:
        value_of(name)
    return str(refusal.value)


class TestNumbers:
    @pytest.mark.parametrize(("name", "default", "least"), NUMBERS)
    def test_have_the_contract_s_default(self, monkeypatch, name, default, least):
        monkeypatch.delenv(name, raising=False)

        assert value_of(name) == default

    @pytest.mark.parametrize(("name", "default", "least"), NUMBERS)
    def test_may_be_as_low_as_the_least_value(self, monkeypatch, name, default, least):
        monkeypatch.setenv(name, str(least))

        assert value_of(name) == least

    @pytest.mark.parametrize(("name", "default", "least"), NUMBERS)
    def test_below_it_are_named_with_what_is_allowed(
        self, monkeypatch, name, default, least
    ):
        monkeypatch.setenv(name, str(least - 1))

        complaint = complaint_about(name)

        assert complaint.startswith(f"{name}='{least - 1}': ")
        assert f"greater than or equal to {least}" in complaint

    @pytest.mark.parametrize("value", ["", "x", "1.5", "1e3", "NaN", "9" * 30])
    @pytest.mark.parametrize(("name", "default", "least"), NUMBERS)
    def test_that_are_none_are_named(self, monkeypatch, name, default, least, value):
        monkeypatch.setenv(name, value)

        assert complaint_about(name).startswith(f"{name}='{value}': ")


class TestSyncInterval:
    @pytest.mark.parametrize("value", ["1", "999"])
    def test_is_off_or_at_least_a_second(self, monkeypatch, value):
        monkeypatch.setenv("RECOVERY_SYNC_INTERVAL", value)

        complaint = complaint_about("RECOVERY_SYNC_INTERVAL")

        assert complaint.startswith(f"RECOVERY_SYNC_INTERVAL='{value}': ")
        assert "allowed: 0, 1000 to" in complaint

    def test_may_be_a_second(self, monkeypatch):
        monkeypatch.setenv("RECOVERY_SYNC_INTERVAL", "1000")

        assert value_of("RECOVERY_SYNC_INTERVAL") == 1_000


class TestFlags:
    @pytest.mark.parametrize(("name", "default"), FLAGS)
    def test_have_the_contract_s_default(self, monkeypatch, name, default):
        monkeypatch.delenv(name, raising=False)

        assert value_of(name) is default

    @pytest.mark.parametrize("value", ["", "maybe", "2"])
    @pytest.mark.parametrize(("name", "default"), FLAGS)
    def test_that_are_none_are_named(self, monkeypatch, name, default, value):
        monkeypatch.setenv(name, value)

        assert complaint_about(name).startswith(f"{name}='{value}': ")


class TestSite:
    def test_names_all_bad_variables_at_once(self, monkeypatch):
        monkeypatch.setenv("LOG_LEVEL", "LOUD")
        monkeypatch.setenv("CLUSTER_WORKERS", "0")

        names = [line.split("=")[0] for line in complaint_about("LOG_LEVEL").splitlines()]

        assert sorted(names) == ["CLUSTER_WORKERS", "LOG_LEVEL"]

    def test_says_which_values_are_allowed(self, monkeypatch):
        monkeypatch.setenv("LOG_FORMAT", "xml")

        assert "'console' or 'json'" in complaint_about("LOG_FORMAT")


class TestChallengeService:
    ADDRESSES = ["CHALLENGE_SERVICE_URL", "CHALLENGE_SERVICE_TOKEN_URL"]

    @pytest.fixture(autouse=True)
    def credentials(self, monkeypatch):
        for part in ("TOKEN_URL", "URL", "AUDIENCE"):
            monkeypatch.delenv(f"CHALLENGE_SERVICE_{part}", raising=False)
        monkeypatch.setenv("CHALLENGE_SERVICE_TOKEN_URL", "https://id.example.com/token")
        monkeypatch.setenv("CHALLENGE_SERVICE_CLIENT_ID", "autopilot")
        monkeypatch.setenv("CHALLENGE_SERVICE_CLIENT_SECRET", "hidden")

    def test_has_no_address_by_default(self, monkeypatch):
        for part in ("TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET"):
            monkeypatch.delenv(f"CHALLENGE_SERVICE_{part}")

        assert value_of("CHALLENGE_SERVICE_URL") == ""
        assert value_of("CHALLENGE_SERVICE_TOKEN_URL") == ""

    @pytest.mark.parametrize("name", ADDRESSES)
    @pytest.mark.parametrize(
        "value",
        [
            "https://api.example.com/v6",
            "http://10.0.0.7:8080",
            "http://[::1]:8080/v6/",
            "http://localhost/v6",
        ],
    )
    def test_may_be_anywhere_that_http_reaches(self, monkeypatch, name, value):
        monkeypatch.setenv(name, value)

        assert value_of(name) == value

    @pytest.mark.parametrize("name", ADDRESSES)
    @pytest.mark.parametrize(
        "value",
        [
            "api.example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "http://",
            "http:///v6",
            "http://host:port/",
            "http://host:99999/",
            "http://[::1/",
            "https://example.com/v6?x=1",
            "https://example.com/v6#x",
            "https://exämple.com/",
            "https://example.com/a b",
        ],
    )
    def test_names_an_address_that_is_none(self, monkeypatch, name, value):
        monkeypatch.setenv(name, value)

        complaint = complaint_about(name)

        assert complaint.startswith(f"{name}={value!r}: ")
        assert complaint.endswith("allowed: http://HOST/PATH or https://HOST/PATH")

    @pytest.mark.parametrize("name", ADDRESSES)
    def test_keeps_a_password_in_an_address_to_itself(self, monkeypatch, name):
        monkeypatch.setenv(name, "https://user:hidden@example.com/")

        complaint = complaint_about(name)

        assert complaint.startswith(f"{name}=…: ")
        assert "hidden" not in complaint

    @pytest.mark.parametrize("missing", ["TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET"])
    def test_needs_token_address_and_credentials_together(self, monkeypatch, missing):
        monkeypatch.delenv(f"CHALLENGE_SERVICE_{missing}")

        complaint = complaint_about("CHALLENGE_SERVICE_TOKEN_URL")

        assert "go together" in complaint
        assert "hidden" not in complaint

    def test_takes_its_secret_from_a_file(self, tmp_path):
        file = tmp_path / "secret"
        file.write_text("hidden\n")
        environ = {"CHALLENGE_SERVICE_CLIENT_SECRET_FILE": str(file)}

        load_secret_files(environ)

        assert environ["CHALLENGE_SERVICE_CLIENT_SECRET"] == file.read_text().strip()


class TestLoadSecretFiles:
    def test_reads_a_secret_from_its_file(self, tmp_path):
        file = tmp_path / "key"
        file.write_text("hidden\n")
        environ = {"SECRET_KEY_FILE": str(file)}

        load_secret_files(environ)

        assert environ["SECRET_KEY"] == file.read_text().strip()

    def test_refuses_both_forms_at_once(self, tmp_path):
        environ = {"SECRET_KEY_FILE": str(tmp_path / "key"), "SECRET_KEY": "hidden"}

        with pytest.raises(ImproperlyConfigured, match="SECRET_KEY or SECRET_KEY_FILE"):
            load_secret_files(environ)

    def test_names_a_file_that_can_t_be_read(self, tmp_path):
        environ = {"JWT_SIGNING_KEY_FILE": str(tmp_path / "none")}

        with pytest.raises(ImproperlyConfigured, match=r"JWT_SIGNING_KEY_FILE=.*none"):
            load_secret_files(environ)


class TestPrepareFirstStart:
    def test_turns_debug_on_for_up_without_a_database(self):
        environ = {}

        prepare_first_start(["manage.py", "up"], environ)

        assert environ == {"DEBUG": "1"}

    @pytest.mark.parametrize(
        ("arguments", "environ"),
        [
            (["manage.py", "up"], {"DATABASE_URL": "postgres://u@h/n"}),
            (["manage.py", "up"], {"DEBUG": "0"}),
            (["manage.py", "qcluster"], {}),
            (["manage.py"], {}),
        ],
    )
    def test_leaves_it_alone_otherwise(self, arguments, environ):
        before = dict(environ)

        prepare_first_start(arguments, environ)

        assert environ == before


class TestManage:
    def run(self, **environ):
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [sys.executable, MANAGE, "list_transitions"],
            env={**kept, **environ},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    @pytest.mark.parametrize(
        ("name", "value", "allowed"),
        [
            ("SCHEDULER_MAX_CONCURRENT_JOBS", "0", "greater than or equal to 1"),
            ("SCHEDULER_ALLOW_PAST_SCHEDULING", "perhaps", "boolean"),
            ("KAFKA_CONSUMER_GROUP", "", "at least 1 character"),
            ("KAFKA_CLIENT_ID", "", "at least 1 character"),
            ("KAFKA_BOOTSTRAP_SERVERS", "broker one:9092", "HOST or HOST:PORT"),
            ("KAFKA_SSL_KEY_LOCATION", "/no/such.key", "exists and may be read"),
        ],
    )
    def test_ends_with_1_and_names_the_bad_variable(self, name, value, allowed):
        result = self.run(DEBUG="1", **{name: value})

        assert result.returncode == 1
        assert result.stdout == ""
        assert f"{name}='{value}': " in result.stderr
        assert allowed in result.stderr
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize(
        ("brokers", "is_allowed"),
        [
            ("a:9092", True),
            ("kafka-1.example.org, 10.0.0.7:9093,[::1]:9092", True),
            ("SASL_SSL://a_b:9092", True),
            ("a:", False),
            ("a:0", False),
            ("a:65536", False),
            ("a:9092,", False),
            (" ", False),
            ("http://a/b", False),
            ("a\n:9092", False),
        ],
    )
    def test_takes_brokers_as_kafka_clients_do(self, monkeypatch, brokers, is_allowed):
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", brokers)

        with contextlib.nullcontext() if is_allowed else pytest.raises(ValidationError):
            assert SiteSettings().kafka_bootstrap_servers == brokers

    def test_asks_for_the_mechanism_of_a_protocol_that_logs_in(self):
        result = self.run(DEBUG="1", KAFKA_SECURITY_PROTOCOL="SASL_SSL")

        assert result.returncode == 1
        said = "KAFKA_SASL_MECHANISM='': Value error, must be set with"
        assert f"{said} KAFKA_SECURITY_PROTOCOL=SASL_SSL" in result.stderr

    def test_asks_for_a_secret_key_with_debug_off(self):
        result = self.run()

        assert result.returncode == 1
        assert "SECRET_KEY: is required" in result.stderr

    def test_keeps_a_bad_secret_to_itself(self):
        result = self.run(DEBUG="1", DATABASE_URL="mysql://root:hidden@localhost/x")

        assert result.returncode == 1
        assert "DATABASE_URL=" in result.stderr
        assert "hidden" not in result.stderr
