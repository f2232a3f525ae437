"""What a filter of an `Auth` means to SQL: exactly what it says, or nothing."""

from typing import Any
from uuid import UUID

import pytest

from api.identity.filters import MAX_ALTERNATIVES, visible
from store.errors import Error

MEANINGS: list[tuple[Any, list[dict[str, Any]]]] = [
    ({}, [{}]),
    ({"a": "x"}, [{"a": "x"}]),
    ({"a": "x", "b": 1}, [{"a": "x", "b": 1}]),
    ({"a": {"$eq": None}}, [{"a": None}]),
    ({"a": {"$contains": "x"}}, [{"a": ["x"]}]),
    ({"a": {"$contains": ["x", "y"]}}, [{"a": ["x", "y"]}]),
    ({"a": UUID(int=1)}, [{"a": "00000000-0000-0000-0000-000000000001"}]),
    ({"$or": [{"a": 1}, {"b": 2}]}, [{"a": 1}, {"b": 2}]),
    ({"$and": [{"a": 1}, {"b": 2}]}, [{"a": 1, "b": 2}]),
    ({"c": 3, "$or": [{"a": 1}, {"b": 2}]}, [{"c": 3, "a": 1}, {"c": 3, "b": 2}]),
    (
        {"$or": [{"$and": [{"a": 1}, {"b": 2}]}, {"c": 3}]},
        [{"a": 1, "b": 2}, {"c": 3}],
    ),
    (
        {"$and": [{"$or": [{"a": 1}, {"b": 2}]}, {"$or": [{"c": 3}, {"a": 4}]}]},
        [{"a": 1, "c": 3}, {"b": 2, "c": 3}, {"b": 2, "a": 4}],
    ),
    (
        {"$and": [{"a": {"$contains": "x"}}, {"a": {"$contains": "y"}}]},
        [{"a": ["x", "y"]}],
    ),
    # contradictions
    ({"$and": [{"a": 1}, {"a": 2}]}, []),
    ({"$and": [{"a": 1}, {"a": True}]}, []),
    ({"a": {"$eq": "x", "$contains": "x"}}, []),
]
REFUSED: list[Any] = [
    "text", 5, [], [{"a": 1}], {"a": [1]}, {"a": {"b": 1}}, {"a": {}}, {"a": {"$eq": [1]}},
    {"a": {"$eq": {"b": 1}}}, {"a": {"$contains": {"b": 1}}}, {"a": {"$contains": [[1]]}},
    {"a": {"$ne": 1}}, {"$not": {"a": 1}}, {"$or": [{"a": 1}]}, {"$or": {}}, {"$and": []},
    {"$or": [{"a": 1}, 5]}, pytest.param({"a": object()}, id="an object"),
    {"$or": [{"$and": [{"a": 1}, {"$or": [{"b": 1}, {"c": 1}]}]}, {"d": 1}]},
    {"$or": [{"a": n} for n in range(MAX_ALTERNATIVES + 1)]},
    {"$and": [{"$or": [{f"{k}": n} for n in range(11)]} for k in "abc"]},
]  # fmt: skip


@pytest.mark.parametrize(("told", "meant"), MEANINGS, ids=str)
def test_a_filter_means_what_metadata_must_contain(told: Any, meant: list[dict[str, Any]]) -> None:
    assert list(visible(told)) == meant


@pytest.mark.parametrize("told", REFUSED, ids=lambda told: str(told)[:60])
def test_what_cannot_be_kept_exactly_is_refused(told: Any) -> None:
    with pytest.raises(Error) as refused:
        visible(told)
    assert refused.value.code == "invalid_filter"


def test_as_many_alternatives_as_are_allowed_are_no_fault() -> None:
    assert len(visible({"$or": [{"a": n} for n in range(MAX_ALTERNATIVES)]})) == MAX_ALTERNATIVES
