"""docs/security.md names a test for each attack, and there it is."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
ROW = re.compile(r"^\| (?!attack|---)(.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_each_attack_has_a_test_that_is_there() -> None:
    rows = ROW.findall(PAGE.read_text())
    missing = [attack for attack, _, tests in rows if not TEST.search(tests)]
    for _, _, tests in rows:
        missing += [f"{path}::{name}" for path, name in TEST.findall(tests) if not _is(path, name)]

    assert len(rows) > 15
    assert missing == []


def _is(path: str, name: str) -> bool:
    file = ROOT / path
    if not file.exists():
        return False
    named = [getattr(node, "name", "") for node in ast.walk(ast.parse(file.read_text()))]
    return not name or name in named
