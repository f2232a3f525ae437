"""docs/design-coverage.md names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/design-coverage.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+(?:::\w+)?)`", PAGE)))


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_is_named_is_there(named: str) -> None:
    path, _, name = named.partition("::")
    assert (ROOT / path).exists()
    assert not name or f"def {name}(" in (ROOT / path).read_text()


def test_every_section_of_the_design_has_its_place() -> None:
    numbers = {int(n) for n in re.findall(r"^## (\d+)\.", PAGE, re.MULTILINE)}
    assert numbers == set(range(2, 11))
