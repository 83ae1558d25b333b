"""The table of faults is true of the tests."""

import ast
from functools import cache

from tests.faults.conftest import ROOT
from tests.faults.matrix import FAULTS


@cache
def names_in(path):
    """Return the names of a file's tests: class and method, or function."""
    if not (ROOT / path).is_file():
        return set()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
            found.update(f"{node.name}::{method.name}" for method in methods)
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


class TestMatrix:
    def test_numbers_the_faults_without_a_gap(self):
        assert [fault.number for fault in FAULTS] == list(range(1, 36))

    def test_names_only_tests_that_exist(self):
        named = [(fault.number, name) for fault in FAULTS for name in fault.tests]

        missing = [
            (number, name)
            for number, name in named
            if name.partition("::")[2] not in names_in(name.partition("::")[0])
        ]

        assert missing == []

    def test_gives_every_fault_a_test_or_a_reason(self):
        assert [one.number for one in FAULTS if not (one.tests or one.not_shown)] == []

    def test_says_of_every_fault_what_holds(self):
        assert all(one.what and one.holds for one in FAULTS)
