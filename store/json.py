"""JSON as PostgreSQL keeps it."""

import re
from typing import Any

import orjson

from store.errors import InvalidInputError

# A NUL written as JSON, unless its backslash is itself escaped: `\\u0000` is a user's own text.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def dump_json(value: Any, *, sort_keys: bool = False) -> bytes:
    """
    JSON for a ``jsonb`` column.

    Args:
        sort_keys: Whether equal objects are equal texts.

    Raises:
        InvalidInputError: The value has something that JSON or PostgreSQL cannot hold.
    """
    option = orjson.OPT_NON_STR_KEYS | (orjson.OPT_SORT_KEYS if sort_keys else 0)
    try:
        text = orjson.dumps(value, option=option)
    except TypeError as exc:
        raise InvalidInputError(f"Not a JSON value: {exc}") from exc
    return without_nul(text)


def without_nul(text: bytes) -> bytes:
    """JSON text with U+FFFD for NUL, which jsonb has no place for; the reference does the same."""
    return _NUL.sub(rb"\1\\ufffd", text) if b"\\u0000" in text else text
