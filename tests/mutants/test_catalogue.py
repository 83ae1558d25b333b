"""The catalogue of bugs fits the code; `make mutants` tells whether the tests find them."""

import ast
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


class TestMutants:
    @pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
    def test_have_their_text_once_and_are_python(self, mutant):
        text = (ROOT / mutant.file).read_text(encoding="utf-8")

        assert text.count(mutant.before) == 1
        changed = text.replace(mutant.before, mutant.after)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))

    def test_are_looked_for_by_tests_that_are_there(self):
        files = {name.partition("::")[0] for one in MUTANTS for name in one.tests}

        assert [name for name in sorted(files) if not (ROOT / name).is_file()] == []

    def test_have_names_of_their_own(self):
        assert len({one.name for one in MUTANTS}) == len(MUTANTS)
