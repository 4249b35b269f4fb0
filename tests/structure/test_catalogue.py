"""The catalogue of faults and the tests agree: every row leads to a test that exists, or says why not."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "tests" / "catalogue.md"
REQUIRED = {
    f"{letter}{number:02}"
    for letter, last in (("A", 38), ("K", 29), ("P", 19), ("C", 18))
    for number in range(1, last + 1)
}

_ID = re.compile(r"[A-Z]\d{2}")
_TEST = re.compile(r"`(tests/[\w./]+\.py)::(\w+(?:::\w+)*)`")
_REASON = re.compile(r"(nightly|not applicable): \S+ \S+")


class Row(NamedTuple):
    """id, fault and expectation as they stand there; test: the last cell."""

    id: str
    fault: str
    expected: str
    test: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        """File and name of each test."""
        return _TEST.findall(self.test)


def rows(text: str) -> list[Row]:
    """Of all tables. Raises `ValueError` for a line of a table that has not four cells."""
    found = []
    for line in text.splitlines():
        if not line.startswith("|") or set(line) <= set("|- :"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != len(Row._fields):
            raise ValueError(f"not four cells: {line}")
        if cells[0] != "id":
            found.append(Row(*cells))
    return found


ROWS = rows(CATALOGUE.read_text())


def test_every_id_has_one_row() -> None:
    counts = Counter(row.id for row in ROWS)
    assert not [row for row in counts if not _ID.fullmatch(row)]
    assert not REQUIRED - counts.keys()
    assert not [row for row, count in counts.items() if count > 1]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_leads_to_tests_that_exist_or_says_why_not(row: Row) -> None:
    assert row.fault
    assert row.expected
    assert row.tests or _REASON.search(row.test), "neither a test nor a reason"
    assert row.test.count("tests/") == len(row.tests), "a test that is not written as `tests/path/test_x.py::test_name`"
    missing = [f"{path}::{name}" for path, name in row.tests if name not in names(path)]
    assert not missing


def test_a_test_that_is_not_there_is_noticed() -> None:
    own = "tests/structure/test_catalogue.py"
    assert "test_every_id_has_one_row" in names(own)
    assert "test_that_nobody_wrote" not in names(own)
    assert names("tests/nowhere/test_nothing.py") == frozenset()


@cache
def names(path: str) -> frozenset[str]:
    """The tests of a file, those of classes as `TestClass::test_name`."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))
