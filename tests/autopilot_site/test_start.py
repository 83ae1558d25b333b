"""What a process loads and checks when it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What only pages and requests need: a third of a start's time with them.
_OF_PAGES = (
    "autopilot_site.urls",
    "cryptography",
    "jwt",
    "rest_framework.views",
    "unfold.admin",
)
_LOOK = f"""
import sys

import django

django.setup()
from django.core import checks
from scheduling.conf import CHECKS_AT_START

checks.run_checks(tags=[CHECKS_AT_START])
for name in {_OF_PAGES}:
    if name in sys.modules:
        print(name)
"""


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"DEBUG": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestStart:
    def test_loads_no_pages_where_none_are_served(self):
        found = run("-c", _LOOK, DJANGO_SETTINGS_MODULE="autopilot_site.settings")

        assert found.returncode == 0, found.stderr
        assert found.stdout == ""

    @pytest.mark.parametrize("command", ["qcluster", "consume_events", "up"])
    def test_refuses_what_can_t_be_imported(self, command, tmp_path):
        found = run(
            "manage.py",
            command,
            DATABASE_URL=f"sqlite:///{tmp_path / 'none.sqlite3'}",
            AUTOPILOT_EVENT_PUBLISHER="nowhere.to.be.Found",
        )

        assert found.returncode == 1
        assert "scheduling.E003" in found.stderr
        assert "AUTOPILOT_EVENT_PUBLISHER" in found.stderr


class TestCheck:
    def test_looks_at_the_admin_s_pages_though_nobody_has_loaded_them(self, tmp_path):
        (tmp_path / "broken.py").write_text(
            "from autopilot_site.settings import *\n"
            "INSTALLED_APPS = ['brokenpages', *INSTALLED_APPS]\n"
        )
        pages = tmp_path / "brokenpages"
        pages.mkdir()
        (pages / "__init__.py").touch()
        (pages / "admin.py").write_text(
            "from django.contrib import admin\n"
            "from django.contrib.admin.models import LogEntry\n"
            "@admin.register(LogEntry)\n"
            "class Broken(admin.ModelAdmin):\n"
            "    list_display = ['no_such_column']\n"
        )

        found = run(
            *("manage.py", "check", "--tag", "admin"),
            DJANGO_SETTINGS_MODULE="broken",
            PYTHONPATH=str(tmp_path),
        )

        assert found.returncode == 1
        assert "admin.E108" in found.stderr
