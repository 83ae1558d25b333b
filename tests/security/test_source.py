"""What must not stand in the repository: code that runs what it reads, and secrets."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = ("autopilot_site", "scheduling", "recovery", "manage.py")
# Code that runs what it reads, weak hashes, unproven servers, shells, instants without
# a zone: rules that nobody may waive, wherever it is and whatever its reason.
FORBIDDEN = (
    "S102,S301,S302,S307,S312,S318,S324,S501,S502,S506,S602,S604,S605,"
    "DTZ001,DTZ002,DTZ003,DTZ004,DTZ006,DTZ007,DTZ011,DTZ012"
)
# Each begins with a text that is rare: four megabytes are searched for all of them.
SECRETS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "AWS key": r"AKIA[0-9A-Z]{16}\b",
    "GitHub token": r"gh[pousr]_[A-Za-z0-9]{36}\b",
    "GitLab token": r"glpat-[A-Za-z0-9_-]{20}\b",
    "Slack token": r"xox[abprs]-[A-Za-z0-9-]{10,}",
    "Google key": r"AIza[0-9A-Za-z_-]{35}\b",
    "signed token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}",
    "long value of a secret": (
        r"(?:SECRET|PASSWORD|KEY|TOKEN|secret|password|api_key|token)\w*"
        r"""["']?\s?[:=]\s?["'](?:[0-9a-f]{32,}|"""
        r"""(?=[^"']*\d)(?=[^"']*[A-Z])(?=[^"']*[a-z])[\w+/=-]{32,})["']"""
    ),
    "password in an address": r"://[^\s/:@'\"{}]+:[^\s/@'\"{}$]{3,}@[\w.-]+",
}
# Placeholders, and hosts that are nobody's (RFC 2606) or cannot be reached.
NOBODYS = re.compile(r"//USER:PASSWORD@HOST$|@([\w-]+\.)*example\b|@localhost$|@x$")


def ruff(*arguments, text=None):
    """Return what ruff finds by the rules that nobody may waive."""
    options = ("--isolated", "--ignore-noqa", "--select", FORBIDDEN)
    ran = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *options, *arguments],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in {0, 1}, ran.stderr
    return "" if ran.returncode == 0 else ran.stdout


class TestCode:
    def test_has_nothing_that_nobody_may_waive(self):
        assert ruff(*PRODUCTION) == ""

    def test_would_be_caught_with_it(self):
        lines = {
            "S301": "import pickle; pickle.loads(x)",
            "S307": "eval(x)",
            "S506": "import yaml; yaml.load(x)",
            "S602": "import subprocess; subprocess.run(x, shell=True)",
            "DTZ001": "import datetime; datetime.datetime(2026, 1, 1)",
        }

        told = ruff("-", text="\n".join(lines.values()))

        assert [rule for rule in lines if rule not in told] == []


def tracked_texts():
    """Return the tracked files that are texts; lock files and vendored ones aside."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("the files of the repository are known where git is")
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or path.suffix in {".lock", ".svg", ".woff2"} or not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


class TestTrackedFiles:
    def test_hold_no_secret(self):
        patterns = {kind: re.compile(pattern) for kind, pattern in SECRETS.items()}

        hits = [
            f"{name}: {kind}: {hit[0][:60]}"
            for name, text in tracked_texts()
            for kind, pattern in patterns.items()
            for hit in pattern.finditer(text)
            if not NOBODYS.search(hit[0])
        ]

        assert hits == []

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
            ("AWS key", "AKIA" + "IOSFODNN7ABCDEFG"),
            ("GitHub token", "ghp_" + "a1" * 18),
            (
                "signed token",
                "eyJhbGciOiJIUz" + ".eyJzdWIiOiIxMjM." + "c2lnbmF0dXJlLW9m" * 2,
            ),
            ("long value of a secret", 'API_TOKEN = "' + "a1B2" * 10 + '"'),
            ("long value of a secret", '"password": "' + "a1b2" * 10 + '"'),
            ("password in an address", "postgres://joe:" + "hunter22@db.internal/x"),
        ],
    )
    def test_would_be_caught_with_one(self, kind, text):
        assert re.search(SECRETS[kind], text)

    def test_are_no_databases_or_keys(self):
        kept = {".sqlite3", ".pem", ".key", ".env", ".p12", ".pfx"}

        assert [name for name, _ in tracked_texts() if Path(name).suffix in kept] == []


class TestLockedPackages:
    def test_are_each_known_by_a_hash(self):
        lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
        packages = [one for one in lock["package"] if "registry" in one["source"]]

        def is_known(package):
            files = [*package.get("wheels", []), package.get("sdist")]
            return all(file["hash"].startswith("sha256:") for file in files if file)

        unknown = [one["name"] for one in packages if not is_known(one)]

        assert len(packages) > 50
        assert unknown == []
