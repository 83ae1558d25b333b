"""The release before, as it stands in the history."""

import io
import itertools
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# How far back, and how many that don't start.
MOST_COMMITS = 300
MOST_TRIED = 6
PARTS = ("autopilot_site", "scheduling", "recovery", "templates", "manage.py")


def git(*arguments):
    """Return what git says; None where it can't say it."""
    ran = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, check=False, timeout=30
    )
    return ran.stdout if ran.returncode == 0 else None


def migrations_at(commit):
    """Return the migrations' files at a commit."""
    listed = git("ls-tree", "-r", "--name-only", commit, "--", "scheduling", "recovery")
    names = (listed or b"").decode().splitlines()
    return {name for name in names if "/migrations/0" in name}


def releases_before():
    """Yield the commits that have other migrations than there are here, newest first.

    What lies between two changes of the tables is one release as far as the tables are
    concerned: whoever upgrades from it runs just the migrations that are new here.
    """
    here = {
        str(path.relative_to(ROOT))
        for app in ("scheduling", "recovery")
        for path in (ROOT / app / "migrations").glob("0*.py")
    }
    log = git("log", "--first-parent", "--format=%H", f"-{MOST_COMMITS}") or b""
    for commit in log.decode().split():
        if migrations_at(commit) != here:
            yield commit


def starts(directory):
    """Tell whether a release starts at all; a commit within a merge may not."""
    ran = subprocess.run(
        [sys.executable, "-c", "import django; django.setup()"],
        cwd=directory,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "autopilot_site.settings"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return ran.returncode == 0


@pytest.fixture(scope="session")
def old_code(tmp_path_factory):
    """Return a directory that holds the code of the release before."""
    for commit in itertools.islice(releases_before(), MOST_TRIED):
        directory = tmp_path_factory.mktemp("release-before")
        archive = git("archive", commit, *PARTS)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(directory, filter="data")
        if starts(directory):
            print(f"the release before is {commit}")
            return directory
    pytest.skip("there is no history here with other migrations that starts")
    return None
