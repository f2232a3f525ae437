"""
The filters that handlers of an `Auth` return, as conditions that SQL can ask an index for.

A filter becomes alternatives; a row meets one if its metadata contains it. That is exact for
scalars, and for arrays that hold scalars. Whether an array or an object is *equal* to another,
containment cannot tell: such a filter is refused rather than taken for a wider one.
"""

from functools import reduce
from typing import Any

import orjson

from store.errors import Error, InvalidInputError
from store.json import dump_json
from store.models import JsonObject

#: Each is another look into the index.
MAX_ALTERNATIVES = 100
#: How deep ``$or`` and ``$and`` may be in one another, as on the LangGraph Server.
MAX_DEPTH = 2

Alternatives = list[JsonObject]


def visible(found: Any) -> tuple[JsonObject, ...]:
    """
    What metadata must contain, by a filter: one of these; none if it contradicts itself.

    Raises:
        Error: With the code ``invalid_filter``: this is no filter, or none that can be kept exactly.
    """
    try:
        plain = orjson.loads(dump_json(found))
    except InvalidInputError as exc:
        raise _invalid("is not JSON") from exc
    return tuple(_of_group(plain, depth=0))


def narrowed(found: tuple[JsonObject, ...], added: JsonObject) -> tuple[JsonObject, ...]:
    """What metadata must contain, and this too."""
    return tuple(_both(list(found), [added]))


def _invalid(why: str) -> Error:
    return Error(f"The filter of an auth handler {why}", code="invalid_filter")


def _of_group(group: Any, *, depth: int) -> Alternatives:
    """All conditions of an object hold."""
    if not isinstance(group, dict):
        raise _invalid("is not an object")
    return reduce(_both, (_of(*one, depth=depth) for one in group.items()), [{}])


def _of(key: str, value: Any, *, depth: int) -> Alternatives:
    if key in ("$or", "$and"):
        return _of_operator(key, value, depth=depth)
    if key.startswith("$"):
        raise _invalid(f"has an unknown operator {key}")
    if not isinstance(value, dict):
        return [{key: _scalar(key, value)}]
    if not value or not value.keys() <= {"$eq", "$contains"}:
        raise _invalid(f"wants {key} to be something that is neither $eq nor $contains")
    wanted = [
        {key: _scalar(key, operand) if operator == "$eq" else _members(key, operand)}
        for operator, operand in value.items()
    ]
    return reduce(_both, ([one] for one in wanted))


def _of_operator(operator: str, groups: Any, *, depth: int) -> Alternatives:
    if depth >= MAX_DEPTH:
        raise _invalid(f"is nested deeper than {MAX_DEPTH} operators")
    if not isinstance(groups, list) or len(groups) < 2:
        raise _invalid(f"has an {operator} that is not a list of two or more")
    branches = [_of_group(group, depth=depth + 1) for group in groups]
    if operator == "$and":
        return reduce(_both, branches)
    return _bounded([one for branch in branches for one in branch])


def _scalar(key: str, value: Any) -> Any:
    if isinstance(value, dict | list):
        raise _invalid(f"wants {key} to equal an array or an object; it can only be a scalar")
    return value


def _members(key: str, value: Any) -> list[Any]:
    return [_scalar(key, one) for one in (value if isinstance(value, list) else [value])]


def _both(left: Alternatives, right: Alternatives) -> Alternatives:
    merged = (_merged(one, other) for one in left for other in _bounded(right))
    return _bounded([found for found in merged if found is not None])


def _merged(one: JsonObject, other: JsonObject) -> JsonObject | None:
    """What contains both contains this; None if nothing can."""
    merged = {**one}
    for key, value in other.items():
        if key not in one or _same(one[key], value):
            merged[key] = value
        elif isinstance(one[key], list) and isinstance(value, list):
            merged[key] = one[key] + value
        else:
            return None
    return merged


def _same(one: Any, other: Any) -> bool:
    # To Python, true is 1.
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _bounded(alternatives: Alternatives) -> Alternatives:
    if len(alternatives) > MAX_ALTERNATIVES:
        raise _invalid(f"has more than {MAX_ALTERNATIVES} alternatives")
    return alternatives
