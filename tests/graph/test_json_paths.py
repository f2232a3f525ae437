"""Looking into values as JSON shows them."""

import random
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from graph.json_paths import at, contains, shows, size
from store.database import Database

VALUES: dict[str, Any] = {
    "text": "hello",
    "log": ["a", {"b": [1, 2, 3]}],
    "grid": [[1, 2], [3, 4]],
    "odd key": 1,
    "0": "zero",
    "messages": [HumanMessage("hi", id="1"), AIMessage("ho", id="2")],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("text", "hello"),
        ("log[0]", "a"),
        ("log[-1].b[2]", 3),
        ("grid[1][0]", 3),
        ("odd key", 1),
        ("0", "zero"),
        ("messages[-1].content", "ho"),
        ("messages[0].type", "human"),
        ("log[2]", None),
        ("log[-3]", None),
        ("log.0", None),
        ("text[0]", None),
        ("text.length", None),
        ("nothing.at.all", None),
        ("log[]", None),
        ("log[a]", None),
        ("log[0", None),
        ("log[0]x", None),
        ("log[99999999999999999999]", None),
    ],
)
def test_a_path_leads_to_a_value_or_to_nothing(path: str, found: Any) -> None:
    assert at(VALUES, path) == found


def test_values_are_compared_as_their_json() -> None:
    assert shows(VALUES, {"messages": [{"content": "ho", "type": "ai"}], "text": "hello"})
    assert not shows(VALUES, {"messages": [{"content": "ho", "type": "human"}]})
    assert not shows(VALUES, {"nothing": None})
    assert not shows(None, {"text": "hello"})
    assert not shows(["hello"], {"text": "hello"})
    assert size({"a": [1, {"b": 2}]}) == 5


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(7 if depth else 5)
    if kind == 5:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(3))]
    if kind == 6:
        return {chance.choice("ab"): _value(chance, depth - 1) for _ in range(chance.randrange(3))}
    return [None, chance.random() < 0.5, chance.randrange(2), float(chance.randrange(2)), "a"][kind]


async def test_one_value_contains_another_as_postgresql_has_it(db: Database) -> None:
    chance = random.Random(7)
    pairs = [
        ({"k": _value(chance, 3)}, {"k": _value(chance, 3)} if chance.random() < 0.9 else {})
        for _ in range(3000)
    ]

    rows = await db.tuples(
        "SELECT p.value -> 'a' @> (p.value -> 'b')"
        " FROM jsonb_array_elements(%(pairs)s::jsonb -> 'pairs') WITH ORDINALITY AS p (value, place)"
        " ORDER BY p.place",
        {"pairs": {"pairs": [{"a": a, "b": b} for a, b in pairs]}},
    )

    assert [contains(a, b) for a, b in pairs] == [row[0] for row in rows]
    assert {row[0] for row in rows} == {True, False}
