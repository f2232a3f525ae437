"""
JSON as the LangGraph server writes it: whatever a node returned, something readable arrives.

A failure to encode would lose a whole event for one odd value, so nothing here raises.
"""

import re
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PurePath
from typing import Any

import orjson
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.errors import (
    EmptyInputError,
    GraphBubbleUp,
    InvalidUpdateError,
    UnknownInterruptError,
)
from langgraph.types import Send
from pydantic import BaseModel

from store.errors import Error
from store.json import without_nul

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_MAX_DEPTH = 100
_INT_BOUNDS = (-(2**63), 2**64 - 1)

# Errors raised to be read; the text of any other may hold what a client must not see.
_SHOWN = (
    Error,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    TimeoutError,
    InvalidUpdateError,
    EmptyInputError,
    GraphBubbleUp,
    UnknownInterruptError,
)
_SHOWN_NAMES = frozenset({"HTTPException"})

# Their fields are all they are, in the order of `model_dump()`, which costs six times as much.
PLAIN_MESSAGES = frozenset({AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage})


def dumps(value: Any) -> bytes:
    """
    Encode any value as JSON.

    Never raises. What JSON or PostgreSQL cannot hold is replaced: NUL by U+FFFD, lone
    surrogates by ``?``; unknown types, NaN, cycles and nesting beyond 100 by null.
    """
    try:
        encoded = orjson.dumps(value, _default, _OPTIONS)
    except TypeError:
        encoded = orjson.dumps(_cleaned(value, ()), None, _OPTIONS)
    return without_nul(encoded)


def plain(value: Any) -> Any:
    """The value as whoever reads its JSON sees it; for what PostgreSQL is to keep as JSON."""
    return orjson.loads(dumps(value))


def error_payload(error: BaseException) -> dict[str, str]:
    """
    How a failed run tells its error: the type, and the message if it was meant to be read.

    Of a group of errors it is the first.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return _error(error)


def error_event(error: BaseException) -> bytes:
    """The data of the `error` event that ends the stream of a failed run."""
    return dumps(error_payload(error))


def _error(error: BaseException) -> dict[str, str]:
    name = type(error).__name__
    shown = isinstance(error, _SHOWN) or name in _SHOWN_NAMES
    return {"error": name, "message": str(error) if shown else "An internal error occurred"}


_CONVERSIONS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    (BaseModel, lambda value: value.model_dump()),
    (type, lambda _: None),
    ((set, frozenset, deque), list),
    (BaseException, _error),
    (Send, lambda value: {"node": value.node, "args": value.arg}),
    ((bytes, bytearray), lambda value: b64encode(value).decode()),
    (timedelta, timedelta.total_seconds),
    (Decimal, float),
    ((PurePath, tzinfo), str),
    (re.Pattern, lambda value: value.pattern),
    ((IPv4Address, IPv4Interface, IPv4Network), str),
    ((IPv6Address, IPv6Interface, IPv6Network), str),
    (Mapping, dict),
)


def _default(value: Any) -> Any:
    if type(value) in PLAIN_MESSAGES and not value.__pydantic_extra__:
        return value.__dict__
    for types, convert in _CONVERSIONS:
        if isinstance(value, types):
            return convert(value)
    for name in ("model_dump", "dict", "_asdict"):
        if callable(method := getattr(value, name, None)):
            return method()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return list(value) if isinstance(value, tuple) else None


def _cleaned(value: Any, path: tuple[int, ...]) -> Any:
    """The value rebuilt from what orjson takes: the slow way, for what it refused as a whole."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, int) and not _INT_BOUNDS[0] <= value <= _INT_BOUNDS[1]:
        return orjson.Fragment(str(value))
    if value is None or isinstance(value, int | float):
        return value
    if id(value) in path or len(path) >= _MAX_DEPTH:
        return None
    path = (*path, id(value))
    if isinstance(value, dict):
        return {_key(key): _cleaned(item, path) for key, item in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return [_cleaned(item, path) for item in value]
    return _cleaned_object(value, path)


def _cleaned_object(value: Any, path: tuple[int, ...]) -> Any:
    converted: list[Any] = []
    try:
        # Through orjson, which makes a TypeError of whatever a graph's own conversion raises.
        encoded = orjson.dumps(
            value,
            lambda odd: converted.append(_default(odd)),
            _OPTIONS | orjson.OPT_PASSTHROUGH_DATACLASS,
        )
    except TypeError:
        return None
    return _cleaned(converted[0], path) if converted else orjson.Fragment(encoded)


def _key(key: Any) -> str:
    if isinstance(key, Enum):
        return _key(key.value)
    try:
        return str(*orjson.loads(orjson.dumps({key: None}, None, _OPTIONS)))
    except TypeError:
        return str(key).encode(errors="replace").decode()
