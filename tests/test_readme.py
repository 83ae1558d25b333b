"""The README keeps to the code."""

import re

import pytest

from autopilot_site.env_table import BEGIN, README, environment_table, with_table
from scheduling.consumers.router import ROUTES


class TestReadme:
    def test_has_the_environment_as_the_settings_have_it(self):
        text = README.read_text(encoding="utf-8")

        assert with_table(text) == text, "run `make readme`"

    def test_names_the_two_commands_on_its_first_screen(self):
        first_screen = README.read_text(encoding="utf-8").splitlines()[:24]

        assert {"make run", "make test"} <= {line[:9].strip() for line in first_screen}

    def test_names_every_consumed_topic(self):
        text = README.read_text(encoding="utf-8")

        assert [name for name in ROUTES if f"`{name}`" not in text] == []

    def test_names_only_files_that_exist(self):
        text = README.read_text(encoding="utf-8")
        paths = re.findall(r"`((?:scheduling|recovery|autopilot_site)/[\w/.]+)`", text)

        assert [path for path in paths if not (README.parent / path).exists()] == []
        assert paths


class TestEnvironmentTable:
    def test_tells_name_default_range_and_meaning(self):
        rows = environment_table().splitlines()

        assert (
            "| `SCHEDULER_MAX_RETRIES` | `3` | 0 to 100 | Attempts after the first; only "
            "a refused record or a job timeout uses one up. |"
        ) in rows

    def test_names_the_file_form_of_a_secret(self):
        assert "| `SECRET_KEY`, `SECRET_KEY_FILE` | empty | text |" in environment_table()


class TestWithTable:
    def test_refuses_a_document_without_marks(self):
        with pytest.raises(ValueError, match="lacks"):
            with_table(f"text {BEGIN} more text")
