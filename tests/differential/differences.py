"""The differences that are meant: why, in which cases, and what exactly they look like."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.differential.compare import diff
from tests.differential.rules import RULES, without_rules
from tests.differential.talk import Exchange

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/compatibility.md"
_REASONS = HERE / "differences.toml"
_LINES = HERE / "differences.json"
_BEGIN, _END = "<!-- generated: differences -->\n", "<!-- end -->\n"

#: In place of the lines of a difference that are not the same each time.
VARIES = "varies"


@dataclass(frozen=True)
class Difference:
    """
    One thing that the reference and this server do differently, and the cases that show it.

    Attributes:
        varies: How exactly is not the same each time, as where chunks come as they come.
    """

    reference: str
    here: str
    why: str
    cases: tuple[str, ...]
    varies: bool = False


def meant() -> list[Difference]:
    """The differences of `differences.toml`."""
    tables = tomllib.loads(_REASONS.read_text()).get("difference", [])
    return [Difference(**{**table, "cases": tuple(table["cases"])}) for table in tables]


def lines() -> dict[str, list[str]]:
    """By case, the lines by which this server may differ, and must."""
    found: dict[str, list[str]] = json.loads(_LINES.read_text())
    return found


def write_lines(found: dict[str, list[str]]) -> None:
    """Keep how the cases of `differences.toml` differ."""
    named = {name: one.varies for one in meant() for name in one.cases}
    kept = {name: [VARIES] if named[name] else found[name] for name in sorted(named)}
    _LINES.write_text(json.dumps(kept, indent=0, ensure_ascii=False) + "\n")


def between(theirs: list[Exchange], ours: list[Exchange], *, context: int = 0) -> list[str]:
    """How the answers differ, without what differs everywhere."""
    return diff(without_rules(theirs), without_rules(ours), context=context)


def page() -> str:
    """docs/compatibility.md with its list brought up to date."""
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{''.join(_table())}{_END}{after}"


def _table() -> Iterator[str]:
    yield "\n| the reference | here | why | shown by |\n|---|---|---|---|\n"
    for rule in RULES:
        yield f"| {rule.reference} | {rule.here} | {rule.why} | every case |\n"
    for one in meant():
        cases = "; ".join(one.cases)
        yield f"| {one.reference} | {one.here} | {one.why} | {cases} |\n"
    yield "\n"
