"""How two servers' answers differ, for people."""

import difflib
from collections.abc import Iterator
from typing import Any

from tests.differential.talk import Exchange

#: Lines of a difference that anybody would read.
SHOWN = 60


def diff(theirs: list[Exchange], ours: list[Exchange], *, context: int = 2) -> list[str]:
    """The lines of a diff from the reference to ours; none if they say the same."""
    if theirs == ours:
        return []
    left, right = list(_lines(theirs)), list(_lines(ours))
    found = difflib.unified_diff(left, right, "reference", "ours", n=context, lineterm="")
    lines = [line for line in found if not line.startswith(("@@", "---", "+++"))]
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"and {more} lines more"] if more > 0 else [])] or ["types differ"]


def _lines(exchanges: list[Exchange]) -> Iterator[str]:
    for exchange in exchanges:
        yield f"{exchange['ask']} -> {exchange.get('status', '')}"
        for name, value in sorted(exchange.get("headers", {}).items()):
            yield f"  {name}: {value}"
        rest = {k: v for k, v in exchange.items() if k not in ("ask", "status", "headers")}
        for key in rest:
            yield from _leaves(rest[key], key)


def _leaves(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for item in value:
            yield f"  {path}[]"
            yield from _leaves(item, f"{path}[]")
    else:
        yield f"  {path} = {value!r}"
