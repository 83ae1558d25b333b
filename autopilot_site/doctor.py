"""What is missing or misconfigured on this host, in words, with the line that fixes it.

Each examination is bounded and changes nothing. What depends on something that is missing
says no more than that.
"""

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from autopilot_site.alerts.targets import configured
from autopilot_site.env import LEAST_KEY_BYTES, SECRETS
from autopilot_site.health import CheckStatus, Health
from autopilot_site.health.causes import Cause, find_cause, tell_cause
from scheduling.adapters.broker_probe import BrokerAnswer, process_probe
from scheduling.adapters.job_texts import is_indexed
from scheduling.conf import used_topics
from scheduling.models.job_text import INDEX_STATEMENT

LEAST_PYTHON: Final = (3, 11)
LEAST_POSTGRESQL: Final = 14
_NEW_KEY: Final = "\"$(python3 -c 'import secrets; print(secrets.token_urlsafe(50))')\""
_KEY_FILES: Final = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")


class Verdict(StrEnum):
    """What an examination comes to; only a PROBLEM keeps the product from its work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One examination: what was found and, where it is not well, the line that fixes it."""

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""

    def show(self) -> dict[str, str]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "status": self.verdict.value,
            "detail": self.detail,
            "fix": self.fix,
        }


def _ok(name: str, detail: str) -> Finding:
    return Finding(name=name, verdict=Verdict.OK, detail=detail)


def _warning(name: str, detail: str, fix: str) -> Finding:
    return Finding(name=name, verdict=Verdict.WARNING, detail=detail, fix=fix)


def _problem(name: str, detail: str, fix: str) -> Finding:
    return Finding(name=name, verdict=Verdict.PROBLEM, detail=detail, fix=fix)


def examine(health: Health) -> list[Finding]:
    """Return all findings, the first things first.

    Args:
        health: The product's present health, for its processes, clocks and disk.
    """
    broker = process_probe().ask()
    return [
        _python(),
        *_secrets(),
        *_files(),
        *_database(),
        *_kafka(broker),
        *_healthy(health),
        *_alerts(),
        *_site(),
        *_browser(),
    ]


def _python() -> Finding:
    """Examine the interpreter."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] >= LEAST_PYTHON:
        return _ok("python", version)
    return _problem("python", f"{version} is too old", "uv python install 3.11")


def _secrets() -> Iterator[Finding]:
    """Examine the keys; that they are there at all, the start has seen to."""
    if settings.DEBUG:
        yield _warning(
            "debug",
            "DEBUG is on: keys that everybody knows are accepted, and errors are shown",
            "unset DEBUG",
        )
    for name, value in (
        ("SECRET_KEY", settings.SECRET_KEY),
        ("JWT_SIGNING_KEY", settings.JWT_SIGNING_KEY),
    ):
        if "development-only" in value:
            yield _warning(name, "is the one for development", f"export {name}={_NEW_KEY}")
        elif len(value.encode()) < LEAST_KEY_BYTES or len(set(value)) < 10:  # noqa: PLR2004
            yield _problem(name, "is easily guessed", f"export {name}={_NEW_KEY}")
        else:
            yield _ok(name, "is there and long enough")


def _files() -> Iterator[Finding]:
    """Examine who may read and write what the settings name."""
    for name in SECRETS:
        path = os.environ.get(f"{name}_FILE")
        if path and Path(path).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield _warning(f"{name}_FILE", "others may read it", f"chmod 600 {path}")
    for name in _KEY_FILES:
        file_name = settings.KAFKA_CLIENT.get(name)
        if file_name and not os.access(str(file_name), os.R_OK):
            variable = "KAFKA_" + name.upper().replace(".", "_")
            yield _problem(variable, "its file can't be read", f"ls -l {file_name}")
    if connection.vendor == "sqlite":
        file = Path(str(connection.settings_dict["NAME"]))
        # The directory too: SQLite writes its journal beside the file.
        places = [file.parent, *([file] if file.exists() else [])]
        closed = [str(one) for one in places if not os.access(one, os.W_OK)]
        if closed:
            yield _problem(
                "database file",
                f"this user may not write {' and '.join(closed)}",
                f"sudo chown $USER {' '.join(closed)}",
            )


def _database() -> Iterator[Finding]:
    """Examine whether the database answers and has all tables."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        missing = _missing_migrations()
    except DatabaseError as error:
        # For whoever owns the shell, who may read the address anyway.
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield _problem("database", f"it can't be reached: {said}", "export DATABASE_URL=…")
        return
    yield _database_kind()
    if missing:
        yield _problem(
            "migrations",
            f"{len(missing)} are missing, the first is {missing[0]}",
            "manage.py migrate",
        )
    else:
        yield _ok("migrations", "all are applied")
        if connection.vendor == "postgresql" and not is_indexed():
            yield _warning(
                "search",
                "no index helps to find jobs by a part of an id: PostgreSQL's extension "
                "pg_trgm could not be used",
                f"psql -c 'CREATE EXTENSION pg_trgm' -c '{INDEX_STATEMENT}'",
            )


