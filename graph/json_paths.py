"""Looking into values as JSON shows them: what is at a path, and whether one contains another."""

import re
from collections.abc import Mapping
from typing import Any, Final

from graph.encode import plain
from store.models import JsonObject

_SEGMENT: Final = re.compile(r"([^\[\]]*)((?:\[-?[0-9]{1,9}\])*)")
_INDEX: Final = re.compile(r"-?[0-9]+")


def at(value: Any, path: str) -> Any:
    """
    What is at a path like ``a.b[0].c``; None if nothing is.

    An index may count from the end. Only what the path leads through is turned into JSON, so that
    the last message of ten thousand costs one.
    """
    for part in path.split("."):
        segment = _SEGMENT.fullmatch(part)
        if segment is None:
            return None
        if segment[1]:
            value = _as_json(value)
            value = value.get(segment[1]) if isinstance(value, Mapping) else None
        for index in _INDEX.findall(segment[2]):
            value = _item(_as_json(value), int(index))
    return value


def contains(value: Any, wanted: Any) -> bool:
    """Whether one JSON value contains another, as PostgreSQL's ``@>`` has it of an object."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(
            name in value and contains(value[name], item) for name, item in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(value, list) and all(
            any(contains(found, item) for found in value) for item in wanted
        )
    return isinstance(value, bool) is isinstance(wanted, bool) and bool(value == wanted)


def shows(values: Any, wanted: JsonObject) -> bool:
    """Whether the values of a thread contain what a search asks for."""
    if not isinstance(values, Mapping) or not wanted.keys() <= values.keys():
        return False
    return all(contains(plain(values[name]), item) for name, item in wanted.items())


def size(value: Any) -> int:
    """How many values a JSON value is made of, itself included."""
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict | list):
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return count


def _item(value: Any, index: int) -> Any:
    if not isinstance(value, list | tuple) or not -len(value) <= index < len(value):
        return None
    return value[index]


def _as_json(value: Any) -> Any:
    is_json = value is None or isinstance(value, dict | list | str | int | float)
    return value if is_json else plain(value)
