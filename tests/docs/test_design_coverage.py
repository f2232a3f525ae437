"""docs/design-coverage.md has a row for each section of the design, and names tests that are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/design-coverage.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and "---" not in line]
HEADS = [
    line
    for line, rule in zip(PAGE.splitlines(), PAGE.splitlines()[1:], strict=False)
    if rule.startswith("|---")
]
#: Of the design, those that ask for something; 10.1 sums up.
SECTIONS = (
    "3.1", "3.2", "4.1", "4.2", "5.1", "5.2", "6.1", "6.2", "7.1", "7.2", "8.1", "8.2", "9.1", "9.2",
    "9.3", "10.2", "10.3",
)  # fmt: skip


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_is_named_is_there(named: str) -> None:
    path, _, name = named.partition("::")
    defined = ast.walk(ast.parse((ROOT / path).read_text()))
    functions = {
        one.name for one in defined if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not name or name in functions


@pytest.mark.parametrize("row", [row for row in ROWS if row not in HEADS])
def test_each_row_names_a_test(row: str) -> None:
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`[^|]*\|$", row)


def test_every_section_of_the_design_has_its_row() -> None:
    numbers = {int(n) for n in re.findall(r"^## (\d+)\.", PAGE, re.MULTILINE)}
    assert numbers == set(range(2, 11))
    found = {number for row in ROWS for number in re.findall(r"^\| (\d+\.\d) ", row)}
    assert found == set(SECTIONS)