def _missing_migrations() -> list[str]:
    """Return the migrations that the database lacks, in their order."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def _database_kind() -> Finding:
    """Tell which database it is, and whether it is one to rely on."""
    if connection.vendor == "postgresql":
        connection.ensure_connection()
        number: int = connection.connection.info.server_version
        version = number // 10_000
        if version < LEAST_POSTGRESQL:
            return _problem(
                "database",
                f"PostgreSQL {version} is too old",
                f"upgrade it to {LEAST_POSTGRESQL} or newer",
            )
        return _ok("database", f"PostgreSQL {version}")
    if settings.DEBUG:
        return _ok("database", "SQLite, for a first start on one host")
    return _warning(
        "database",
        "SQLite has no clock of its own and serves one host",
        "export DATABASE_URL=postgres://USER:PASSWORD@HOST:5432/NAME",
    )


_KAFKA_FIXES: Final[Mapping[Cause | None, str]] = {
    Cause.UNTRUSTED: "export KAFKA_SSL_CA_LOCATION=…    # who signed the brokers' keys",
    Cause.REFUSED_USER: "export KAFKA_SASL_USERNAME=… KAFKA_SASL_PASSWORD=…",
    Cause.OTHER_PROTOCOL: "export KAFKA_SECURITY_PROTOCOL=…    # as the brokers' listener",
}


def _kafka_fix() -> str:
    """Return the line for a broker that is not there."""
    if settings.KAFKA_IS_EMBEDDED:
        return (
            "manage.py up    # or `manage.py embedded_kafka --port 19092` beside the others"
        )
    return "export KAFKA_BOOTSTRAP_SERVERS=HOST:9092    # and KAFKA_SECURITY_PROTOCOL"


def _kafka(broker: BrokerAnswer) -> Iterator[Finding]:
    """Examine whether a broker answers and has all topics."""
    if broker.error:
        cause = find_cause(broker.error)
        yield _problem(
            "kafka",
            f"no broker answers{tell_cause(broker.error)}: {broker.error}",
            _KAFKA_FIXES.get(cause, _kafka_fix()),
        )
        return
    yield _ok("kafka", f"brokers that answer: {broker.brokers}")
    missing = [name for name in used_topics() if name not in broker.topics]
    if missing:
        yield _problem(
            "topics", f"missing: {', '.join(missing)}", "manage.py ensure_topics"
        )
    else:
        yield _ok("topics", "all are there")


# What of the health is this host's, or a process that somebody has to start.
_FIXES: Final = {
    "scheduler": "manage.py qcluster    # the processes: `manage.py up` starts them all",
    "recovery": "manage.py recover    # and see what it says",
    "circuitBreakers": "manage.py reset_breaker NAME --reason …    # once it is mended",
    "clock": "sudo timedatectl set-ntp true    # then restart the cluster",
    "disk": "df -h    # and make room",
}


def _healthy(health: Health) -> Iterator[Finding]:
    """Pass on what the health says of processes, clocks and disk."""
    for name, fix in _FIXES.items():
        check = health.checks.get(name)
        # Without a database there is one finding already that says so.
        if check is None or check.detail.startswith("unknown without"):
            continue
        if check.status is CheckStatus.UP:
            yield _ok(name, check.detail)
        else:
            yield _warning(name, check.detail, fix)
    kafka = health.checks.get("kafka")
    if kafka is not None and kafka.status is CheckStatus.DEGRADED:
        yield _warning("consumer", kafka.detail, "manage.py consume_events")


def _alerts() -> Iterator[Finding]:
    """Examine whether those who are to be told can be."""
    if not settings.ALERTS["urls"] and not settings.ALERTS["notifiers"]:
        yield _warning(
            "alerts", "nobody is told of trouble", "export AUTOPILOT_ALERT_URLS=…"
        )
        return
    try:
        targets = configured()
    except ImproperlyConfigured as error:
        yield _problem("alerts", str(error), "export AUTOPILOT_ALERT_URLS=…")
    else:
        yield _ok("alerts", f"targets: {len(targets)}")


# Django's words for what one setting of ours decides.
_SITE_FIXES: Final = {
    **dict.fromkeys(
        ("security.W004", "security.W008", "security.W012", "security.W016"),
        "export SECURE_SSL_REDIRECT=true",
    ),
    "security.W009": f"export SECRET_KEY={_NEW_KEY}",
}


def _site() -> Iterator[Finding]:
    """Pass on Django's and the product's own checks, those for deployment too."""
    found: Sequence[Any] = checks.run_checks(include_deployment_checks=not settings.DEBUG)
    for one in found:
        make: Callable[[str, str, str], Finding] = (
            _problem if one.level >= checks.ERROR else _warning
        )
        fix = _SITE_FIXES.get(str(one.id)) or one.hint or "manage.py check --deploy"
        yield make(str(one.id), str(one.msg), str(fix))
    if not found:
        yield _ok("checks", "Django's checks find nothing")


def _browser() -> Iterator[Finding]:
    """Examine what only the tests of the pages need, where there are tests."""
    if not (settings.BASE_DIR / "tests").is_dir():
        return
    cache = Path(
        os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright"
    )
    if any(cache.glob("chromium*")) or shutil.which("chromium"):
        yield _ok("browser", "Chromium is there, for the tests of the pages")
    else:
        yield _warning(
            "browser",
            "no Chromium: the tests of the pages are skipped; nothing else needs it",
            "playwright install chromium",
        )
