"""Every promise of security has its tests, or says why it has none."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.security.rows import ROWS

ROOT = Path(__file__).resolve().parents[2]
LINTS = (ROOT / "Makefile").read_text(encoding="utf-8")
PROMISES = [row.promise for row in ROWS]


@cache
def defined_in(path):
    """Return the tests that a file defines, as pytest names them."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        "::".join([path, *names]) for names in _names(tree) if names[-1].startswith("test_")
    }


def _names(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from ([child.name, *below] for below in _names(child))
        elif isinstance(child, ast.FunctionDef):
            yield [child.name]


@pytest.mark.parametrize("row", ROWS, ids=PROMISES)
class TestRow:
    def test_has_a_test_or_a_reason(self, row):
        assert row.tests or row.not_here

    def test_names_tests_that_there_are(self, row):
        missing = [
            name for name in row.tests if name not in defined_in(name.partition("::")[0])
        ]

        assert missing == []

    def test_names_checks_that_are_made(self, row):
        assert [name for name in row.lint if name not in LINTS] == []


class TestRows:
    def test_promise_each_thing_once(self):
        assert len(set(PROMISES)) == len(PROMISES)
