"""What the reference said, a file for each area, a line for each exchange."""

import json
from collections.abc import Iterable
from pathlib import Path

from tests.differential.talk import Case, Exchange

DIRECTORY = Path(__file__).with_name("recorded")


def read() -> dict[str, list[Exchange]]:
    """The reference's answers by case."""
    found: dict[str, list[Exchange]] = {}
    for path in sorted(DIRECTORY.glob("*.json")):
        found |= json.loads(path.read_text())
    return found


def write(answers: dict[str, list[Exchange]], cases: Iterable[Case]) -> None:
    """Keep the answers of these cases, and of no others."""
    areas: dict[str, list[str]] = {}
    for case in cases:
        if case.name in answers:
            lines = ",\n".join(_line(exchange) for exchange in answers[case.name])
            areas.setdefault(case.area, []).append(f"{json.dumps(case.name)}: [\n{lines}\n]")
    for path in DIRECTORY.glob("*.json"):
        path.unlink()
    for area, texts in areas.items():
        (DIRECTORY / f"{area}.json").write_text("{\n" + ",\n".join(texts) + "\n}\n")


def _line(exchange: Exchange) -> str:
    return json.dumps(exchange, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
